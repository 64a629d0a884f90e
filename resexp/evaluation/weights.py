"""The weights of a run or of a file: exported for programs that know nothing of resexp, and tested on images."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError
from torch import Tensor, nn

import resexp
from resexp.config import DataConfig, ImageNetData, ModelConfig, RunConfig, TrainConfig
from resexp.config.model import IMAGENET
from resexp.config.nets import NamedNet, parse_net
from resexp.config.plugins import refs_in
from resexp.config.study import load_run
from resexp.data import Dataset, open_dataset
from resexp.data.input import open_input
from resexp.data.labelled import find_labels, read_labelled
from resexp.data.loader import normalise, pixel_mean
from resexp.data.official import CIFAR10
from resexp.device.hardware import Hardware, choose_device, tune_process
from resexp.errors import UserError
from resexp.evaluation.confusion import Confusion
from resexp.evaluation.evaluator import EVAL_BATCH
from resexp.models import build_model, load_weights
from resexp.models.resnet import to_torchvision
from resexp.runs import weights_file
from resexp.runs.checkpoint import last_weights
from resexp.runs.logits import Logits
from resexp.runs.records import json_text
from resexp.runs.store import Run
from resexp.runs.weights_file import Description
from resexp.utils.logs import log
from resexp.utils.text import few

_MIN_BATCH = 32
"""Smallest number of images per forward pass."""
_DATA: TypeAdapter[DataConfig] = TypeAdapter(DataConfig)

Pairs = Iterator[tuple[NDArray[np.uint8], int]]
"""Images (H, W, 3), each with its label."""


def confusion_of_run(run: Run, data: Path | None) -> Confusion:
    """Test a finished run on the images at `data`, by default on its own test images.

    Raises UserError as `evaluate_weights` does.
    """
    config = load_run(run.config_path)
    step, weights = last_weights(run)
    return _test(weights, config.model, describe(run, config, step), data, config.data, f"{run.folder}")


def evaluate_weights(path: Path, net: str | None, data: Path | None) -> Confusion:
    """Test a file of weights on the images at `data`, by default on the test images of CIFAR-10 or shapes, if it was
    trained on these.

    `net` names its net where the file does not. Raises UserError if the net is unknown or the weights do not fit
    it, if the mean that is subtracted from the images is unknown, or if there are no images of its classes.
    """
    file = weights_file.read(path)
    about = file.description or Description(resexp="", net=net or "")
    if not about.net:
        raise UserError(f"{path}: nothing tells its net; name it with --net, such as --net residual-20-B")
    if net and parse_net(net, []).config != parse_net(about.net, []).config:
        raise UserError(f"{path}: holds {about.net}, not {net}; leave --net out")
    own = None
    if about.data.get("source") in ("cifar10", "shapes"):
        try:
            own = _DATA.validate_json(json_text(about.data))
        except ValidationError:
            raise UserError(f"{path}: its description is damaged (data); export it again") from None
    return _test(file.weights, _net(about), about, data, own, f"{path}")


def _net(about: Description) -> ModelConfig:
    """The net of a file, with the plug-ins that it was trained with: `build_model` refuses others."""
    net = parse_net(about.net, []).config
    refs = refs_in(net).items()
    return net.model_copy(
        update={role: replace(ref, digest=about.plugins.get(ref.name, ref.digest)) for role, ref in refs}
    )


def _test(
    weights: dict[str, Tensor],
    net: ModelConfig,
    about: Description,
    data: Path | None,
    own: DataConfig | None,
    where: str,
) -> Confusion:
    if data and about.mean is not None and about.classes and about.size and not _is_cifar(data):
        classes, mean = about.classes, about.mean_image
        pairs = read_labelled(data, find_labels(data, classes), about.size, about.val_resize)
    else:
        dataset = _opened(about, data, own, where)
        classes = dataset.classes
        if about.classes and about.classes != classes:
            raise UserError(
                f"{where}: its classes are {few(about.classes)}, and those of {data} are {few(classes)}; name images "
                f"of its classes"
            )
        images = torch.from_numpy(dataset.train()[0])
        known = about.mean is not None and about.size == dataset.size
        mean = about.mean_image if known else pixel_mean(images, torch.from_numpy(dataset.train_index)).numpy()
        pairs = zip(*dataset.test(), strict=True)
    tune_process()
    device = choose_device(TrainConfig())
    model = build_model(net, len(classes))
    load_weights(model, weights, where)
    model.to(memory_format=torch.channels_last).to(device).eval()
    return Confusion(_logits(model, torch.from_numpy(mean).to(device), pairs), classes)


def _opened(about: Description, data: Path | None, own: DataConfig | None, where: str) -> Dataset:
    """The set whose test images are asked for, with training images that the mean can be taken of."""
    if about.mean is None and about.data.get("source") in ("imagenet", "imagefolder"):
        raise UserError(
            f"{where}: the mean of its training images is unknown; put the images and their cache back "
            f"where they were, and run the same command again"
        )
    if data:
        source = "cifar10" if _is_cifar(data) else "folder"
        own = _DATA.validate_python({"source": source, "path": f"{data}", "resize": about.data.get("resize")})
    if own is None:
        raise UserError(f"{where}: name the images to test it on with --data FOLDER")
    dataset = open_dataset(own)
    if not isinstance(dataset, Dataset):
        raise UserError(f"{where}: name its validation images with --data {dataset.root}/val")
    return dataset


def _is_cifar(data: Path) -> bool:
    return data.name == CIFAR10.archive.name or any((data / batch).exists() for batch in CIFAR10.batches)


@torch.inference_mode()
def _logits(model: nn.Module, mean: Tensor, pairs: Pairs) -> Logits:
    height, width = mean.shape[:2]
    batch = max(_MIN_BATCH, min(EVAL_BATCH, EVAL_BATCH * 32 * 32 // (height * width)))
    found, labels = [], []
    while some := list(islice(pairs, batch)):
        images = torch.from_numpy(np.stack([image for image, _ in some]))
        found.append(model(normalise(images.to(mean.device), mean)).float().cpu())
        labels += [label for _, label in some]
    return Logits(torch.cat(found).numpy(), np.array(labels), "")


def describe(run: Run, config: RunConfig, step: int) -> Description:
    """The description of a run's weights.

    Where the images that it was trained on are not here, it has no classes, size and mean, and a warning is logged.
    """
    tests = run.test_errors()
    known: dict[str, Any] = {}
    try:
        known = _images(run, config)
    except (UserError, OSError) as error:
        log.warning(f"{run.title}: its mean and classes are unknown, for its images are not here: {error}")
    return Description(
        resexp=resexp.__version__,
        net=NamedNet(config.model, 0, 0).name,
        plugins={ref.name: ref.digest for ref in refs_in(config.model).values()},
        data=config.data.model_dump(mode="json", exclude={"path"}, exclude_defaults=True)
        | {"source": config.data.source},
        signature=config.signature,
        seed=config.seed,
        step=step,
        test_error=tests[-1] if tests else None,
        **known,
    )


def _images(run: Run, config: RunConfig) -> dict[str, Any]:
    dataset = open_dataset(config.data)
    run.check_data(dataset.fingerprint)
    with contextlib.closing(open_input(config, dataset, Hardware(torch.device("cpu"), "fp32"))) as pipeline:
        mean = pipeline.mean.numpy()
    if (mean == mean[0, 0]).all():
        mean = mean[0, 0]
    exact = np.vectorize(lambda value: float(f"{value:.9g}"), otypes=[float])  # nine digits tell float32 apart
    return {
        "classes": dataset.classes,
        "size": dataset.size,
        "mean": exact(mean).tolist(),
        "val_resize": config.data.val_resize if isinstance(config.data, ImageNetData) else None,
    }


def export(run: Run, to: Path, *, torchvision: bool = False) -> str:
    """Write the weights that a finished run was evaluated with: ``.pt`` for torch.load, or ``.safetensors``.

    With them goes a description; see `runs.weights_file`. `torchvision` gives the weights its names. Returns the name
    of the net, torchvision's if so. Raises UserError if the run is not finished or has no checkpoint, torchvision
    has no such net, `to` exists, or its suffix is another.
    """
    weights_file.check_new(to)
    run.check_finished("is exported")
    config = load_run(run.config_path)
    theirs = _torchvisions_name(run, config.model) if torchvision else None
    step, weights = last_weights(run)
    weights = {key: value.contiguous().clone() for key, value in weights.items()}
    description = describe(run, config, step).model_copy(update={"torchvision": theirs})
    weights_file.write(to, for_torchvision(weights) if torchvision else weights, description)
    return theirs or description.net


def for_torchvision(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under torchvision's names, without the state of dropout's random numbers."""
    return {to_torchvision(key): value for key, value in weights.items() if ".draws." not in key}


def _torchvisions_name(run: Run, model: ModelConfig) -> str:
    """Such as ``resnet50``. Raises UserError if torchvision has no net that computes the same."""
    if model.kind == "vgg":
        needed: dict[str, object] = {"width": 64, "norm": "none", "activation": "relu"}
    else:
        block = IMAGENET[model.depth][0] if model.depth in IMAGENET else "basic"
        needed = {"kind": "residual", "variant": "imagenet", "block": block, "width": 64, "shortcut": "B"}
        needed |= {"stride_conv": "3x3"} if block == "bottleneck" else {}
        needed |= {"norm": "batch", "drop_path": 0.0, "activation": "relu", "residual_scale": 1.0}
    odd = [f"model.{key}: {getattr(model, key)}" for key, value in needed.items() if getattr(model, key) != value]
    odd += ["model.residual_init: rezero"] if model.residual_init == "rezero" else []
    if odd:
        raise UserError(f"{run.folder}: torchvision has no net with {', '.join(odd)}; leave --torchvision out")
    return f"{'vgg' if model.kind == 'vgg' else 'resnet'}{model.depth}"
