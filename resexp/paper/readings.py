"""Where the paper leaves open how it was done, and how resexp reads it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass

from resexp.config import ImageNetData, RunConfig
from resexp.paper.recipe import maybe_warmed_up, sharing


@dataclass(frozen=True)
class Reading:
    """One thing that the paper does not settle."""

    topic: str
    paper: str
    """What it says, and what it does not."""
    source: str
    ours: str
    """What the run did."""


def _split(run: RunConfig) -> str | None:
    if isinstance(run.data, ImageNetData):
        return None
    if run.data.split == "holdout":
        return "90 % of the training images (45k of CIFAR-10); the others are held out (data.split: holdout)"
    return "all training images (50k of CIFAR-10; data.split: full)"


def _running(run: RunConfig) -> str:
    late = "the steps after the last drop of the rate" if run.train.milestones else "the last quarter of the steps"
    if run.train.schedule == "plateau":
        late = "the steps after the last drop of the rate (without one, over the last quarter)"
    return f"both are recorded; figures and verdict take the running error, its mean over {late}"


def _decay(run: RunConfig) -> str | None:
    return "all parameters, BN's and the bias among them" if run.train.weight_decay else None


def _warmup(run: RunConfig) -> str | None:
    if not maybe_warmed_up(run):
        return None
    return f"one, at a rate of {run.train.warmup_lr} (train.warmup_lr)" if run.train.warmup_lr else "none"


def _end_of_warmup(run: RunConfig) -> str | None:
    if run.train.warmup_lr is None:
        return None
    threshold = f"{run.train.warmup_until_error:.0%}"
    return f"a moving average of the batches' error, over about the last 100 steps, is under {threshold}"


def _crops(run: RunConfig) -> str | None:
    if isinstance(run.data, ImageNetData) or not run.data.pad:
        return None
    return "zeros are padded after the mean is subtracted, so the border is the mean image"


def _plateau(run: RunConfig) -> str | None:
    train = run.train
    if train.schedule != "plateau":
        return None
    error = "validation error of centre crops" if isinstance(run.data, ImageNetData) else "validation error"
    return (
        f"the {error}, every {train.eval_every:,} steps; a plateau is {train.patience} evaluations without a new "
        "least one (train.patience)"
    )


def _drops(run: RunConfig) -> str | None:
    if run.train.schedule != "plateau":
        return None
    return f"at most {run.train.max_lr_drops} (train.max_lr_drops)"


def _mean(run: RunConfig) -> str | None:
    if not isinstance(run.data, ImageNetData) or run.data.mean != "pixel":
        return None
    crop = run.data.crop
    return f"{crop}x{crop}, of the training images' centre crops: the same at each place of a crop"


def _colour(run: RunConfig) -> str | None:
    if not isinstance(run.data, ImageNetData) or not run.data.pca_lighting:
        return None
    return "the eigenvalues, of pixels in [0, 1], times normal numbers of standard deviation 0.1"


def _centre(run: RunConfig) -> str | None:
    return f"{run.data.val_resize} (data.val_resize)" if isinstance(run.data, ImageNetData) else None


def _bn_in_tests(run: RunConfig) -> str | None:
    if run.model.norm != "batch":
        return None
    if not run.train.precise_bn_images:
        return "moving averages kept while training"
    return f"computed anew over {run.train.precise_bn_images:,} images (train.precise_bn_images)"


_Question = tuple[str, str, str, Callable[[RunConfig], str | None]]
"""Topic, what the paper says, where, and what a run did: None where the question does not come up."""

_CIFAR10: tuple[_Question, ...] = (
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
        "warm-up",
        "ResNet-110 had one; the paper does not say whether this net had one too",
        "section 4.2, n = 18",
        _warmup,
    ),
    (
        "end of the warm-up",
        "until the training error is under 80 %, about 400 iterations; over what it is measured is not said",
        "section 4.2, n = 18",
        _end_of_warmup,
    ),
    (
        "crops",
        "4 pixels are padded; with what, and before or after the mean, is not said",
        "section 4.2, training",
        _crops,
    ),
)
_IMAGENET: tuple[_Question, ...] = (
    (
        "training error",
        "whether Fig. 4 has the running error of the batches or that of a separate pass is not said",
        "section 4.1, Fig. 4",
        _running,
    ),
    ("plateau of the error", "of which error, and how long one is, is not said", "section 3.4", _plateau),
    ("drops of the rate", "divided by 10 at plateaus; at how many is not said", "section 3.4", _drops),
    ("weight decay", "1e-4; on which parameters is not said", "section 3.4", _decay),
    (
        "mean subtracted",
        "per pixel; of which crops of images of different size is not said",
        "section 3.4, reference 21",
        _mean,
    ),
    (
        "colour augmentation",
        "as AlexNet's, by the eigenvalues of RGB's covariance; in what units pixels are is not said",
        "section 3.4, reference 21",
        _colour,
    ),
    (
        "shorter side before the centre crop",
        "centre crops are validated on; of images of which size is not said",
        "section 4.1, Fig. 4",
        _centre,
    ),
)
_OF_BOTH: tuple[_Question, ...] = (
    (
        "BN statistics in a test",
        "not said; those of the authors' released models were computed anew after training",
        "the authors' released models",
        _bn_in_tests,
    ),
    (
        "initial weights",
        "He's (reference 13); fan-in or fan-out, and those of the last layer, are not said",
        "section 3.4",
        lambda run: "normal, standard deviation sqrt(2 / fan-in), the last layer too; its bias zero",
    ),
)


def _ten_crop(run: RunConfig) -> str | None:
    if not isinstance(run.data, ImageNetData):
        return None
    side = run.data.val_resize
    return f"the corners and the centre of the central square of {side}x{side} (data.val_resize)"


def _scales(run: RunConfig) -> str:
    stretched = isinstance(run.data, ImageNetData) and run.data.mean == "pixel"
    mean = "; the mean of each pixel is stretched to its size" if stretched else ""
    return f"the whole image, its longer side in proportion, without flips{mean}"


_VIEWS: dict[str, _Question] = {
    "ten-crop": (
        "ten crops",
        "the standard test, after AlexNet's; of the whole image or of its central square is not said",
        "section 3.4, reference 21",
        _ten_crop,
    ),
    "multi-scale": (
        "several scales",
        "images resized to several shorter sides; whole or square, and whether flipped too, is not said",
        "section 3.4",
        _scales,
    ),
}
"""By the names of the probes that test on several views."""


def _statistics(run: RunConfig, world: int) -> str:
    batch, shared = run.train.batch_size, sharing(run, world)
    if shared == batch:
        together = f", which {world} processes share (train.sync_bn)" if world > 1 else ""
        return f"over all {batch} images of a batch{together}"
    if run.train.sync_bn or shared == run.train.microbatch:
        together = f" of {world} processes together" if run.train.sync_bn else ""
        return f"over the {shared} images that go through the net{together} at a time (train.microbatch)"
    apart = f"over the {shared} images of each of {world} processes"
    return f"{apart}; the moving averages are those of the first"


def readings(
    config: RunConfig, precision: str, worlds: Collection[int] = (1,), probes: Collection[str] = ()
) -> list[Reading]:
    """How a run reads what the paper leaves open, as far as it comes up; `precision` is what the run computed in,
    `worlds` are the numbers of processes that trained it together, one after the other, and `probes` names those that
    were taken of it."""
    imagenet = config.model.variant == "imagenet"
    training = "section 3.4" if imagenet else "section 4.2, training"
    questions = [*(_IMAGENET if imagenet else _CIFAR10), *_OF_BOTH]
    questions += [question for name, question in _VIEWS.items() if name in probes]
    found = [(topic, paper, source, ours(config)) for topic, paper, source, ours in questions]
    if config.model.norm == "batch":
        says = (
            "batches of 256; on how many GPUs, and so over how many images on each, is not said"
            if imagenet
            else "batches of 128 on two GPUs; whether over 64 images on each or over all 128 is not said"
        )
        ours = ", and ".join(dict.fromkeys(_statistics(config, world) for world in sorted(worlds)))
        found.append(("BN statistics in training", says, training, ours))
    if precision != "fp32":
        found.append(("precision", "not said; the Caffe of its time computes in fp32", training, precision))
    return [Reading(topic, paper, source, ours) for topic, paper, source, ours in found if ours is not None]
