"""A study beside the paper: what may be compared, what is done otherwise, and what the paper leaves open."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean
from typing import Any, Literal

import pytest
import torch
from pydantic import Field

from resexp import paper
from resexp.config import (
    CacheConfig,
    Cifar10Data,
    Cifar100Data,
    DataConfig,
    FolderData,
    ImageNetData,
    ModelConfig,
    RunConfig,
    Section,
    ShapesData,
    SvhnData,
    TrainConfig,
)
from resexp.models.layers import BatchNorm
from resexp.paper.recipe import IDENTITIES, recipe
from resexp.report import build_report
from resexp.report.plots import curves_plot
from resexp.report.summary import summarise
from resexp.runs.records import StudyPlan
from resexp.runs.store import StudyFolder
from resexp.training.optim import MOVING_DECAY, make_optimizer
from tests.test_report import add_family, study, write_run

__all__ = ["study"]

PAPER = {"data": Cifar10Data(), "train": TrainConfig(log_every=8000), "dataset": "cifar10"}
"""The paper's recipe, as few lines of metrics as there can be."""

# -- what is done otherwise -------------------------------------------------------------------------------------------


def test_the_papers_own_recipe_is_comparable_and_set_beside_it(study: Callable[..., StudyFolder]) -> None:
    options = {"data": Cifar10Data(), "train": TrainConfig(log_every=8000), "dataset": "cifar10"}
    net = summarise(study({("plain", 56): [6.0]}, **options)).nets[0]
    assert net.not_comparable == []
    bands = {"train": (5.14, 6.77), "test": (13.1, 13.46)}
    assert net.published == paper.Published(5.83, 13.27, "Fig. 6", response_std=1.53, bands=bands)


def test_every_departure_from_the_recipe_is_named() -> None:
    config = RunConfig(
        data=Cifar10Data(resize=16, pad=2),
        model=ModelConfig(width=8, shortcut="B"),
        train=TrainConfig(steps=4000, warmup_lr=0.01),
    )
    assert [str(d) for d in paper.departures(config, "cifar10")] == [
        "image size 16 instead of 32",
        "crop padding 2 instead of 4",
        "width 8 instead of 16",
        "shortcut B instead of A",
        "steps 4,000 instead of 64,000",
        "milestones 2,000, 3,000 instead of 32,000, 48,000",
        "warm-up rate 0.01 instead of none",
    ]


@pytest.mark.parametrize("split", ["full", "holdout"])
def test_both_readings_of_the_papers_split_are_comparable(split: str) -> None:
    assert paper.departures(RunConfig(data=Cifar10Data(split=split)), "cifar10") == []


@pytest.mark.parametrize(
    ("net", "rate", "is_open", "says"),
    [
        ({"depth": 110}, 0.01, False, []),
        ({"depth": 110}, None, False, ["warm-up rate none instead of 0.01"]),
        ({"depth": 110}, 0.05, False, ["warm-up rate 0.05 instead of 0.01"]),
        ({"depth": 56}, None, False, []),
        ({"depth": 56}, 0.01, False, ["warm-up rate 0.01 instead of none"]),
        ({"kind": "plain", "depth": 56}, 0.01, False, ["warm-up rate 0.01 instead of none"]),
        ({"kind": "plain", "depth": 110}, 0.01, True, []),
        ({"kind": "plain", "depth": 110}, None, True, []),
        ({"kind": "plain", "depth": 110}, 0.05, True, ["warm-up rate 0.05 instead of 0.01"]),
        ({"depth": 1202}, 0.01, True, []),
        ({"depth": 1202}, None, True, []),
        ({"kind": "preact", "depth": 110}, 0.01, False, []),
        ({"block": "bottleneck", "depth": 164}, None, False, ["warm-up rate none instead of 0.01"]),
        ({"kind": "plain", "block": "bottleneck", "depth": 110}, 0.01, False, ["warm-up rate 0.01 instead of none"]),
    ],
)
def test_the_warm_up_is_that_of_resnet_110(
    net: dict[str, Any], rate: float | None, is_open: bool, says: list[str]
) -> None:
    """The paper does not say whether plain-110 and ResNet-1202 had it: a reading, with it or without."""
    run = RunConfig(model=ModelConfig(**net), train=TrainConfig(warmup_lr=rate))
    assert [str(departure) for departure in paper.departures(run, "cifar10")] == says
    ours = "none" if rate is None else f"one, at a rate of {rate} (train.warmup_lr)"
    assert read_as(run).get("warm-up") == (ours if is_open else None)


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_a_warm_up_ends_under_80_percent(kind: Any) -> None:
    train = TrainConfig(warmup_lr=0.01, warmup_until_error=0.7)
    run = RunConfig(model=ModelConfig(kind=kind, depth=110), train=train)
    [departure] = paper.departures(run, "cifar10")
    assert str(departure) == "end of the warm-up 0.7 instead of 0.8"
    without = changed(run, "train", warmup_lr=None)
    assert "train.warmup_until_error" not in {d.key for d in paper.departures(without, "cifar10")}


def test_a_departure_names_its_key_both_values_and_where_the_paper_says_so() -> None:
    [departure] = paper.departures(RunConfig(train=TrainConfig(weight_decay=5e-4)), "cifar10")
    assert (departure.key, departure.paper, departure.ours) == ("train.weight_decay", "0.0001", "0.0005")
    assert departure.source.startswith("section 4.2")


def test_synthetic_images_depart_in_size_and_number() -> None:
    data = ShapesData(source="shapes", size=16, test_images=10_000)
    assert [str(d) for d in paper.departures(RunConfig(data=data), "shapes")] == [
        "images shapes instead of cifar10",
        "train images 5,000 instead of 50,000",
        "image size 16 instead of 32",
    ]


def test_other_images_are_one_departure_and_digits_without_flips_another() -> None:
    def said(data: DataConfig, dataset: str) -> list[str]:
        return [str(departure) for departure in paper.departures(RunConfig(data=data), dataset)]

    fine = Cifar100Data(source="cifar100")
    assert said(fine, "cifar100") == ["images cifar100 instead of cifar10"]
    coarse = Cifar100Data(source="cifar100", labels="coarse", resize=16)
    assert said(coarse, "cifar100-coarse") == [
        "images cifar100-coarse instead of cifar10", "image size 16 instead of 32",
    ]  # fmt: skip
    assert said(SvhnData(source="svhn"), "svhn") == ["images svhn instead of cifar10", "flips off instead of on"]
    assert said(SvhnData(source="svhn", flip=True), "svhn") == ["images svhn instead of cifar10"]


def test_the_images_trained_on_are_counted() -> None:
    """As the manifest has them: five thousand synthetic images are not fifty thousand of CIFAR-10."""

    def said(images: str, **data: Any) -> str:
        config = RunConfig.model_validate({"data": data})
        return {reading.topic: reading.ours for reading in paper.readings(config, "fp32", images=images)}[
            "images trained on"
        ]

    shapes = {"source": "shapes", "train_images": 5000}
    assert said("5,000 of shapes", **shapes) == "all training images: 5,000 of shapes (data.split: full)"
    assert said("45,000 of cifar100", source="cifar100", split="holdout") == (
        "90 % of the training images: 45,000 of cifar100 (data.split: holdout)"
    )
    assert said("", source="cifar10") == "all training images (data.split: full)"


def test_images_resized_to_the_size_that_they_have_are_the_papers() -> None:
    assert paper.departures(RunConfig(data=Cifar10Data(resize=32)), "cifar10") == []


def test_the_papers_value_of_every_field_is_known() -> None:
    """A field that the recipe does not list has its default in the paper. These are the values that the paper gives."""
    measured = {part: getattr(RunConfig(), part).measured() for part in ("data", "model", "train")}
    told = {f"{part}.{name}": value for part in measured for name, value in measured[part].items()}
    assert {key: value for key, value in told.items() if key not in IDENTITIES | recipe(RunConfig()).open.keys()} == {
        "data.resize": None, "data.pad": 4, "data.flip": True,
        "model.width": 16, "model.shortcut": "A", "model.stride_conv": None, "model.norm": "batch",
        "model.activation": "relu", "model.init": "he", "model.residual_init": "standard", "model.residual_scale": 1.0,
        "model.drop_path": 0.0, "train.optimizer": "sgd", "train.warmup_steps": None, "train.label_smoothing": 0.0,
        "train.clip_norm": None,
        "train.steps": 64_000, "train.batch_size": 128, "train.lr": 0.1, "train.schedule": "milestones",
        "train.milestones": [32_000, 48_000], "train.gamma": 0.1, "train.momentum": 0.9, "train.weight_decay": 1e-4,
        "train.warmup_lr": None, "train.warmup_until_error": 0.8, "train.init_from": None,
    }  # fmt: skip


class OtherOptimiser(TrainConfig):
    """A recipe with a field that no list of the paper's knows."""

    optimiser: Literal["sgd", "adamw"] = "sgd"


class OtherNet(ModelConfig):
    """A net with a field whose default depends on another."""

    groups: int = Field(default_factory=lambda m: 1 if m["kind"] == "residual" else 2)


def test_a_field_that_is_added_to_the_schema_is_a_departure_where_it_is_not_at_its_default() -> None:
    def said(**sections: Section) -> list[tuple[str, str, str]]:
        found = paper.departures(RunConfig().model_copy(update=sections), "cifar10")
        return [(str(d), d.key, d.source) for d in found]

    assert said(train=OtherOptimiser(), model=OtherNet()) == said(model=OtherNet(kind="plain")) == []
    assert said(train=OtherOptimiser(optimiser="adamw")) == [
        ("optimiser adamw instead of sgd", "train.optimiser", "section 4.2, training")
    ]
    assert said(model=OtherNet(groups=4)) == [("groups 4 instead of 1", "model.groups", "section 4.2, nets")]


OTHER = {
    "data": {
        "split": "holdout", "split_seed": 1, "resize": 16, "pad": 2, "flip": False,
        "seed": 1, "train_images": 200, "test_images": 200, "size": 16,
        "crop": 64, "resize_range": (256, 256), "val_resize": 240, "pca_lighting": False, "mean": "channel",
        "train_eval_images": 10_000, "cache": CacheConfig(side=500),
    },
    "model": {
        "width": 8, "shortcut": "C", "stride_conv": "3x3", "norm": "none", "residual_init": "rezero", "drop_path": 0.5,
        "activation": "gelu", "init": "dirac", "classifier_std": 0.01, "residual_scale": 0.5,
    },
    "train": {
        "steps": 500_000, "batch_size": 1024, "lr": 0.2, "microbatch": 64, "schedule": "other", "patience": 3,
        "max_lr_drops": 3, "milestones": (50_000,), "gamma": 0.2, "momentum": 0.8, "weight_decay": 5e-4,
        "warmup_lr": 0.05, "warmup_until_error": 0.5, "init_from": "plain-20/seed0", "precision": "bf16",
        "eval_every": 500, "precise_bn_images": 1000, "sync_bn": True, "optimizer": "adamw", "warmup_steps": 100,
        "label_smoothing": 0.1, "clip_norm": 1.0,
    },
}  # fmt: skip
"""For each field, a value that is not the paper's."""
BESIDE: dict[str, dict[str, Any]] = {
    "split_seed": {"split": "holdout"},
    "patience": {"schedule": "plateau", "milestones": ()},
    "max_lr_drops": {"schedule": "plateau", "milestones": ()},
    "warmup_until_error": {"warmup_lr": 0.01},
}
"""What a field needs to have an effect."""
RUNS = {
    "cifar10": RunConfig(),
    "cifar100": RunConfig(data=Cifar100Data(source="cifar100")),
    "svhn": RunConfig(data=SvhnData(source="svhn", flip=True)),
    "folder": RunConfig(data=FolderData(source="folder", path="images")),
    "shapes": RunConfig(data=ShapesData(source="shapes", size=32, train_images=50_000, test_images=10_000)),
    "imagenet": RunConfig(
        data=ImageNetData(source="imagenet", path="ilsvrc"),
        model=ModelConfig(variant="imagenet", depth=50),
        train=TrainConfig(steps=600_000, batch_size=256, schedule="plateau"),
    ),
    "cifar10 in a net of imagenet": RunConfig(model=ModelConfig(variant="imagenet", depth=18)),
    "imagenet in a net of cifar10": RunConfig(data=ImageNetData(source="imagenet", path="ilsvrc")),
}
"""Runs with every section that there is."""


def changed(config: RunConfig, part: str, **values: Any) -> RunConfig:
    """The run with other values in one section, unchecked: the schema refuses some of them together."""
    return config.model_copy(update={part: getattr(config, part).model_copy(update=values)})


def is_named(run: RunConfig, part: str, name: str) -> bool:
    """Whether another value of a field is a departure, or changes the reading that the recipe names, and no other."""
    key, config = f"{part}.{name}", changed(run, part, **BESIDE.get(name, {}))
    other = changed(config, part, **{name: OTHER[part][name]})
    departures = paper.departures(other, recipe(config).dataset)
    if topic := recipe(config).open.get(key):
        read_otherwise = read(other)[topic] != read(config).get(topic)
        return departures == paper.departures(config, recipe(config).dataset) and read_otherwise
    return key in {departure.key for departure in departures}


@pytest.mark.parametrize("run", RUNS)
def test_no_field_differs_from_the_paper_in_silence(run: str) -> None:
    silent = [
        f"{part}.{name}"
        for part in ("data", "model", "train")
        for name in getattr(RUNS[run], part).measured()
        if f"{part}.{name}" not in IDENTITIES and not is_named(RUNS[run], part, name)
    ]
    assert silent == []


def read(config: RunConfig) -> dict[str, str]:
    """As on two processes, in the precision that is asked for."""
    precision = config.train.precision.replace("auto", "fp32")
    return {reading.topic: reading.ours for reading in paper.readings(config, precision, (2,))}


def test_the_deviations_are_grouped_by_the_nets_that_share_them(study: Callable[..., StudyFolder]) -> None:
    folder = study({("plain", 20): [9.0], ("plain", 56): [13.0]}, **PAPER)
    runs = folder.plan().runs
    options = {**PAPER, "model": {"shortcut": "B"}, "train": TrainConfig(log_every=8000, warmup_lr=0.05)}
    runs.append(write_run(folder.folder, "residual", 20, 0, 0.08, **options))
    runs.append(write_run(folder.folder, "plain", 26, 0, 0.1, **PAPER))
    folder.write_plan(StudyPlan(name="study", runs=runs))
    build_report(folder, folder.folder / "report")
    text = (folder.folder / "report/deviations.md").read_text()
    assert "With the paper's settings, so that its numbers apply: plain-20, plain-56." in text
    assert "With the paper's settings, but without a number in the paper: plain-26." in text
    departures, _, readings = text.partition(
        "## What the paper leaves open, and where Caffe, its authors' framework, differs"
    )
    assert "For residual-20:" in departures
    assert "| shortcut (`model.shortcut`) | A | B | section 4.2, nets |" in departures
    assert "| warm-up rate (`train.warmup_lr`) | none | 0.05 | section 4.2 (0.01 for n = 18 only) |" in departures
    assert departures.count("|\n| ") == 3  # a ruled header and two departures
    of_all, _, of_one = readings.partition("For residual-20:")
    assert "For all nets:" in of_all
    assert "end of the warm-up" in of_one
    assert "end of the warm-up" not in of_all


# -- what the paper leaves open ---------------------------------------------------------------------------------------


def read_as(config: RunConfig, precision: str = "fp32") -> dict[str, str]:
    return {reading.topic: reading.ours for reading in paper.readings(config, precision)}


INITIAL = {"initial weights", "initial weights of the last layer"}
USUAL = {
    "images trained on", "training error", "test error", "runs of a net", "momentum", "weight decay", "crops",
    "BN statistics in training", "BN statistics in a test", "BN's moving averages", *INITIAL,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "precision", "more", "less"),
    [
        (RunConfig(), "fp32", set(), set()),
        (RunConfig(), "bf16", {"precision"}, set()),
        (RunConfig(data=Cifar10Data(split="holdout")), "fp32", {"images held out"}, set()),
        (RunConfig(data=Cifar10Data(pad=0)), "fp32", set(), {"crops"}),
        (RunConfig(train=TrainConfig(weight_decay=0.0)), "fp32", set(), {"weight decay"}),
        (RunConfig(train=TrainConfig(momentum=0.0)), "fp32", set(), {"momentum"}),
        (RunConfig(train=TrainConfig(milestones=[])), "fp32", set(), {"momentum"}),
        (
            RunConfig(train=TrainConfig(milestones=[], warmup_lr=0.01)), "fp32", {"end of the warm-up"}, set()
        ),
        (
            RunConfig(train=TrainConfig(schedule="plateau")),
            "fp32", {"plateau of the error", "drops of the rate"}, set(),
        ),
        (RunConfig(train=TrainConfig(precise_bn_images=1000)), "fp32", set(), {"BN's moving averages"}),
        (
            RunConfig(model=ModelConfig(norm="none")),
            "fp32", set(), {"BN statistics in training", "BN statistics in a test", "BN's moving averages"},
        ),
        (RunConfig(train=TrainConfig(init_from="plain-20/seed0")), "fp32", set(), INITIAL),
        (RunConfig(model=ModelConfig(kind="preact")), "fp32", set(), {"test error", "runs of a net"}),
    ],
)  # fmt: skip
def test_only_the_readings_that_apply_are_listed(
    config: RunConfig, precision: str, more: set[str], less: set[str]
) -> None:
    assert set(read_as(config, precision)) == (USUAL | more) - less


def test_each_reading_is_asked_once_and_says_where_it_stands() -> None:
    found = paper.readings(RunConfig(data=Cifar10Data(split="holdout")), "bf16", (1, 2), ("ten-crop", "multi-scale"))
    assert len({reading.topic for reading in found}) == len(found)
    assert all(reading.paper.endswith(".") and reading.source for reading in found)


def test_numbers_of_the_paper_are_of_single_runs_and_of_late_iterations_and_ours_are_not() -> None:
    def of(**net: Any) -> dict[str, tuple[str, str]]:
        found = paper.readings(RunConfig(model=ModelConfig(**net)), "fp32")
        return {reading.topic: (reading.paper, reading.ours) for reading in found}

    says, ours = of(kind="plain", depth=56)["test error"]
    assert says.endswith("Their numbers are means over iterations 48k to 64k of Fig. 6.")
    assert ours == "of the weights after the last step"
    assert of(depth=56)["test error"][0] == "Table 6. The paper does not say after which iteration."
    says, ours = of(depth=56)["runs of a net"]
    assert says == "One, so its number has no spread. ResNet-110 has five, and 6.61 is their mean."
    assert ours == "one for each seed; numbers are means over seeds"
    held_out = read_as(RunConfig(data=Cifar10Data(split="holdout", split_seed=3)))
    assert held_out["images held out"] == "10 %, drawn with seed 3, the same in all runs (data.split_seed)"
    assert held_out["test error"].endswith("; also the weights with the lowest validation error")


def test_pytorchs_momentum_differs_from_caffes_where_the_rate_drops_and_nowhere_else() -> None:
    """Gradient 1 at each step; the rate is 0.1 twice and then 0.01. The authors' update is that of Caffe."""
    weight, rate = torch.nn.Parameter(torch.zeros((), dtype=torch.float64)), torch.tensor(0.1)
    net = torch.nn.Module()
    net.weight = weight
    optimizer = make_optimizer(TrainConfig(weight_decay=0.0), net, rate)
    caffe, velocity, seen = 0.0, 0.0, []
    for lr in (0.1, 0.1, 0.01):
        rate.fill_(lr)
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        velocity = 0.9 * velocity + lr
        caffe -= velocity
        seen.append((weight.item(), caffe))
    assert seen == [pytest.approx(both, abs=1e-7) for both in ((-0.1, -0.1), (-0.29, -0.29), (-0.3171, -0.471))]
    says = read_as(RunConfig())["momentum"]
    assert says.startswith("PyTorch's update: v = 0.9 v + g, then w = w - lr v; the same at a constant rate;")
    assert says.endswith("Caffe's over about 10 steps")


def test_bns_moving_averages_keep_nine_tenths_and_the_unbiased_variance() -> None:
    norm = BatchNorm(1)
    norm(torch.tensor([1.0, 2.0, 3.0, 6.0]).view(4, 1, 1, 1))
    assert norm.momentum == pytest.approx(1 - 0.9)
    assert norm.running_mean.item() == pytest.approx(0.1 * 3)
    assert norm.running_var.item() == pytest.approx(0.9 + 0.1 * 14 / 3)
    assert read_as(RunConfig())["BN's moving averages"].startswith("PyTorch's default keeps 0.9; ")


def test_processes_that_train_a_run_together_take_bn_statistics_apart_unless_they_are_synced() -> None:
    """On two, as on the paper's two GPUs, that is a reading of it; on more it is a departure from it."""
    apart, synced = RunConfig(), RunConfig(train=TrainConfig(sync_bn=True))

    def said(config: RunConfig, *worlds: int) -> str:
        return next(r.ours for r in paper.readings(config, "fp32", worlds) if r.topic == "BN statistics in training")

    assert said(apart, 1) == said(synced, 1) == "over all 128 images of a batch"
    assert said(apart, 2).startswith("over the 64 images of each of 2 processes;")
    assert said(apart, 2, 1).startswith("over all 128 images of a batch, and over the 64 images of each of 2")
    assert said(synced, 4) == "over all 128 images of a batch, which 4 processes share (train.sync_bn)"
    assert paper.departures(apart, "cifar10", 2) == paper.departures(synced, "cifar10", 8) == []
    [departure] = paper.departures(apart, "cifar10", 8)
    assert str(departure) == "images that share BN's statistics 16 of 128 instead of 128, or 64 on each GPU"


def test_a_reading_says_what_the_run_did() -> None:
    half = RunConfig(data=Cifar10Data(split="holdout"), train=TrainConfig(batch_size=64, milestones=[]))
    ours = read_as(half, "bf16")
    assert ours["images trained on"].startswith("90 % of the training images")
    assert read_as(RunConfig())["images trained on"].startswith("all training images")
    assert ours["BN statistics in training"] == "over all 64 images of a batch"
    assert "its mean over the last quarter of the steps; the separate pass" in ours["training error"]
    assert ours["training error"].endswith("over all training images, every 4,000 steps (train.eval_every)")
    assert ours["precision"] == "bf16"
    warm = read_as(RunConfig(train=TrainConfig(warmup_lr=0.01)))["end of the warm-up"]
    assert f"about the last {1 / (1 - MOVING_DECAY):.0f} steps, is under 80%" in warm


# -- the paper's own curves -------------------------------------------------------------------------------------------


OF_FIG6 = [net for net, numbers in paper.nets().items() if net[0] == "cifar" and numbers.train is not None]


@pytest.mark.parametrize("net", OF_FIG6)
def test_the_papers_numbers_are_the_late_means_of_its_curves(net: tuple[str, str, str, int, str]) -> None:
    """Over iterations 48k to 64k; Table 6 gives the residual nets' test errors, and Fig. 6 agrees within 0.1."""
    late = {split: fmean(e for i, e in points if i >= 48_000) for split, points in paper.fig6(*net[1:4]).items()}
    published = paper.nets()[net]
    assert late["train"] == pytest.approx(published.train, abs=0.006)
    assert late["test"] == pytest.approx(published.test, abs=0.006 if net[1] == "plain" else 0.1)


def test_the_spread_of_a_papers_number_is_that_of_its_curve_or_of_its_five_runs() -> None:
    """Table 6 gives 6.61 ± 0.16 % for ResNet-110; all else is one run, whose late curve has a range."""
    nets = paper.nets()
    assert nets["cifar", "plain", "basic", 56, ""].bands == {"train": (5.14, 6.77), "test": (13.1, 13.46)}
    of_five = nets["cifar", "residual", "basic", 110, ""]
    assert of_five.bands["test"] == pytest.approx((6.45, 6.77))
    assert of_five.bands["train"] == (0.0, 0.16)
    assert all(nets[net].bands["train"][0] <= (nets[net].train or 0) <= nets[net].bands["train"][1] for net in OF_FIG6)
    assert nets["imagenet", "plain", "basic", 18, ""].bands == {}


def test_a_net_that_fig_6_does_not_show_has_no_curve() -> None:
    assert paper.fig6("plain", "basic", 110) == {}


def test_every_point_of_fig_6_is_there_but_for_the_second_drawing_of_resnet_110() -> None:
    nets = [paper.fig6(*net[1:4]) for net in OF_FIG6]
    assert sum(len(points) for net in nets for points in net.values()) == 1183 - 60


def test_the_papers_curves_are_drawn_beside_nets_of_its_recipe_alone(study: Callable[..., StudyFolder]) -> None:
    folder = study({("plain", 20): [9.0], ("plain", 26): [9.0]}, **PAPER)
    add_family(folder, "shortcutB", {("residual", 20): [9.0]}, model={"shortcut": "B"})
    records = summarise(folder).records
    axes = curves_plot(records, "plain", (0, 100), (6, 4)).axes
    [ours] = [line for line in axes.lines if line.get_label() == "plain-20"]
    drawn = [line for line in axes.lines if line.get_color() == ours.get_color() and line.get_linewidth() < 1]
    assert [list(zip(*line.get_data(), strict=True)) for line in drawn] == list(
        paper.fig6("plain", "basic", 20).values()
    )
    assert axes.get_legend_handles_labels()[1] == ["plain-20", "plain-26", "He et al. 2015"]
    other = curves_plot(records, "residual shortcutB", (0, 100), (6, 4)).axes
    assert other.get_legend_handles_labels()[1] == ["residual-20"]
