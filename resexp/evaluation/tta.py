"""Tests of a net on several views of each image: ten crops, or several scales.

Probabilities are averaged over the views, after the softmax, as in the ten-crop test (Krizhevsky et al. 2012, section
4.1) and over scales (Simonyan and Zisserman 2014, section 4.2; adopted by He et al. 2015, section 3.4). A larger view
needs no fully convolutional form: the last layer is linear, so pooling features equals averaging logits over places.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from resexp.config import ImageNetData, ModelConfig, RunConfig
from resexp.config.study import load_run
from resexp.data import Dataset, ImageNet, open_dataset
from resexp.data.imagenet.streaming import StreamingInput
from resexp.data.input import InputPipeline, open_input
from resexp.data.loader import normalise
from resexp.device.concurrent import Task, run_to_completion
from resexp.device.hardware import choose_hardware, restoring_threads, tune_process
from resexp.errors import UserError
from resexp.evaluation.evaluator import EVAL_BATCH
from resexp.models import build_model
from resexp.runs import checkpoint
from resexp.runs.logits import Logits
from resexp.runs.store import Run

MIN_CROP = 4
"""Smallest side of a crop, pixels."""
STRIDE = 4
"""The sides of a rescaled image are multiples of this, as those of the data. A net that halves an odd side sees zeros
at a border where it saw none in training."""
MAX_ASPECT = 8
"""Largest ratio of the longer to the shorter side of a view."""


def rescaled(images: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) -> the same images with a shorter side of `side` pixels, bilinear and antialiased.

    The longer side keeps the proportion, to the nearest multiple of STRIDE. A side over MAX_ASPECT times as long is
    squeezed to that; it would take all memory.
    """
    height, width = images.shape[2:]
    longer = round(min(max(height, width) / min(height, width), MAX_ASPECT) * side / STRIDE) * STRIDE
    size = [side, longer] if height <= width else [longer, side]
    return F.interpolate(images, size, mode="bilinear", antialias=True)


@dataclass(frozen=True)
class SingleView:
    """The image as it is."""

    name: ClassVar[str] = "single-view"

    def check(self, height: int, width: int) -> None:
        """Any image of the data will do."""

    def views(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one view of this shape."""
        return [images]


@dataclass(frozen=True)
class TenCrop:
    """The four corners and the centre of `crop` pixels a side, and their flips (Krizhevsky et al. 2012).

    The image is first padded with `pad` zeros on each side, as for the random crops of training: crops of small images
    are then as large as the training images, with objects of the same size.
    """

    crop: int = 224
    pad: int = 0
    name: ClassVar[str] = "ten-crop"

    @property
    def smallest(self) -> int:
        """Pixels a side of the smallest view."""
        return self.crop

    def check(self, height: int, width: int) -> None:
        """Raise UserError unless images of `height` x `width` pixels have such crops."""
        side = min(height, width)
        if not MIN_CROP <= self.crop <= side + 2 * self.pad:
            raise UserError(
                f"ten-crop: a crop of {self.crop} pixels from images of {width}x{height}; name {MIN_CROP} to {side}, "
                f"such as {_seven_eighths(side)} (the paper's 224 of 256 is 7/8)"
            )

    def views(self, images: Tensor) -> Iterable[Tensor]:
        """(B, 3, H, W) -> ten views (B, 3, crop, crop)."""
        from torchvision.transforms.functional import five_crop  # slow to import

        crops: tuple[Tensor, ...] = five_crop(F.pad(images, [self.pad] * 4), self.crop)
        return [*crops, *(crop.flip(-1) for crop in crops)]


@dataclass(frozen=True)
class MultiScale:
    """The whole image with each of these shorter sides (He et al. 2015, section 3.4); it names no flips."""

    sides: tuple[int, ...] = (224, 256, 384, 480, 640)
    name: ClassVar[str] = "multi-scale"

    @property
    def smallest(self) -> int:
        """Pixels a side of the smallest view."""
        return min(self.sides)

    def check(self, height: int, width: int) -> None:
        """Raise UserError unless each side is one that the nets can take, and there are any."""
        wrong = [side for side in self.sides if side < STRIDE or side % STRIDE]
        if wrong or len(set(self.sides)) != len(self.sides) or not self.sides:
            raise UserError(
                f"multi-scale: sides {', '.join(map(str, self.sides)) or 'none'}; "
                f"name different multiples of {STRIDE}, such as {max(STRIDE, min(height, width) // STRIDE * STRIDE)}"
            )

    def views(self, images: Tensor) -> Iterable[Tensor]:
        """(B, 3, H, W) -> one view a side."""
        return (rescaled(images, side) for side in self.sides)


Mode = SingleView | TenCrop | MultiScale


def usual(config: RunConfig, name: str, size: tuple[int, int]) -> Mode:
    """The mode of this name with the paper's sides on ImageNet, else with sides that suit images of this `size`.

    Nets that are trained on padded crops get crops of that size from the padded images; without padding, a crop is 7/8
    of the image, as the paper's 224 of 256.
    """
    data = config.data
    if isinstance(data, ImageNetData):
        if name == TenCrop.name:
            return TenCrop(data.crop)
        return MultiScale(tuple(round(side * data.crop / 224 / STRIDE) * STRIDE for side in MultiScale.sides))
    side = min(size)
    if name == MultiScale.name:
        smaller, larger = max(STRIDE, side * 7 // 8 // STRIDE * STRIDE), -(-side * 9 // 8 // STRIDE) * STRIDE
        return MultiScale(tuple(dict.fromkeys((smaller, side, larger))))
    return TenCrop(side, data.pad) if data.pad else TenCrop(_seven_eighths(side))


def check_views(mode: Mode, model: ModelConfig, where: str) -> None:
    """Raise UserError, which begins with `where`, if a view is too small for a net."""
    if not isinstance(mode, SingleView) and mode.smallest < model.smallest_side:
        raise UserError(
            f"{where}: {mode.name} has a view of {mode.smallest} pixels, and the net needs {model.smallest_side}; "
            f"leave it out, or use larger images"
        )


def _seven_eighths(side: int) -> int:
    return max(MIN_CROP, side * 7 // 8)


class Classifier(NamedTuple):
    """A net, the mean that is subtracted from its images, (H, W, 3) on its device, and its precision."""

    model: nn.Module
    mean: Tensor
    autocast: AbstractContextManager[None]


@torch.inference_mode()
def average(
    classifier: Classifier, parts: Iterable[tuple[Tensor, Iterable[Tensor]]], labels: NDArray[np.int64], pixels: int
) -> Task[tuple[Logits, int]]:
    """Test a net on views of all images, which have `labels` (N,).

    `parts` gives indices of images (b,), and their views, float (b, 3, H, W) less the mean, on the model's device. No
    more than `pixels` go through the net at a time, or one image. Returns the mean probabilities over the views,
    float64, in place of logits, and the number of views.
    """
    model, _, autocast = classifier
    model.eval()
    probabilities, number = torch.zeros(0), 0
    for images, views in parts:
        of_views = []
        for view in views:
            few = torch.split(view, max(1, pixels // view[0, 0].numel()))
            with autocast, torch.compiler.set_stance("force_eager"):  # compiling for every size would not pay
                logits = torch.cat([model(part).float() for part in few])
            # float64: in float32 nearly equal logits could become a tie, and a single view would have another error.
            of_views.append(logits.cpu().double().softmax(1))
        number = len(of_views)
        if not len(probabilities):
            probabilities = of_views[0].new_zeros((len(labels), of_views[0].shape[1]))
        probabilities[images] = torch.stack(of_views).mean(0)
        yield 0
    return Logits(probabilities.numpy(), labels, ""), number


def resident(
    classifier: Classifier, images: Tensor, labels: NDArray[np.int64], mode: Mode, batch: int
) -> Task[tuple[Logits, int]]:
    """Test a net on the views of uint8 images (N, H, W, 3) with labels (N,), `batch` images at a time.

    Of larger views fewer go through the net at a time, so that they need no more memory. Raises UserError for a mode
    that the images' size does not allow.
    """
    height, width = images.shape[1:3]
    mode.check(height, width)
    mean, parts = classifier.mean, torch.split(torch.arange(len(images)), batch)
    views = ((part, mode.views(normalise(images[part].to(mean.device), mean))) for part in parts)
    return average(classifier, views, labels, batch * height * width)


def streamed(
    classifier: Classifier, pipeline: StreamingInput, labels: NDArray[np.int64], mode: Mode, batch: int
) -> Task[tuple[Logits, int]]:
    """`resident` for the validation images of ImageNet: crops of the centre square of `data.val_resize` pixels, or
    whole images in their own shape.

    From a view of another size than the crop that was trained on, the mean is subtracted in the view's size.
    """
    mean, crop = classifier.mean, len(classifier.mean)
    mode.check(pipeline.val_resize, pipeline.val_resize)
    index = pipeline.eval_index("test")
    chunks = np.array_split(index, -(-len(index) // batch))
    parts: Iterable[tuple[NDArray[np.int64], Tensor]]
    if isinstance(mode, MultiScale):
        parts = pipeline.whole(chunks)
    else:
        squares = pipeline.eval_batches("test", chunks, crop if isinstance(mode, SingleView) else pipeline.val_resize)
        parts = ((chunk, images) for chunk, (images, _) in zip(chunks, squares, strict=True))

    def views() -> Iterator[tuple[Tensor, Iterable[Tensor]]]:
        for chunk, images in parts:
            floats = (images.to(mean.device).float() / 255).permute(0, 3, 1, 2)
            yield torch.from_numpy(chunk), (_less_mean(view, mean) for view in mode.views(floats))

    return average(classifier, views(), labels, batch * crop * crop)


def _less_mean(view: Tensor, mean: Tensor) -> Tensor:
    """A view (B, 3, H, W) without the mean (crop, crop, 3), stretched to its size."""
    mean = mean.permute(2, 0, 1)[None]
    if mean.shape[2:] != view.shape[2:]:
        mean = F.interpolate(mean, view.shape[2:], mode="bilinear", antialias=True)
    return view - mean


def errors_on_views(run: Run, mode: Mode) -> dict[str, Any]:
    """Test the final weights of a finished run on the views of the test images, in the run's device and precision.

    Returns the mode with its settings, the number of views, and the errors, fractions in [0, 1]: with the views, and
    with a single view in the same way. Slow work is logged. Raises UserError if the run is not finished, its
    weights or its data are not there any more, or the images do not allow the mode.
    """
    config = load_run(run.config_path)
    run.check_finished("is tested")
    dataset = open_dataset(config.data)
    manifest = run.check_data(dataset.fingerprint)
    if manifest is None:
        raise UserError(f"{run.manifest_path}: missing; restore it, or delete the run and train it again")
    check_views(mode, config.model, f"{run.folder}")
    last = manifest.attempts[-1]
    tune_process()
    hardware = choose_hardware(config.train, last.precision)
    model = build_model(config.model, len(dataset.classes)).to(memory_format=torch.channels_last)
    checkpoint.load_into(model, checkpoint.last_weights(run)[1], run.folder)
    model.to(hardware.device)
    autocast = torch.autocast(hardware.device.type, hardware.dtype, enabled=hardware.precision != "fp32")
    with restoring_threads(last.threads), contextlib.closing(open_input(config, dataset, hardware)) as pipeline:
        return run_to_completion(compare(config, dataset, pipeline, Classifier(model, pipeline.mean, autocast), mode))


def compare(
    config: RunConfig, dataset: Dataset | ImageNet, pipeline: InputPipeline, classifier: Classifier, mode: Mode
) -> Task[dict[str, Any]]:
    """What `errors_on_views` returns, piece by piece."""
    labels = dataset.test_labels
    batch = min(EVAL_BATCH, 4 * (config.train.microbatch or config.train.batch_size))
    found = []
    for which in (SingleView(), mode):
        if isinstance(pipeline, StreamingInput):
            found.append((yield from streamed(classifier, pipeline, labels, which, batch)))
        else:
            assert isinstance(dataset, Dataset)
            images = torch.from_numpy(dataset.test()[0])
            found.append((yield from resident(classifier, images, labels, which, batch)))
    (single, _), (several, views) = found
    errors = {"test_error": several.error, "test_top5_error": several.top5_error}
    errors |= {"single_view_test_error": single.error, "single_view_test_top5_error": single.top5_error}
    known = {name: error for name, error in errors.items() if error is not None}
    return {"mode": mode.name, **asdict(mode), "views": views, **known}
