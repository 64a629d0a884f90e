"""The paper's data, nets and recipe for CIFAR-10, and where a run departs from them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from resexp.config import RunConfig, ShapesData


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
    return config.data.resize or (config.data.size if isinstance(config.data, ShapesData) else 32)


def _shortcut(config: RunConfig) -> Value:
    """Option A; bottlenecks change dimensions in their first block, which takes a projection (arXiv 1603.05027)."""
    if config.model.kind in ("plain", "vgg"):
        return None
    return "A" if config.model.block == "basic" else "B"


def _stride(config: RunConfig) -> Value:
    """Bottlenecks halve in their first convolution."""
    return "1x1" if config.model.block == "bottleneck" else None


def _has_warmup(config: RunConfig) -> bool:
    """The original ResNet-110; in arXiv 1603.05027 all nets, which are pre-activated or of bottlenecks."""
    model = config.model
    return (model.kind, model.depth) == ("residual", 110) or (
        model.kind == "preact" or (model.kind == "residual" and model.block == "bottleneck")
    )


RECIPE = (
    _Entry("image size", "data.resize", 32, _IMAGES, _image_size),
    _Entry("crop padding", "data.pad", 4, "section 4.2, augmentation"),
    _Entry("flips", "data.flip", True, "section 4.2, augmentation"),
    _Entry("layout", "model.layout", "cifar", _NET),
    _Entry("width", "model.width", 16, _NET),
    _Entry("norm", "model.norm", "batch", "section 3.4"),
    _Entry("start of a branch", "model.branch", "standard", _TRAINING),
    _Entry("stride of a bottleneck", "model.stride_in", _stride, _NET),
    _Entry("start", "train.start", None, _TRAINING),
    _Entry("dropped paths", "model.drop_path", 0.0, _TRAINING),
    _Entry("shortcut", "model.shortcut", _shortcut, "section 4.2, nets"),
    _Entry("steps", "train.steps", 64_000, _TRAINING),
    _Entry("batch size", "train.batch_size", 128, _TRAINING),
    _Entry("learning rate", "train.lr", 0.1, _TRAINING),
    _Entry("milestones", "train.milestones", (32_000, 48_000), _TRAINING),
    _Entry("gamma", "train.gamma", 0.1, _TRAINING),
    _Entry("momentum", "train.momentum", 0.9, _TRAINING),
    _Entry("weight decay", "train.weight_decay", 1e-4, _TRAINING),
    _Entry("warm-up rate", "train.warmup_lr", lambda run: 0.01 if _has_warmup(run) else None, "section 4.2, n = 18"),
    _Entry(
        "end of the warm-up",
        "train.warmup_until",
        0.8,
        "section 4.2, n = 18",
        lambda run: 0.8 if run.train.warmup_lr is None else run.train.warmup_until,
    ),
)
"""The recipe of section 4.2. The split is not in it: whether the paper trained on 45k or 50k images is ambiguous."""


def departures(config: RunConfig, dataset: str, world: int = 1) -> list[Departure]:
    """Where a run departs from the paper's data, nets and recipe; empty: it may be set beside the paper's numbers.

    `dataset` is what the images are, whatever they were read from; `world` is how many processes trained it together.
    """
    found = []
    if world > 2 and config.model.norm == "batch" and not config.train.sync_bn:
        parts = f"{config.train.batch_size // world} of {config.train.batch_size}"
        found.append(
            Departure("images that share BN's statistics", "train.sync_bn", "128, or 64 on each GPU", parts, _TRAINING)
        )
    if dataset != "cifar10":
        found.append(Departure("images", "data.source", "cifar10", dataset, _IMAGES))
    for entry in RECIPE:
        section, _, name = entry.key.partition(".")
        ours = entry.ours(config) if entry.ours else getattr(getattr(config, section), name)
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
