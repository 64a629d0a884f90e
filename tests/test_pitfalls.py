"""Studies in which a sentence or a figure could easily say more, or something else, than the runs show."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from resexp.config import Cifar10Data, TrainConfig
from resexp.report import Slide, build_report, draw, draw_together, page, read, together
from resexp.report.controls import table
from resexp.report.page import numbers
from resexp.report.plots import depth_plot, of_the_paper
from resexp.report.summary import summarise
from resexp.report.verdict import Verdict
from resexp.runs.records import StudyPlan
from resexp.runs.store import StudyFolder
from tests.test_report import DEGRADES, SMALL, Errors, add_family, planned, study, write_run

__all__ = ["study"]

Make = Callable[..., StudyFolder]

FLAT: Errors = {("residual", 8): [9, 10, 11], ("residual", 20): [9, 10, 11.3]}
RISING: Errors = {("plain", 8): [10, 11, 12], ("plain", 20): [14, 15, 16]}
OF_THE_PAPER = {"data": Cifar10Data(source="cifar10"), "dataset": "cifar10", "train": TrainConfig(log_every=4000)}


def verdict(folder: StudyFolder) -> Verdict:
    return summarise(folder).verdict


# -- depths -----------------------------------------------------------------------------------------------------------


def test_changes_over_other_depths_have_them(study: Make) -> None:
    """As in Fig. 6, where only residual nets have 110 layers."""
    plain: Errors = {("plain", 20): [1.3], ("plain", 56): [5.8]}
    found = verdict(study(plain | {("residual", 20): [0.7], ("residual", 56): [0.12], ("residual", 110): [0.06]}))
    assert found.headline == (
        "One seed, descriptive only: the training error changes by +4.5 points in plain nets from depth 20 to 56 and "
        "by -0.6 points in residual nets from depth 20 to 110."
    )
    assert [words for _, words, *_ in numbers(found)] == [
        "plain nets' rise, 20 to 56 layers", "residual nets' rise, 20 to 110 layers",
        "difference of the rises, 20 to 56 layers",
    ]  # fmt: skip


def test_a_claim_over_other_depths_has_them(study: Make) -> None:
    """The residual nets do not rise from 8 to 20 layers, but from 8 to 56."""
    found = verdict(study(RISING | FLAT | {("residual", 56): [60, 61, 62]}))
    assert found.headline.startswith("From 8 to 20 layers, the training error rises by 3.9 points")
    assert found.headline.endswith(": plain nets (8 to 20 layers) degrade; residual nets (8 to 56 layers) degrade.")


def test_the_margin_is_a_tenth_of_the_rise_over_the_depths_that_both_have(study: Make) -> None:
    assert verdict(study(RISING | FLAT | {("plain", 56): [60, 61, 62]})).margin == pytest.approx(0.4)


def test_conditions_are_compared_at_the_same_depths_only(study: Make) -> None:
    """The nets of 56 layers in bf16 have not finished: nothing of what both have differs."""
    deep: Errors = {("plain", 56): [60, 61, 62], ("residual", 56): [9, 10, 11]}
    folder = study(RISING | FLAT | deep)
    add_family(folder, "bf16", RISING | FLAT, train={"precision": "bf16"})
    found = summarise(folder)
    assert set(table(found.controls)[1][-1][1:]) == {"–"}
    assert "difference of the rises +3.9 points [" in found.in_other_conditions
    assert found.in_other_conditions.count("(at depths 8 and 20)") == 3
    assert found.in_other_conditions.endswith("(at depth 20).")


# -- what is compared -------------------------------------------------------------------------------------------------


def test_a_warm_up_of_all_nets_does_not_part_the_kinds(study: Make) -> None:
    warm = SMALL.model_copy(update={"warmup_lr": 0.01})
    folder = study(RISING | FLAT | {("residual", 110): [7, 8, 9]}, train=warm)
    assert verdict(folder).families == ["plain", "residual"]
    assert verdict(folder).interaction


def test_a_warm_up_of_one_kind_parts_them(study: Make) -> None:
    """The warm-up at 110 layers is the paper's; that of the plain nets of 8 and 20 is not."""
    warm = SMALL.model_copy(update={"warmup_lr": 0.01})
    folder = study(RISING, train=warm)
    runs = folder.plan().runs
    for (kind, depth), values in FLAT.items():
        runs += [write_run(folder.folder, kind, depth, seed, value / 100) for seed, value in enumerate(values)]
    runs += [write_run(folder.folder, "residual", 110, seed, 0.05, train=warm) for seed in range(3)]
    folder.write_plan(StudyPlan(name="study", runs=runs))
    assert "No verdict on residual nets: plain-8 and residual-8 differ in train.warmup_lr" in verdict(folder).headline


def test_conditions_of_one_name_that_have_one_kind_each_are_two_rows(study: Make) -> None:
    wide = {"model": {"width": 8}}
    folder = study(RISING)
    add_family(folder, "w8", RISING, **wide)
    runs = folder.plan().runs
    for variant, model in (("", {}), ("-w8", {"width": 8})):
        for (kind, depth), values in FLAT.items():
            options = {"variant": variant, "model": model, "train": SMALL.model_copy(update={"precision": "bf16"})}
            runs += [write_run(folder.folder, kind, depth, n, v / 100, **options) for n, v in enumerate(values)]
    folder.write_plan(StudyPlan(name="study", runs=runs))
    found = summarise(folder).controls
    assert [set(control.changes) for control in found] == [{"plain"}, {"plain"}, {"residual"}, {"residual"}]
    assert len({control.condition for control in found}) == 4


def test_a_net_is_compared_once(tmp_path: Path) -> None:
    """b's nets have other rates under the same names, and a has the nets of these rates under other names."""
    a = planned(tmp_path / "a", RISING | FLAT, name="a")
    b = planned(tmp_path / "b", RISING | FLAT, name="b", train=SMALL.model_copy(update={"lr": 0.05}))
    add_family(a, "lr=0.05", RISING, train={"lr": 0.05})
    (_, rows), _ = together.together([a, b]).table()
    assert all((row[1] == "–" or row[2] == "–") == (row[3] == "–") for row in rows)
    assert [row[0] for row in rows if row[2] == "–"] == ["plain-8-lr=0.05", "plain-20-lr=0.05"]


# -- what else could have made the number -----------------------------------------------------------------------------


def test_nets_that_guess_do_not_pass_for_nets_that_do_not_degrade(study: Make) -> None:
    """Of ten classes, guessing is wrong in 90 %."""
    guess: Errors = {("residual", 8): [89.9, 90, 90.1], ("residual", 20): [89.8, 90, 90.2]}
    found = verdict(study({("plain", 8): [30, 31, 32], ("plain", 20): [89.8, 90, 90.1]} | guess))
    assert found.headline.endswith(": plain nets degrade; residual nets only guess, at every depth.")
    sentence = "About as bad as guessing, so that the error can hardly rise: plain-20, residual-8, residual-20."
    assert sentence in found.sentences


def test_nets_that_are_far_worse_than_guessing_do_not_guess(study: Make) -> None:
    """Of ten classes, 95 % wrong is no guess: something else is at fault."""
    found = verdict(study({("plain", 8): [95.1, 95, 95.1], ("plain", 20): [89, 88.9, 88.8]}))
    assert not any("guessing" in sentence for sentence in found.sentences)


def test_nets_that_diverged_are_named_without_a_verdict(study: Make) -> None:
    folder = study({("residual", 8): [10, 11]})
    runs = folder.plan().runs
    runs += [write_run(folder.folder, "plain", depth, 0, 0.9, state="diverged") for depth in (8, 20)]
    folder.write_plan(StudyPlan(name="study", runs=runs))
    headline = verdict(folder).headline
    assert headline.startswith("No verdict: ")
    assert headline.endswith(". Diverged, so not in these numbers: 1 of 1 run of plain-8, 1 of 1 run of plain-20.")


def test_a_warm_up_that_never_ended_is_told(study: Make) -> None:
    warm = TrainConfig(steps=400, log_every=100, milestones=(300,), warmup_lr=0.01)
    folder = study({("plain", 8): [10], ("plain", 56): [89]}, train=warm)
    for run in folder.runs():
        lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
        for line in lines:
            if "lr" in line:
                line["lr"] = 0.1 if run.label == "plain-8" and line["step"] >= 200 else 0.01
        run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    sentences = verdict(folder).sentences
    assert any(sentence.endswith("It had ended by step: plain-8 200.") for sentence in sentences)
    endless = "It never ended, so that its rate trained them throughout: plain-56 (1 of 1 run)."
    assert endless in sentences


def test_a_small_margin_is_not_rounded_away(study: Make) -> None:
    same: Errors = {("residual", 8): [1, 1.0001, 1.0002], ("residual", 44): [1, 1.0001, 1.0002]}
    found = verdict(study({("plain", 8): [1, 1.01, 1.02], ("plain", 44): [1.3, 1.31, 1.32]} | same))
    assert "below a tenth of the plain nets' rise, 0.03 points here" in found.sentences[-1]
    folder = study(DEGRADES)
    folder.write_plan(folder.plan().model_copy(update={"margin": 0.25}))
    assert any(
        "below 0.25 points, the margin that the study fixes" in sentence for sentence in verdict(folder).sentences
    )


# -- figures and files ------------------------------------------------------------------------------------------------


def test_a_curve_is_that_of_finished_runs(study: Make) -> None:
    """A run that ended early would otherwise bend the mean where it stops."""
    folder = study({("plain", 8): [10]})
    runs = [*folder.plan().runs, write_run(folder.folder, "plain", 8, 1, 0.9, state="diverged")]
    folder.write_plan(StudyPlan(name="study", runs=runs))
    found = summarise(folder)
    drawn = draw(found)["curves-plain"].axes.lines[0]
    assert list(drawn.get_ydata()) == pytest.approx([10] * len(drawn.get_xdata()))  # type: ignore[arg-type]
    assert {line.rsplit(",", 1)[1] for line in page._files(found)["curves.csv"].splitlines()[1:]} == {"0.1"}


def test_with_one_seed_no_condition_is_counted(study: Make) -> None:
    one: Errors = {("plain", 8): [10], ("plain", 56): [60], ("residual", 8): [9], ("residual", 56): [9]}
    folder = study(one)
    add_family(folder, "bf16", one, train={"precision": "bf16"})
    title = draw(summarise(folder))["controls"].axes.get_title("left")
    assert title == "Difference of the rises by condition"


def test_the_paper_has_no_cross_where_it_has_no_number(study: Make) -> None:
    found = summarise(study({("plain", 110): [60]}, **OF_THE_PAPER))
    assert of_the_paper(found.nets) == ""
    assert found.nets[0].not_comparable == ["the paper has no number for it"]
    assert "With the paper's settings, but without a number in the paper: plain-110." in page.deviations_markdown(found)


def test_the_paper_s_five_runs_are_named_in_any_study(study: Make) -> None:
    warm = TrainConfig(log_every=4000, warmup_lr=0.01)
    found = summarise(study({("residual", 110): [0.1]}, **OF_THE_PAPER | {"train": warm}))
    net = together._called(found.nets[0], "mine")
    plot = depth_plot([net], "test", [], (7, 4))
    assert any("(five runs: 6.45 to 6.77)" in tip for _, tip in plot.marks.values())


def test_every_point_of_studies_on_one_axis_is_on_it(tmp_path: Path) -> None:
    a, b = (planned(tmp_path / name, RISING | FLAT, name=name) for name in ("a", "b"))
    add_family(a, "w8", {("plain", 8): [50, 51], ("plain", 20): [80, 81]}, model={"width": 8})
    axes = draw_together(together.together([a, b]), None)["study-study"].axes
    assert axes.get_ylim()[1] > axes.dataLim.ymax > 81


def test_studies_whose_names_differ_in_case_have_figures_of_their_own(tmp_path: Path) -> None:
    studies = [planned(tmp_path / name, RISING | FLAT, name=name) for name in ("Small", "small")]
    figures = draw_together(together.together(studies), None)
    assert {"study-small", "study-small-2"} <= set(figures)


def test_dollars_of_a_title_begin_no_formula(study: Make, tmp_path: Path) -> None:
    title = r"A $\frac{ title$"
    build_report(study(DEGRADES), tmp_path / "page", slide=Slide((800, 500), 100, title, None))
    assert title in (tmp_path / "page/figures/slide.svg").read_text()


# -- numbers of probes that are null or zero --------------------------------------------------------------------------


def test_the_largest_of_numbers_that_are_not_all_known_is_not_known(study: Make) -> None:
    folder = study({("plain", 8): [10], ("residual", 8): [10], ("residual", 20): [10]})

    def put(label: str, probe: str, **record: object) -> None:
        (run,) = (run for run in folder.runs() if run.label == label)
        path = run.probe_path(probe, 400)
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"probe": probe, "step": 400, **record}))

    put("plain-8", "signals", layers=[{"layer": n, "variance": v} for n, v in (("a", 1), ("b", 3e37), ("c", None))])
    put("residual-8", "signals", layers=[{"layer": "a", "variance": None}, {"layer": "b", "variance": 3}])
    put("residual-20", "branches", blocks=[{"block": f"stages.0.{n}", "ratio": r} for n, r in enumerate((0, 2, 2))])
    put("residual-8", "branches", blocks=[{"block": f"stages.0.{n}", "ratio": 0} for n in range(3)])
    signals, branches = (section.headline for section in read(folder)[1])
    assert "trained nan in plain-8, nan in residual-8" in signals
    assert "0 at depth 8, 2 at depth 20 in residual nets" in branches
