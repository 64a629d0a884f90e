"""What the paper leaves open, and what a run does there."""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache
from importlib import resources

from resexp.config import Cifar100Data, ImageNetData, RunConfig, SvhnData
from resexp.paper.recipe import maybe_warmed_up, of_identity_mappings, recipe, sharing


@dataclass(frozen=True)
class Reading:
    """One thing that the paper leaves open, or that its framework did otherwise."""

    topic: str
    paper: str
    """What the paper says, and what it does not."""
    source: str
    ours: str
    """What the run does."""


def _split(run: RunConfig) -> str | None:
    if isinstance(run.data, ImageNetData):
        return None
    which, count = ("90 % of the", "45k") if run.data.split == "holdout" else ("all", "50k")
    images = f"{count} of CIFAR-10"
    if isinstance(run.data, Cifar100Data | SvhnData):
        images = f"{run.data.epoch_images:,} of {run.data.source}"
    return f"{which} training images, {images} (data.split: {run.data.split})"


def _held_out(run: RunConfig) -> str | None:
    if isinstance(run.data, ImageNetData) or run.data.split == "full":
        return None
    return f"10 %, drawn with seed {run.data.split_seed}, the same in all runs (data.split_seed)"


def _training_error(run: RunConfig) -> str:
    train, images = run.train, "all training images"
    late = "the steps after the last drop of the rate" if train.milestones else "the last quarter of the steps"
    if train.schedule == "plateau":
        late = "the steps after the last drop of the rate, or the last quarter without a drop"
    if isinstance(run.data, ImageNetData):
        images = f"{run.data.train_eval_images:,} training images (data.train_eval_images)"
    return (
        f"both are recorded; figures and verdict show the running error, its mean over {late}; the separate pass is "
        f"over {images}, every {train.eval_every:,} steps (train.eval_every)"
    )


def _test_error(run: RunConfig) -> str | None:
    if of_identity_mappings(run):
        return None
    best = "; also the weights with the lowest validation error" if _held_out(run) else ""
    return f"of the weights after the last step{best}"


def _runs(run: RunConfig) -> str | None:
    return None if of_identity_mappings(run) else "one for each seed; numbers are means over seeds"


def _momentum(run: RunConfig) -> str | None:
    train = run.train
    changes = train.milestones or train.schedule == "plateau" or train.warmup_lr
    if train.optimizer != "sgd" or not (train.momentum and changes):
        return None
    return (
        f"PyTorch's update: v = {train.momentum} v + g, then w = w - lr v; the same at a constant rate; when the rate "
        f"drops, PyTorch's steps shrink at once, Caffe's over about {1 / (1 - train.momentum):.0f} steps"
    )


def _weight_decay(run: RunConfig) -> str | None:
    if not run.train.weight_decay:
        return None
    return "all, biases too" + (", and BN's scale and shift" if run.model.norm == "batch" else "")


def _warmup(run: RunConfig) -> str | None:
    if not maybe_warmed_up(run):
        return None
    return f"one, at a rate of {run.train.warmup_lr} (train.warmup_lr)" if run.train.warmup_lr else "none"


def _end_of_warmup(run: RunConfig) -> str | None:
    if not run.train.warmup_lr:
        return None
    threshold = f"{run.train.warmup_until_error:.0%}"
    return f"a moving average of the batches' error, over about the last 100 steps, is under {threshold}"


def _plateau(run: RunConfig) -> str | None:
    train = run.train
    if train.schedule != "plateau":
        return None
    error = "validation error of centre crops" if isinstance(run.data, ImageNetData) else "validation error"
    return (
        f"the {error}, every {train.eval_every:,} steps; a plateau is {train.patience} evaluations without a new "
        "minimum (train.patience)"
    )


def _drops(run: RunConfig) -> str | None:
    return f"at most {run.train.max_lr_drops} (train.max_lr_drops)" if run.train.schedule == "plateau" else None


def _crops(run: RunConfig) -> str | None:
    if isinstance(run.data, ImageNetData) or not run.data.pad:
        return None
    return "zeros, after the mean is subtracted, so the border is the mean image"


def _mean(run: RunConfig) -> str | None:
    if not isinstance(run.data, ImageNetData) or run.data.mean != "pixel":
        return None
    crop = run.data.crop
    return f"the mean of the training images' centre crops, {crop}x{crop}, from every crop"


def _colour(run: RunConfig) -> str | None:
    if not isinstance(run.data, ImageNetData) or not run.data.pca_lighting:
        return None
    return "pixels in [0, 1]; the eigenvalues times normal numbers of standard deviation 0.1"


def _centre(run: RunConfig) -> str | None:
    return f"{run.data.val_resize} (data.val_resize)" if isinstance(run.data, ImageNetData) else None


def _statistics(run: RunConfig, worlds: Collection[int]) -> str | None:
    if run.model.norm != "batch":
        return None
    return ", and ".join(dict.fromkeys(_statistics_on(run, world) for world in sorted(worlds)))


def _statistics_on(run: RunConfig, world: int) -> str:
    batch, shared = run.train.batch_size, sharing(run, world)
    if shared == batch:
        together = f", which {world} processes share (train.sync_bn)" if world > 1 else ""
        return f"over all {batch} images of a batch{together}"
    if run.train.sync_bn or shared == run.train.microbatch:
        together = f" of {world} processes together" if run.train.sync_bn else ""
        return f"over the {shared} images that go through the net{together} at a time (train.microbatch)"
    apart = f"over the {shared} images of each of {world} processes"
    return f"{apart}; the moving averages are those of the first"


def _statistics_in_a_test(run: RunConfig) -> str | None:
    if run.model.norm != "batch":
        return None
    if not run.train.precise_bn_images:
        return "moving averages kept in training"
    return f"recomputed over {run.train.precise_bn_images:,} images (train.precise_bn_images)"


def _moving_averages(run: RunConfig) -> str | None:
    if run.model.norm != "batch" or run.train.precise_bn_images:
        return None
    return "PyTorch's default keeps 0.9; both average the unbiased variance"


def _initial_weights(run: RunConfig) -> str | None:
    if run.model.norm == "fixup" or run.train.init_from or run.model.init != "he":
        return None
    return "normal, standard deviation sqrt(2 / fan-in), the last layer too; its bias is zero"


def _ten_crop(run: RunConfig) -> str | None:
    if not isinstance(run.data, ImageNetData):
        return None
    side = run.data.val_resize
    return f"the corners and the centre of the central square of {side}x{side} (data.val_resize)"


def _scales(run: RunConfig) -> str:
    stretched = isinstance(run.data, ImageNetData) and run.data.mean == "pixel"
    mean = "; the mean image is stretched to its size" if stretched else ""
    return f"the whole image, its longer side in proportion, without flips{mean}"


_OURS: dict[str, Callable[[RunConfig], str | None]] = {
    "images trained on": _split,
    "images held out": _held_out,
    "training error": _training_error,
    "test error": _test_error,
    "runs of a net": _runs,
    "momentum": _momentum,
    "weight decay": _weight_decay,
    "warm-up": _warmup,
    "end of the warm-up": _end_of_warmup,
    "plateau of the error": _plateau,
    "drops of the rate": _drops,
    "crops": _crops,
    "mean subtracted": _mean,
    "colour augmentation": _colour,
    "shorter side before the centre crop": _centre,
    "BN statistics in a test": _statistics_in_a_test,
    "BN's moving averages": _moving_averages,
    "initial weights": _initial_weights,
    "ten crops": _ten_crop,
    "several scales": _scales,
}
"""By topic, what a run does: None where the question does not arise."""


def readings(
    config: RunConfig, precision: str, worlds: Collection[int] = (1,), probes: Collection[str] = ()
) -> list[Reading]:
    """What a run does where the paper leaves a choice, as far as the question arises.

    `precision` is what the run computed in. `worlds` are the numbers of processes that trained it together, one after
    the other. `probes` names the probes that were taken.
    """
    answers = {topic: ours(config) for topic, ours in _OURS.items()}
    answers["BN statistics in training"] = _statistics(config, worlds)
    answers["precision"] = None if precision == "fp32" else precision
    here: dict[str, Collection[str]] = {
        "recipe": {recipe(config).dataset},
        "kind": {config.model.kind},
        "probe": probes,
    }
    found = []
    for entry in _entries():
        ours = answers[entry["topic"]]
        if ours is not None and all(entry[key] in values for key, values in here.items() if key in entry):
            found.append(Reading(entry["topic"], entry["paper"], entry["source"], ours))
    return found


@cache
def _entries() -> list[dict[str, str]]:
    text = (resources.files("resexp.paper") / "readings.toml").read_text()
    entries: list[dict[str, str]] = tomllib.loads(text)["reading"]
    return entries
