"""A study beside the paper: what may be compared, what is done otherwise, and what the paper leaves open."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

import pytest

from resexp import paper
from resexp.config import Cifar10Data, ModelConfig, RunConfig, ShapesData, TrainConfig
from resexp.records import Plan
from resexp.report import build_report
from resexp.report.plots import curves_plot
from resexp.report.summary import summarise
from resexp.store import StudyFolder
from resexp.training.optim import RUNNING_DECAY
from tests.test_report import add_family, study, write_run

__all__ = ["study"]

PAPER = {"data": Cifar10Data(), "train": TrainConfig(log_every=8000), "dataset": "cifar10"}
"""The paper's recipe, as few lines of metrics as there can be."""

# -- what is done otherwise -------------------------------------------------------------------------------------------


def test_the_papers_own_recipe_is_comparable_and_set_beside_it(study: Callable[..., StudyFolder]) -> None:
    options = {"data": Cifar10Data(), "train": TrainConfig(log_every=8000), "dataset": "cifar10"}
    net = summarise(study({("plain", 56): [6.0]}, **options)).nets[0]
    assert net.differences == []
    assert net.published == paper.Published(5.83, 13.27, "Fig. 6")


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
    deep = RunConfig(model=ModelConfig(depth=110), train=TrainConfig(warmup_lr=0.01))
    assert paper.departures(deep, "cifar10") == []


def test_a_departure_names_its_key_both_values_and_where_the_paper_says_so() -> None:
    [departure] = paper.departures(RunConfig(train=TrainConfig(weight_decay=5e-4)), "cifar10")
    assert (departure.key, departure.paper, departure.ours) == ("train.weight_decay", "0.0001", "0.0005")
    assert departure.source.startswith("section 4.2")


def test_of_drawn_images_the_size_is_the_drawn_one() -> None:
    said = [str(d) for d in paper.departures(RunConfig(data=ShapesData(source="shapes", size=16)), "shapes")]
    assert said == ["images shapes instead of cifar10", "image size 16 instead of 32"]


def test_the_deviations_are_grouped_by_the_nets_that_share_them(study: Callable[..., StudyFolder]) -> None:
    folder = study({("plain", 20): [9.0], ("plain", 56): [13.0]}, **PAPER)
    runs = folder.plan().runs
    options = {**PAPER, "model": {"shortcut": "B"}, "train": TrainConfig(log_every=8000, warmup_lr=0.05)}
    runs.append(write_run(folder.folder, "residual", 20, 0, 0.08, **options))
    runs.append(write_run(folder.folder, "plain", 26, 0, 0.1, **PAPER))
    folder.write_plan(Plan(name="study", runs=runs))
    build_report(folder, folder.folder / "report")
    text = (folder.folder / "report/deviations.md").read_text()
    assert "Comparable with the paper: plain-20, plain-56." in text
    assert "By the paper's recipe, but it has no number for them: plain-26." in text
    departures, _, readings = text.partition("## Where the paper is open to readings")
    assert "For residual-20:" in departures
    assert "| shortcut (`model.shortcut`) | A | B | section 4.2, nets |" in departures
    assert "| warm-up rate (`train.warmup_lr`) | none | 0.05 | section 4.2, n = 18 |" in departures
    assert departures.count("|\n| ") == 3  # a ruled header and two departures
    of_all, _, of_one = readings.partition("For residual-20:")
    assert "For all nets:" in of_all
    assert "end of the warm-up" in of_one
    assert "end of the warm-up" not in of_all


# -- what the paper leaves open ---------------------------------------------------------------------------------------


def read_as(config: RunConfig, precision: str = "fp32") -> dict[str, str]:
    return {reading.topic: reading.ours for reading in paper.readings(config, precision)}


def test_only_the_readings_that_apply_are_listed() -> None:
    usual = {"images trained on", "training error", "weight decay", "BN statistics in a test"}
    usual |= {"BN statistics in training", "initial weights", "crops"}
    assert set(read_as(RunConfig())) == usual
    bare = RunConfig(data=Cifar10Data(pad=0), train=TrainConfig(weight_decay=0.0))
    assert set(read_as(bare)) == usual - {"weight decay", "crops"}
    deep = RunConfig(model=ModelConfig(depth=110), train=TrainConfig(warmup_lr=0.01))
    assert set(read_as(deep, "bf16")) == usual | {"end of the warm-up", "precision"}


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
    assert "45k" in ours["images trained on"]
    assert "50k" in read_as(RunConfig())["images trained on"]
    assert ours["BN statistics in training"] == "over all 64 images of a batch"
    assert ours["training error"].endswith("over the last quarter of the steps")
    assert ours["precision"] == "bf16"
    warm = read_as(RunConfig(train=TrainConfig(warmup_lr=0.01)))["end of the warm-up"]
    assert f"about the last {1 / (1 - RUNNING_DECAY):.0f} steps, is under 80%" in warm


# -- the paper's own curves -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("net", [net for net, numbers in paper.CIFAR10.items() if numbers.train is not None])
def test_the_papers_numbers_are_the_late_means_of_its_curves(net: tuple[str, str, int]) -> None:
    """Over iterations 48k to 64k; Table 6 gives the residual nets' test errors, and Fig. 6 agrees within 0.1."""
    late = {split: fmean(e for i, e in points if i >= 48_000) for split, points in paper.fig6(*net).items()}
    published = paper.CIFAR10[net]
    assert late["train"] == pytest.approx(published.train, abs=0.006)
    assert late["test"] == pytest.approx(published.test, abs=0.006 if net[0] == "plain" else 0.1)


def test_a_net_that_fig_6_does_not_show_has_no_curve() -> None:
    assert paper.fig6("plain", "basic", 110) == {}


def test_every_point_of_fig_6_is_there_but_for_the_second_drawing_of_resnet_110() -> None:
    nets = [paper.fig6(*net) for net in paper.CIFAR10]
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
