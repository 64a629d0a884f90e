"""Controls: does what a study shows depend on what else it varies?"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from resexp.report import build_report
from resexp.report.controls import table
from resexp.report.figure import OnPage
from resexp.report.page import html, markdown
from resexp.report.plots import controls_plot, depth_plot
from resexp.report.summary import summarise
from resexp.runs.store import StudyFolder
from tests.test_report import DEGRADES, Errors, add_family, study

__all__ = ["study"]

Make = Callable[..., StudyFolder]


def shifted(errors: Errors, points: float) -> Errors:
    """The deepest plain net `points` worse."""
    return {net: [v + points * (net == ("plain", 44)) for v in values] for net, values in errors.items()}


def precisions(make: Make, bf16: Errors, fp32: Errors = DEGRADES) -> StudyFolder:
    folder = make(fp32, variant="-precision=fp32")
    add_family(folder, "precision=bf16", bf16, train={"precision": "bf16"})
    return folder


def test_the_differences_of_the_verdict_are_given_for_every_condition(study: Make) -> None:
    found = summarise(precisions(study, shifted(DEGRADES, 2))).controls
    assert [control.condition for control in found] == ["precision=fp32", "precision=bf16"]
    assert [control.changes["plain"].difference.value for control in found] == pytest.approx([50, 52])
    assert [control.changes["gap"].difference.value for control in found] == pytest.approx([55, 57])
    assert [control.changes["interaction"].difference.value for control in found] == pytest.approx([55, 57])
    assert [control.changes["gap"].at for control in found] == ["depth 44", "depth 44"]


def test_residual_nets_without_plain_nets_of_their_recipe_are_a_condition(study: Make) -> None:
    folder = study(DEGRADES, variant="-classifier_std=none")
    residual = {net: [v + (net[1] == 44) for v in values] for net, values in DEGRADES.items() if net[0] == "residual"}
    add_family(folder, "classifier_std=0.01", residual, model={"classifier_std": 0.01})
    usual, small = summarise(folder).controls
    assert (usual.condition, small.condition) == ("classifier_std=none", "classifier_std=0.01")
    assert set(usual.changes) == set(small.changes) == {"residual"}
    rises = [control.changes["residual"].difference.value for control in (usual, small)]
    assert rises[1] - rises[0] == pytest.approx(1)


def test_a_net_of_one_seed_counts_neither_in_the_verdict_nor_in_the_controls(study: Make) -> None:
    deeper = DEGRADES | {("plain", 110): [95.0], ("residual", 110): [5.0]}
    found = summarise(precisions(study, deeper, deeper))
    assert found.verdict.interaction == found.controls[0].changes["interaction"].difference
    assert found.verdict.interaction is not None
    assert found.verdict.interaction.value == pytest.approx(55)
    assert {change.at for control in found.controls for change in control.changes.values()} == {
        "depth 44", "depths 8 and 44"
    }  # fmt: skip
    assert [control.deepest["plain"].at for control in found.controls] == ["depth 44", "depth 44"]


def test_the_title_counts_the_conditions_in_which_the_effect_is_shown(study: Make) -> None:
    even = {net: DEGRADES["residual", net[1]] for net in DEGRADES}
    found = summarise(precisions(study, even)).controls
    assert controls_plot(found).axes.get_title("left").replace("\n", " ") == (
        "Plain nets' error rises more with depth in 1 of 2 conditions"
    )


def test_a_difference_between_conditions_is_tested_by_the_contrast_of_their_means(study: Make) -> None:
    """Variances 1, 4, 1 and 4 of three seeds each: 10/3 in all, with 100 / 17 degrees of freedom."""
    found = summarise(precisions(study, shifted(DEGRADES, 2))).controls
    half = stats.t(100 / 17).ppf(0.975) * (10 / 3) ** 0.5
    header, rows = table(found)
    assert header[:2] == ["condition", "difference of the rises, points, depths 8 and 44"]
    assert [row[0] for row in rows] == ["precision=fp32", "precision=bf16", "precision=bf16: change"]
    assert [row[2] for row in rows] == [
        "+50.0 [+45.8, +54.2]", "+52.0 [+47.8, +56.2]", f"+2.0 [{2 - half:+.1f}, {2 + half:+.1f}]",
    ]  # fmt: skip


def test_an_interval_that_leaves_zero_out_shows_a_difference(study: Make) -> None:
    first, _, (_, *changes) = table(summarise(precisions(study, shifted(DEGRADES, 20))).controls)[1]
    assert [change.startswith("+20.0 [+1") and change.endswith(" *") for change in changes[:4]] == [
        True,
        True,
        False,
        True,
    ]
    assert first[3].startswith("-5.0 [")
    assert changes[2].startswith("+0.0 [")


def test_the_error_of_the_deepest_net_changes_by_welchs_difference(study: Make) -> None:
    header, (first, second, change) = table(summarise(precisions(study, shifted(DEGRADES, 2))).controls)
    assert header[-2:] == ["plain nets' error, %, depth 44", "residual nets' error, %, depth 44"]
    errors = DEGRADES["plain", 44]
    assert first[-2].startswith(f"{np.mean(errors):.2f} ± ")
    assert second[-2].startswith(f"{np.mean(errors) + 2:.2f} ± ")
    ends = stats.ttest_ind([error + 2 for error in errors], errors, equal_var=False).confidence_interval()
    assert change[-2] == f"+2.0 [{ends.low:+.1f}, {ends.high:+.1f}]"
    assert change[-1].startswith("+0.0 [")


def test_an_error_is_compared_where_only_plain_nets_vary(study: Make) -> None:
    folder = study(DEGRADES)
    plain = {net: values for net, values in DEGRADES.items() if net[0] == "plain"}
    add_family(folder, "lr=0.01", plain, train={"lr": 0.01})
    header, rows = table(summarise(folder).controls)
    assert header == ["condition", "plain nets' rise, points, depths 8 and 44", "plain nets' error, %, depth 44"]
    assert [row[0] for row in rows] == ["baseline", "lr=0.01", "lr=0.01: change"]


def test_of_several_conditions_each_needs_more_to_differ(study: Make) -> None:
    """Bonferroni: of three others, each at 98.3 %."""
    folder = precisions(study, shifted(DEGRADES, 5))
    alone = table(summarise(folder).controls)[1][-1][2]
    for name in ("fp16", "auto"):
        add_family(folder, f"precision={name}", DEGRADES, train={"precision": name, "gamma": 0.5})
    assert re.fullmatch(r"\+5\.0 \[.*\] \*", alone)
    assert re.fullmatch(r"\+5\.0 \[.*\]", table(summarise(folder).controls)[1][4][2])


def test_one_seed_a_net_has_no_interval_and_no_bar(study: Make) -> None:
    single = {net: values[:1] for net, values in DEGRADES.items()}
    found = summarise(precisions(study, single, single)).controls
    assert [row[1] for row in table(found)[1]] == ["+54.0", "+54.0", "+0.0"]
    bars = [line for line in controls_plot(found).axes.lines if len(line.get_xdata()) == 2]
    with_seeds = summarise(precisions(study, DEGRADES)).controls
    assert len([line for line in controls_plot(with_seeds).axes.lines if len(line.get_xdata()) == 2]) == len(bars) + 8


def test_a_condition_of_one_kind_is_set_beside_the_other_kind_without_one(study: Make) -> None:
    """Plain nets have no shortcut: each kind of shortcut has a gap to them and a rise of its own."""
    folder = study({net: values for net, values in DEGRADES.items() if net[0] == "plain"})
    residual = {net: values for net, values in DEGRADES.items() if net[0] == "residual"}
    for option in "AB":
        add_family(folder, f"shortcut={option}", residual, model={"shortcut": option})
    found = summarise(folder).controls
    assert [(control.condition, list(control.changes)) for control in found] == [
        ("shortcut=A", ["interaction", "residual", "gap"]), ("shortcut=B", ["interaction", "residual", "gap"]),
    ]  # fmt: skip


def test_differences_between_other_depths_say_so(study: Make) -> None:
    shallower = {net: values for net, values in DEGRADES.items() if net[1] == 8}
    folder = precisions(study, {**shallower, ("plain", 20): [30, 31, 32], ("residual", 20): [8, 9, 10]})
    header, (first, second, _) = table(summarise(folder).controls)
    assert header[1] == "difference of the rises, points"
    assert first[1].endswith("] (depths 8 and 44)")
    assert second[1].endswith("] (depths 8 and 20)")


def test_what_varies_is_named(study: Make) -> None:
    folder = precisions(study, DEGRADES)
    assert summarise(folder).varied == "precision"
    add_family(folder, "warmup", DEGRADES, train={"lr": 0.05, "gamma": 0.5})
    assert summarise(folder).varied == "gamma, lr or precision"


def test_the_page_has_a_section_and_a_figure(study: Make) -> None:
    folder = precisions(study, DEGRADES)
    build_report(folder, folder.folder / "report")
    page = (folder.folder / "report/index.html").read_text()
    assert re.search('<h2 id="controls">Does it depend on precision\\? <a', page)
    tip = "precision=bf16, plain minus residual, deepest (at depth 44): +55.0 points [+50.8, +59.2]"
    assert f"<title>{tip}</title>" in page
    assert (folder.folder / "report/figures/controls.png").exists()
    assert "Does it depend on precision?" in (folder.folder / "report/summary.md").read_text()


def test_residual_nets_alone_have_their_intervals(study: Make) -> None:
    folder = study({("residual", 8): [10, 11], ("residual", 44): [13, 14]})
    add_family(folder, "C", {("residual", 8): [10, 11], ("residual", 44): [20, 21]}, model={"shortcut": "C"})
    build_report(folder, folder.folder / "report")
    page = (folder.folder / "report/index.html").read_text()
    assert "There is no interval" not in page
    assert "+3.0 points [-0.04, +6.0]</title>" in page


def test_a_study_that_varies_nothing_else_has_neither(study: Make) -> None:
    folder = study(DEGRADES)
    assert build_report(folder, folder.folder / "report").controls == []
    assert "Does it depend" not in (folder.folder / "report/index.html").read_text()
    assert not (folder.folder / "report/figures/controls.png").exists()


def test_of_many_families_only_those_judged_have_bars_and_seeds(study: Make) -> None:
    folder = precisions(study, DEGRADES)
    add_family(folder, "precision=fp16", DEGRADES, train={"precision": "fp16"})
    summary = summarise(folder)
    axes = depth_plot(summary.nets, "running", summary.verdict.families, (6, 4)).axes
    bars = {container.get_label(): container.has_yerr for container in axes.containers}
    assert bars == {
        "plain precision=fp32": True, "residual precision=fp32": True, "plain precision=bf16": False,
        "plain precision=fp16": False, "residual precision=bf16": False, "residual precision=fp16": False,
    }  # fmt: skip
    assert list(bars)[:2] == summary.verdict.families
    looks = {(c.lines[0].get_color(), c.lines[0].get_marker()) for c in axes.containers}
    assert len(looks) == 6


def test_the_question_is_whole_where_no_setting_is_named(study: Make) -> None:
    found = replace(summarise(precisions(study, DEGRADES)), varied="")
    assert "\nDoes it depend on the condition? " in markdown(found, [], [])
    blank = defaultdict(lambda: OnPage("", "", [], "", "", False))
    assert '<h2 id="controls">Does it depend on the condition? <a' in html(found, blank, [], [])
