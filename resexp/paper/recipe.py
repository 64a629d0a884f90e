"""The paper's data, nets and recipes, for CIFAR-10 and for ImageNet, and where a run departs from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from resexp.config import ImageNetData, RunConfig, ShapesData


@dataclass(frozen=True)
class Departure:
    """One thing that a run does otherwise than the paper."""

    what: str
    key: str
    """The key of the study file that sets it."""
    paper: str
    ours: str
    source: str
    """Where in the paper it stands."""

    def __str__(self) -> str:
        return f"{self.what} {self.ours} instead of {self.paper}"


Value = str | int | float | bool | tuple[int, ...] | None

_IMAGES, _NET, _TRAINING = "section 4.2", "section 4.2, the table of nets", "section 4.2, training"
_TABLE1, _RECIPE = "section 4.1, Table 1", "section 3.4"


@dataclass(frozen=True)
class _Entry:
    """A line of the recipe: what a run has under `key`, and what it would have in the paper."""

    what: str
    key: str
    paper: Value | Callable[[RunConfig], Value]
    source: str
    ours: Callable[[RunConfig], Value] | None = None
    """The run's value where the key alone does not say it."""


def _image_size(config: RunConfig) -> int:
    """Pixels a side; files in a folder are taken to have the paper's unless they are resized."""
    data = config.data
    if isinstance(data, ImageNetData):
        return data.crop
    return data.resize or (data.size if isinstance(data, ShapesData) else 32)


def _prepared(config: RunConfig) -> Value:
    """How a copy of ImageNet that the images are read from was made; None for the images themselves."""
    cache = config.data.cache if isinstance(config.data, ImageNetData) else None
    return f"{cache.format} with a shorter side of {cache.side}" if cache else None


def _of_vgg(says: str) -> Callable[[RunConfig], Value]:
    """What can be said of VGG alone, whose numbers in the paper are those that its authors trained it to."""
    return lambda config: says if config.model.kind == "vgg" else None


def _shortcut(config: RunConfig) -> Value:
    """Option A; bottlenecks change dimensions in their first block, which takes a projection (arXiv 1603.05027).

    ImageNet's net of 34 layers has its numbers with each of the options (Table 3).
    """
    model = config.model
    if model.kind in ("plain", "vgg"):
        return None
    if (model.variant, model.depth) == ("imagenet", 34):
        return model.shortcut
    return "A" if model.block == "basic" else "B"


def _stride(config: RunConfig) -> Value:
    """Bottlenecks halve in their first convolution."""
    return "1x1" if config.model.block == "bottleneck" else None


def _milestones(config: RunConfig) -> Value:
    """A schedule of plateaus has none, which needs no line of its own."""
    return (32_000, 48_000) if config.train.schedule == "milestones" else ()


def _has_warmup(config: RunConfig) -> bool:
    """The original ResNet-110; in arXiv 1603.05027 all nets, which are pre-activated or of bottlenecks."""
    model = config.model
    return (model.kind, model.depth) == ("residual", 110) or (
        model.kind == "preact" or (model.kind == "residual" and model.block == "bottleneck")
    )


def _of_both(source: str) -> tuple[_Entry, ...]:
    """What CIFAR-10's nets and ImageNet's have in common, with the section that says so."""
    return (
        _Entry("start of a branch", "model.residual_init", "standard", source),
        _Entry("dropped paths", "model.drop_path", 0.0, source),
        _Entry("start", "train.init_from", None, source),
        _Entry("learning rate", "train.lr", 0.1, source),
        _Entry("gamma", "train.gamma", 0.1, source),
        _Entry("momentum", "train.momentum", 0.9, source),
        _Entry("weight decay", "train.weight_decay", 1e-4, source),
    )


CIFAR10_RECIPE = (
    _Entry("image size", "data.resize", 32, _IMAGES, _image_size),
    _Entry("crop padding", "data.pad", 4, "section 4.2, augmentation"),
    _Entry("flips", "data.flip", True, "section 4.2, augmentation"),
    _Entry("width", "model.width", 16, _NET),
    _Entry("norm", "model.norm", "batch", _RECIPE),
    _Entry("stride of a bottleneck", "model.stride_conv", _stride, _NET),
    _Entry("shortcut", "model.shortcut", _shortcut, "section 4.2, nets"),
    *_of_both(_TRAINING),
    _Entry("steps", "train.steps", 64_000, _TRAINING),
    _Entry("batch size", "train.batch_size", 128, _TRAINING),
    _Entry("schedule", "train.schedule", "milestones", _TRAINING),
    _Entry("milestones", "train.milestones", _milestones, _TRAINING),
    _Entry("warm-up rate", "train.warmup_lr", lambda run: 0.01 if _has_warmup(run) else None, "section 4.2, n = 18"),
    _Entry(
        "end of the warm-up",
        "train.warmup_until_error",
        0.8,
        "section 4.2, n = 18",
        lambda run: 0.8 if run.train.warmup_lr is None else run.train.warmup_until_error,
    ),
)
"""The recipe of section 4.2. The split is not in it: whether the paper trained on 45k or 50k images is ambiguous."""

IMAGENET_RECIPE = (
    _Entry("crop", "data.crop", 224, _RECIPE),
    _Entry("shorter side", "data.resize_range", (256, 480), _RECIPE),
    _Entry("flips", "data.flip", True, _RECIPE),
    _Entry("colour augmentation", "data.pca_lighting", True, _RECIPE),
    _Entry("mean", "data.mean", "pixel", _RECIPE),
    _Entry("prepared images", "data.cache", None, _RECIPE, _prepared),
    _Entry("recipe", "model.kind", _of_vgg("its authors'"), "section 4.1, Table 3", _of_vgg("the residual nets'")),
    _Entry("width", "model.width", 64, _TABLE1),
    _Entry("norm", "model.norm", lambda run: "none" if run.model.kind == "vgg" else "batch", _RECIPE),
    _Entry("stride of a bottleneck", "model.stride_conv", _stride, _TABLE1),
    _Entry("shortcut", "model.shortcut", _shortcut, "section 4.1, Tables 2 and 3"),
    *_of_both(_RECIPE),
    _Entry("steps", "train.steps", 600_000, _RECIPE),
    _Entry("batch size", "train.batch_size", 256, _RECIPE),
    _Entry("schedule", "train.schedule", "plateau", _RECIPE),
    _Entry("warm-up rate", "train.warmup_lr", None, _RECIPE),
)
"""The recipe of sections 3.4 and 4.1. Not in it, for the paper does not say them: how many images share BN's
statistics, and which error at a plateau, how often."""


def sharing(config: RunConfig, world: int) -> int:
    """How many images share BN's statistics in training, on `world` processes."""
    train = config.train
    here = train.batch_size // world
    return min(train.microbatch or here, here) * (world if train.sync_bn else 1)


def departures(config: RunConfig, dataset: str, world: int = 1) -> list[Departure]:
    """Where a run departs from the paper's data, nets and recipe; empty: it may be set beside the paper's numbers.

    What the net is decides which of the paper's recipes it is held against. `dataset` is what the images are, whatever
    they were read from; `world` is how many processes trained it together.
    """
    imagenet = config.model.variant == "imagenet"
    found = []
    if not imagenet and config.model.norm == "batch" and sharing(config, world) < min(64, config.train.batch_size):
        parts = f"{sharing(config, world)} of {config.train.batch_size}"
        key = "train.microbatch" if config.train.microbatch else "train.sync_bn"
        found.append(Departure("images that share BN's statistics", key, "128, or 64 on each GPU", parts, _TRAINING))
    images = "imagenet" if imagenet else "cifar10"
    if dataset != images:
        found.append(Departure("images", "data.source", images, dataset, "section 4.1" if imagenet else _IMAGES))
    for entry in IMAGENET_RECIPE if imagenet else CIFAR10_RECIPE:
        section, _, name = entry.key.partition(".")
        values = getattr(config, section)
        if not (entry.ours or hasattr(values, name)):
            continue  # other images have other keys: that they are others is said above
        ours = entry.ours(config) if entry.ours else getattr(values, name)
        theirs = entry.paper(config) if callable(entry.paper) else entry.paper
        if ours != theirs:
            found.append(Departure(entry.what, entry.key, _shown(theirs), _shown(ours), entry.source))
    return found


def _shown(value: Value) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "on", False: "off", None: "none"}[value]
    if isinstance(value, tuple):
        return ", ".join(map(_shown, value)) or "none"
    return f"{value:,}" if isinstance(value, int) else f"{value}"
