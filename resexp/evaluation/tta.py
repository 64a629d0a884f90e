"""Tests of a net on several views of each image; see `views`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import asdict
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from resexp.config import RunConfig
from resexp.config.study import load_run
from resexp.data import Dataset, ImageNet, open_dataset
from resexp.data.imagenet.streaming import StreamingInput
from resexp.data.input import InputPipeline, open_input
from resexp.data.loader import normalise
from resexp.device.concurrent import Task, run_to_completion
from resexp.device.hardware import choose, tune_process
from resexp.errors import UserError
from resexp.evaluation.evaluator import EVAL_BATCH, rank_of
from resexp.evaluation.views import Mode, MultiScale, SingleView
from resexp.models import build_model
from resexp.runs import checkpoint
from resexp.runs.logits import FEW_CLASSES
from resexp.runs.store import Run


class Viewed(NamedTuple):
    """What a test on views found; errors are shares of the images, in [0, 1]."""

    error: float
    top5_error: float | None
    """None where there are few classes."""
    probabilities: Tensor
    """float64 (N, classes) on the CPU: the mean over the views."""
    views: int
    """Views per image."""


class UnderTest(NamedTuple):
    """A net, the mean that is subtracted from its images, (H, W, 3) on its device, and its precision."""

    model: nn.Module
    mean: Tensor
    autocast: AbstractContextManager[None]


Seen = Iterable[tuple[Tensor, Iterable[Tensor]]]
"""Which images (b,), and views of them, float (b, 3, H, W), the mean subtracted; on the model's device."""


@torch.inference_mode()
def average(subject: UnderTest, seen: Seen, labels: Tensor, pixels: int) -> Task[Viewed]:
    """Test a net on the views of all images, which have `labels` (N,).

    No more than `pixels` go through it at a time, or one image.
    """
    model, _, autocast = subject
    model.eval()
    probabilities, number = torch.zeros(0), 0
    for images, views in seen:
        of_views = []
        for view in views:
            few = torch.split(view, max(1, pixels // view[0, 0].numel()))
            with autocast, torch.compiler.set_stance("force_eager"):  # compiling for every size would not pay
                logits = torch.cat([model(part).float() for part in few])
            # float64, or logits that differ in their last bit could become a tie: one view must count as no view does.
            of_views.append(logits.cpu().double().softmax(1))
        number = len(of_views)
        if not len(probabilities):
            probabilities = of_views[0].new_zeros((len(labels), of_views[0].shape[1]))
        probabilities[images] = torch.stack(of_views).mean(0)
        yield 0
    labels = labels.cpu()
    wrong = int((probabilities.argmax(1) != labels).sum())
    wrong5 = int((rank_of(probabilities, labels) >= 5).sum())
    top5 = wrong5 / len(labels) if probabilities.shape[1] > FEW_CLASSES else None
    return Viewed(wrong / len(labels), top5, probabilities, number)


def resident(subject: UnderTest, images: Tensor, labels: Tensor, mode: Mode, batch: int) -> Task[Viewed]:
    """Test a net on the views of uint8 images (N, H, W, 3) with labels (N,), `batch` images at a time.

    Of larger views fewer go through the net at a time, so that they need no more memory. Raises UserError for a mode
    that the images' size does not allow.
    """
    height, width = images.shape[1:3]
    mode.check(height, width)
    mean, parts = subject.mean, torch.split(torch.arange(len(images)), batch)
    seen = ((part, mode.views(normalise(images[part].to(mean.device), mean))) for part in parts)
    return average(subject, seen, labels, batch * height * width)


def streamed(subject: UnderTest, pipeline: StreamingInput, labels: Tensor, mode: Mode, batch: int) -> Task[Viewed]:
    """`resident` for the validation images of ImageNet: crops of the centre square of `data.val_resize` pixels, or
    whole images in their own shape.

    From a view of another size than the crop that was trained on, the mean is subtracted in the view's size.
    """
    mean, crop = subject.mean, len(subject.mean)
    mode.check(pipeline.val_resize, pipeline.val_resize)
    index = pipeline.eval_index("test")
    chunks = np.array_split(index, -(-len(index) // batch))
    parts: Iterable[tuple[NDArray[np.int64], Tensor]]
    if isinstance(mode, MultiScale):
        parts = pipeline.whole(chunks)
    else:
        squares = pipeline.eval_batches("test", chunks, crop if isinstance(mode, SingleView) else pipeline.val_resize)
        parts = ((chunk, images) for chunk, (images, _) in zip(chunks, squares, strict=True))
    seen = (
        (torch.from_numpy(chunk), (_less_mean(view, mean) for view in mode.views(_in_floats(images, mean))))
        for chunk, images in parts
    )
    return average(subject, seen, labels, batch * crop * crop)


def _in_floats(images: Tensor, like: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in [0, 1]."""
    return (images.to(like.device).float() / 255).permute(0, 3, 1, 2)


def _less_mean(view: Tensor, mean: Tensor) -> Tensor:
    """A view (B, 3, H, W) without the mean (crop, crop, 3), stretched to its size."""
    mean = mean.permute(2, 0, 1)[None]
    if mean.shape[2:] != view.shape[2:]:
        mean = F.interpolate(mean, view.shape[2:], mode="bilinear", antialias=True)
    return view - mean


def evaluate_run(run: Run, mode: Mode) -> dict[str, Any]:
    """Test the final weights of a finished run on the views of the test images, in the run's device and precision.

    Returns the mode with its settings, the number of views, and the errors, fractions in [0, 1]: with the views, and
    with a single view in the same way. Slow work is logged. Raises UserError where the run is not finished, its
    weights or its data are not there any more, or the images do not allow the mode.
    """
    manifest, config = run.manifest(), load_run(run.config_path)
    if (state := run.status().state) != "finished" or manifest is None:
        raise UserError(
            f"{run.folder}: {state}, and only a finished run is tested; finish it with resexp train {run.folder}"
        )
    dataset = open_dataset(config.data)
    if dataset.fingerprint != manifest.data.fingerprint:
        raise UserError(
            f"{run.folder}: trained on other data (fingerprint {manifest.data.fingerprint}, now "
            f"{dataset.fingerprint}); bring the old data back"
        )
    if not isinstance(mode, SingleView) and mode.smallest < config.model.smallest_side:
        raise UserError(f"{run.folder}: a view of {mode.smallest} pixels; its net needs {config.model.smallest_side}")
    last = manifest.attempts[-1]
    tune_process(last.threads)
    hardware = choose(config.train, last.precision)
    model = build_model(config.model, len(dataset.classes)).to(memory_format=torch.channels_last)
    checkpoint.into(model, checkpoint.final_weights(run)[1], run.folder)
    model.to(hardware.device)
    autocast = torch.autocast(hardware.device.type, hardware.dtype, enabled=hardware.precision != "fp32")
    with contextlib.closing(open_input(config, dataset, hardware)) as pipeline:
        return run_to_completion(compare(config, dataset, pipeline, UnderTest(model, pipeline.mean, autocast), mode))


def compare(
    config: RunConfig, dataset: Dataset | ImageNet, pipeline: InputPipeline, subject: UnderTest, mode: Mode
) -> Task[dict[str, Any]]:
    """What `evaluate_run` returns, piece by piece."""
    labels = torch.from_numpy(dataset.test_labels)
    batch = min(EVAL_BATCH, 4 * (config.train.microbatch or config.train.batch_size))
    found = []
    for which in (SingleView(), mode):
        if isinstance(pipeline, StreamingInput):
            found.append((yield from streamed(subject, pipeline, labels, which, batch)))
        else:
            assert isinstance(dataset, Dataset)
            images = torch.from_numpy(dataset.test()[0])
            found.append((yield from resident(subject, images, labels, which, batch)))
    single, several = found
    return {
        "mode": mode.name,
        **asdict(mode),
        "views": several.views,
        **_errors("test", several),
        **_errors("single_view_test", single),
    }


def _errors(what: str, found: Viewed) -> dict[str, float]:
    top5 = {} if found.top5_error is None else {f"{what}_top5_error": found.top5_error}
    return {f"{what}_error": found.error, **top5}
