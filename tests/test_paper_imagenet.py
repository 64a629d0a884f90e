"""ImageNet beside the paper: its numbers, what a run does otherwise, and what the paper leaves open."""

from __future__ import annotations

from typing import Any

import pytest

from resexp import paper
from resexp.config import Cifar10Data, ImageNetData, ModelConfig, RunConfig, TrainConfig
from resexp.paper import OnViews
from tests.test_paper import changed

RECIPE = {"steps": 600_000, "batch_size": 256, "schedule": "plateau"}


def config(data: dict[str, Any] | None = None, train: dict[str, Any] | None = None, **model: Any) -> RunConfig:
    """The paper's own run, of ResNet-34 where nothing else is said, but for what is."""
    net = {"kind": "residual", "variant": "imagenet", "depth": 34} | model
    return RunConfig(
        data=ImageNetData.model_validate({"source": "imagenet", "path": "ilsvrc"} | (data or {})),
        model=ModelConfig.model_validate(net),
        train=TrainConfig.model_validate(RECIPE | (train or {})),
    )


# -- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("net", "late", "ten_crop", "multi_scale"),
    [
        ({"kind": "plain", "depth": 18}, (31.5, 31.4), OnViews(27.94, None, "Table 2"), None),
        ({"kind": "plain", "depth": 34}, (32.7, 32.5), OnViews(28.54, 10.02, "Table 3"), None),
        ({"depth": 18}, (30.0, 31.1), OnViews(27.88, None, "Table 2"), None),
        ({"depth": 34}, (25.1, 28.3), OnViews(25.03, 7.76, "Table 3"), None),
        ({"shortcut": "B"}, (None, None), OnViews(24.52, 7.46, "Table 3"), OnViews(21.84, 5.71, "Table 4")),
        ({"shortcut": "C"}, (None, None), OnViews(24.19, 7.40, "Table 3"), OnViews(21.53, 5.60, "Table 4")),
        ({"depth": 50}, (None, None), OnViews(22.85, 6.71, "Table 3"), OnViews(20.74, 5.25, "Table 4")),
        ({"depth": 101}, (None, None), OnViews(21.75, 6.05, "Table 3"), OnViews(19.87, 4.60, "Table 4")),
        ({"depth": 152}, (None, None), OnViews(21.43, 5.71, "Table 3"), OnViews(19.38, 4.49, "Table 4")),
    ],
)
def test_the_papers_own_run_is_comparable_with_its_numbers(
    net: dict[str, Any], late: tuple[float, float], ten_crop: OnViews, multi_scale: OnViews | None
) -> None:
    run = config(**net)
    assert paper.departures(run, "imagenet") == []
    found = paper.published(run.model)
    assert found is not None
    assert ((found.train, found.test), found.ten_crop, found.multi_scale) == (late, ten_crop, multi_scale)
    assert late == (None, None) or found.source == "Fig. 4"


def test_nets_of_one_depth_that_are_of_different_layout_have_different_numbers() -> None:
    assert paper.published(ModelConfig(kind="plain", depth=20)) == paper.nets()["cifar", "plain", "basic", 20, ""]
    assert paper.published(config(kind="preact").model) is None
    assert paper.published(config(depth=18, shortcut="B").model) is None


# -- what is done otherwise -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "change", "says"),
    [
        ("data", {"crop": 64}, "crop 64 instead of 224"),
        ("data", {"resize_range": [256, 256]}, "shorter side 256, 256 instead of 256, 480"),
        ("data", {"flip": False}, "flips off instead of on"),
        ("data", {"pca_lighting": False}, "colour augmentation off instead of on"),
        ("data", {"mean": "channel"}, "mean channel instead of pixel"),
        ("data", {"cache": {"side": 500}}, "cache side 500, format jpeg, quality 95 instead of none"),
        ("model", {"residual_init": "zero-gamma"}, "start of a branch zero-gamma instead of standard"),
        ("model", {"depth": 50, "stride_conv": "3x3"}, "stride of a bottleneck 3x3 instead of 1x1"),
        ("model", {"depth": 50, "shortcut": "C"}, "shortcut C instead of B"),
        ("model", {"depth": 18, "shortcut": "C"}, "shortcut C instead of A"),
        ("model", {"drop_path": 0.5}, "stochastic depth 0.5 instead of 0.0"),
        ("train", {"steps": 60_000}, "steps 60,000 instead of 600,000"),
        ("train", {"weight_decay": 5e-5}, "weight decay 5e-05 instead of 0.0001"),
        ("train", {"warmup_lr": 0.01}, "warm-up rate 0.01 instead of none"),
    ],
)
def test_each_key_that_is_changed_is_a_departure_and_the_only_one(
    section: str, change: dict[str, Any], says: str
) -> None:
    run = config(**change) if section == "model" else config(**{section: change})
    [departure] = paper.departures(run, "imagenet")
    assert str(departure) == says
    assert departure.key == f"{section}.{list(change)[-1]}"
    assert departure.source.startswith(("section 3.4", "section 4.1"))


def test_milestones_are_a_departure_and_the_schedule_too() -> None:
    assert [str(d) for d in paper.departures(config(train={"schedule": "milestones"}), "imagenet")] == [
        "schedule milestones instead of plateau",
        "milestones 300,000, 450,000 instead of none",
    ]


@pytest.mark.parametrize(
    "change",
    [
        {"data": {"val_resize": 240}},
        {"data": {"train_eval_images": 10_000}},
        {"data": {"timeout": 5.0, "workers": 2}},
        {"train": {"microbatch": 32}},
        {"train": {"patience": 3, "max_lr_drops": 3}},
    ],
)
def test_what_the_paper_does_not_say_is_no_departure(change: dict[str, Any]) -> None:
    assert paper.departures(config(**change), "imagenet", 8) == []


def test_other_images_depart_whether_they_are_some_of_the_classes_or_of_another_source() -> None:
    assert [str(d) for d in paper.departures(config(), "imagenet-100")] == ["images imagenet-100 instead of imagenet"]
    on_cifar = config().model_copy(update={"data": Cifar10Data()})
    assert [str(d) for d in paper.departures(on_cifar, "cifar10")] == ["images cifar10 instead of imagenet"]


def test_a_net_of_cifar_on_imagenet_is_held_against_section_4_2() -> None:
    said = [str(d) for d in paper.departures(RunConfig(data=config().data), "imagenet")]
    assert said == ["images imagenet instead of cifar10", "crop 224 instead of 32"]


def test_vgg_departs_in_its_recipe_for_the_paper_quotes_that_of_its_authors() -> None:
    [departure] = paper.departures(config(kind="vgg", depth=16), "imagenet")
    assert str(departure) == "recipe the residual nets' instead of its authors'"


@pytest.mark.parametrize(
    ("run", "dataset", "fewer", "says"),
    [
        (RunConfig(train=TrainConfig(microbatch=64)), "cifar10", 32, "32 of 128 instead of 128, or 64 on each GPU"),
        (config(train={"microbatch": 32}), "imagenet", 16, "16 of 256 instead of 256, or 32 on each GPU"),
    ],
)
def test_bn_statistics_over_fewer_images_than_on_each_of_the_papers_gpus_are_a_departure(
    run: RunConfig, dataset: str, fewer: int, says: str
) -> None:
    """The paper has 128 images on two GPUs. The authors' released models had 256 on eight."""
    assert paper.departures(run, dataset) == []
    [departure] = paper.departures(changed(run, "train", microbatch=fewer), dataset)
    assert str(departure) == f"images that share BN's statistics {says}"
    assert departure.key == "train.microbatch"


# -- what the paper leaves open ---------------------------------------------------------------------------------------


def read_as(run: RunConfig, *worlds: int, probes: tuple[str, ...] = ()) -> dict[str, str]:
    return {r.topic: r.ours for r in paper.readings(run, "fp32", worlds or (1,), probes)}


def test_only_the_readings_that_apply_are_listed() -> None:
    usual = {"training error", "runs of a net", "momentum", "weight decay", "plateau of the error", "drops of the rate"}
    of_images = {"mean subtracted", "colour augmentation", "shorter side before the centre crop"}
    of_bn = {"BN statistics in training", "BN statistics in a test", "BN's moving averages"}
    usual |= of_images | of_bn | {"initial weights", "initial weights of the last layer"}
    assert set(read_as(config())) == usual
    bare = config({"mean": "channel", "pca_lighting": False}, {"schedule": "milestones"}, norm="none")
    assert set(read_as(bare)) == usual - of_bn - {
        "mean subtracted", "colour augmentation", "plateau of the error", "drops of the rate",
    }  # fmt: skip
    assert set(read_as(config(), probes=("ten-crop", "lesion"))) == usual | {"ten crops"}
    assert set(read_as(config(), probes=("multi-scale",))) == usual | {"several scales"}
    assert set(read_as(config().model_copy(update={"data": Cifar10Data()}))) == usual - of_images
    assert not {"images trained on", "crops"} & set(read_as(RunConfig(data=config().data)))


def test_a_reading_says_what_the_run_did() -> None:
    data, train = {"val_resize": 240, "train_eval_images": 9000}, {"eval_every": 5000, "patience": 3}
    ours = read_as(config(data, train), probes=("ten-crop",))
    assert ours["plateau of the error"].startswith("the validation error of centre crops, every 5,000 steps; ")
    assert "3 evaluations without a new minimum" in ours["plateau of the error"]
    assert ours["drops of the rate"] == "at most 2 (train.max_lr_drops)"
    assert ours["training error"] == (
        "both are recorded; figures and verdict show the running error, its mean over the steps after the last drop of "
        "the rate, or the last quarter without a drop; the separate pass is over up to 9,000 training images "
        "(data.train_eval_images), every 5,000 steps (train.eval_every)"
    )
    assert ours["shorter side before the centre crop"] == "240 (data.val_resize)"
    assert ours["ten crops"].endswith("the central square of 240x240 (data.val_resize)")


def test_the_mean_image_is_stretched_to_the_size_of_a_view_and_the_mean_colour_is_not() -> None:
    whole = "the whole image, its longer side in proportion, without flips"
    assert read_as(config({"mean": "channel"}), probes=("multi-scale",))["several scales"] == whole
    assert read_as(config(), probes=("multi-scale",))["several scales"] == (
        f"{whole}; the mean image is stretched to its size"
    )


@pytest.mark.parametrize(
    ("train", "world", "says"),
    [
        ({}, 1, "over all 256 images of a batch"),
        ({}, 8, "over the 32 images of each of 8 processes; the moving averages are those of the first"),
        ({"sync_bn": True}, 8, "over all 256 images of a batch, which 8 processes share (train.sync_bn)"),
        ({"microbatch": 32}, 1, "over the 32 images that go through the net at a time (train.microbatch)"),
        ({"microbatch": 32}, 4, "over the 32 images that go through the net at a time (train.microbatch)"),
        (
            {"microbatch": 32, "sync_bn": True},
            4,
            "over the 128 images that go through the net of 4 processes together at a time (train.microbatch)",
        ),
    ],
)
def test_bn_statistics_are_over_what_shares_a_forward_pass(train: dict[str, Any], world: int, says: str) -> None:
    assert read_as(config(train=train), world)["BN statistics in training"] == says
