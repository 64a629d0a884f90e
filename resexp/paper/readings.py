"""Where the paper leaves open how it was done, and how resexp reads it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from resexp.config import RunConfig


@dataclass(frozen=True)
class Reading:
    """One thing that the paper does not settle."""

    topic: str
    paper: str
    """What it says, and what it does not."""
    source: str
    ours: str
    """What the run did."""


def _split(run: RunConfig) -> str:
    if run.data.split == "holdout":
        return "90 % of the training images (45k of CIFAR-10); the others are held out (data.split: holdout)"
    return "all training images (50k of CIFAR-10; data.split: full)"


def _running(run: RunConfig) -> str:
    late = "the steps after the last drop of the rate" if run.train.milestones else "the last quarter of the steps"
    return f"both are recorded; figures and verdict take the running error, its mean over {late}"


def _decay(run: RunConfig) -> str | None:
    return "all parameters, BN's and the bias among them" if run.train.weight_decay else None


def _warmup(run: RunConfig) -> str | None:
    if run.train.warmup_lr is None:
        return None
    return (
        f"a moving average of the batches' error, over about the last 100 steps, is under {run.train.warmup_until:.0%}"
    )


def _crops(run: RunConfig) -> str | None:
    return "zeros are padded after the mean is subtracted, so the border is the mean image" if run.data.pad else None


# topic, what the paper says, where, and what a run did: None where the question does not come up.
_OPEN: tuple[tuple[str, str, str, Callable[[RunConfig], str | None]], ...] = (
    (
        "images trained on",
        "the schedule was found on a 45k/5k split; whether the nets shown saw 45k or 50k images is not said",
        "section 4.2, training",
        _split,
    ),
    (
        "training error",
        "whether it is the running error of the batches or that of a separate pass is not said",
        "section 4.2, Fig. 6",
        _running,
    ),
    ("weight decay", "1e-4; on which parameters is not said", "section 4.2, training", _decay),
    (
        "end of the warm-up",
        "until the training error is under 80 %, about 400 iterations; over what it is measured is not said",
        "section 4.2, n = 18",
        _warmup,
    ),
    (
        "BN statistics in a test",
        "not said; those of the authors' released models were computed anew after training",
        "the authors' released models",
        lambda run: (
            f"computed anew over {run.train.bn_images:,} images (train.bn_images)"
            if run.train.bn_images
            else "moving averages kept while training"
        ),
    ),
    (
        "initial weights",
        "He's (reference 13); fan-in or fan-out, and those of the last layer, are not said",
        "section 4.2, training",
        lambda run: "normal, standard deviation sqrt(2 / fan-in), the last layer too; its bias zero",
    ),
    (
        "crops",
        "4 pixels are padded; with what, and before or after the mean, is not said",
        "section 4.2, training",
        _crops,
    ),
)


def _statistics(run: RunConfig, world: int) -> str:
    batch = run.train.batch_size
    if world == 1:
        return f"over all {batch} images of a batch"
    if run.train.sync_bn:
        return f"over all {batch} images of a batch, which {world} processes share (train.sync_bn)"
    return f"over the {batch // world} images of each of {world} processes; the moving averages are those of the first"


def readings(config: RunConfig, precision: str, worlds: Collection[int] = (1,)) -> list[Reading]:
    """How a run reads what the paper leaves open, as far as it comes up; `precision` is what the run computed in,
    `worlds` are the numbers of processes that trained it together, one after the other."""
    found = [(topic, paper, source, ours(config)) for topic, paper, source, ours in _OPEN]
    found.append(
        (
            "BN statistics in training",
            "batches of 128 on two GPUs; whether over 64 images on each or over all 128 is not said",
            "section 4.2, training",
            ", and ".join(_statistics(config, world) for world in sorted(worlds)),
        )
    )
    if precision != "fp32":
        found.append(
            ("precision", "not said; the Caffe of its time computes in fp32", "section 4.2, training", precision)
        )
    return [Reading(topic, paper, source, ours) for topic, paper, source, ours in found if ours is not None]
