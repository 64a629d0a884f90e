"""The figures at any set of depths, families and names: every label can be read."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import combinations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from matplotlib.axis import Axis

from resexp.cli.report import _slide
from resexp.report import LARGE, SMALL
from resexp.report.figure import Plot, family_looks, styled
from resexp.report.plots import IN_LEGEND, curves_plot, depth_axis, depth_plot, depth_scale
from resexp.report.summary import Summary, summarise
from resexp.runs.store import StudyFolder
from tests.test_report import add_family, study

__all__ = ["study"]

Make = Callable[..., StudyFolder]
PAPER = [20, 32, 44, 56, 110]


def overlapping(axis: Axis) -> list[tuple[str, str]]:
    """The labels of the ticks of an axis that lie on one another."""
    labels = [label for label in axis.get_ticklabels(which="both") if label.get_text() and label.get_visible()]
    boxes = {label.get_text(): label.get_window_extent() for label in labels}
    return [(a, b) for a, b in combinations(boxes, 2) if boxes[a].overlaps(boxes[b])]


def labels(plot: Plot) -> list[str]:
    return [label.get_text() for label in plot.panels[-1][0].get_xticklabels()]


@settings(max_examples=20, deadline=None)
@given(
    st.sets(st.integers(1, 334).map(lambda n: 6 * n + 2), min_size=1, max_size=60).map(sorted),
    st.sampled_from([(LARGE, 1), (SMALL, 1), ((8.0, 4.2), 2)]),
)
@example([*PAPER, 1202], (SMALL, 1))
@example(list(range(8, 308, 6)), (SMALL, 1))
@example([8, 1994, 2000], (SMALL, 1))
def test_no_two_depths_lie_on_one_another(depths: list[int], shape: tuple[tuple[float, float], int]) -> None:
    """Each depth has a tick, and the ends have a label, in figures with a panel or two."""
    size, panels = shape
    plot = styled(Plot)("", "depth (layers)", "error (%)", size, [[""] * panels])
    plot.axes.plot(depths, depths)
    styled(depth_axis)(plot, depths)
    plot.figure.set_dpi(150)
    plot.figure.draw_without_rendering()
    for axes in plot.panels[0]:
        assert overlapping(axes.xaxis) == []
        assert sorted([*axes.get_xticks(), *axes.get_xticks(minor=True)]) == depths
    assert labels(plot)[0] == str(depths[0])
    assert labels(plot)[-1] == str(depths[-1])


@pytest.mark.parametrize(
    ("depths", "scale"),
    [
        ([20], "linear"),
        ([20, 38], "linear"),
        ([20, 1202], "linear"),
        (PAPER, "linear"),
        ([18, 34, 50, 101, 152], "linear"),
        (list(range(8, 308, 6)), "linear"),
        ([*PAPER, 1202], "log"),
        ([20, 56, 1202], "log"),
        ([8, 14, 20, 26, 32, 302], "log"),
    ],
)
def test_depths_that_one_far_away_would_press_together_get_a_log_axis(depths: list[int], scale: str) -> None:
    assert depth_scale(depths) == scale


def drawn(study: Make, depths: list[int]) -> Summary:
    """A study of nets of these depths whose plain nets come to grief."""
    plain = {("plain", depth): [min(94.0, 3 + depth / 8), min(95.0, 4 + depth / 8)] for depth in depths}
    return summarise(study(plain | {("residual", depth): [5 + 20 / depth, 6 + 20 / depth] for depth in depths}))


def test_the_papers_depths_are_all_labelled_and_the_axis_says_that_it_is_logarithmic(study: Make) -> None:
    summary = drawn(study, [*PAPER, 1202])
    plot = depth_plot(summary.nets, "running", summary.verdict.families, LARGE)
    assert labels(plot) == ["20", "32", "44", "56", "110", "1202"]
    assert plot.axes.get_xlabel() == "depth (layers), log scale"


def test_without_a_common_depth_at_the_end_the_title_has_both_rises(study: Make) -> None:
    errors = {("plain", 20): [1.0, 1.2], ("plain", 56): [6.0, 6.2], ("residual", 20): [0.8, 1.0]}
    summary = summarise(study(errors | {("residual", 110): [0.5, 0.7]}))
    assert summary.seen == (
        "Training error: +5.0 points in plain nets from 20 to 56, -0.3 points in residual nets from 20 to 110 layers"
    )


def test_names_at_the_ends_of_lines_do_not_lie_on_the_axis(study: Make) -> None:
    summary = summarise(study({(kind, depth): [0.0] for kind in ("plain", "residual") for depth in (20, 56)}))
    plot = depth_plot(summary.nets, "running", summary.verdict.families, LARGE)
    plot.figure.draw_without_rendering()
    boxes = {text.get_text(): text.get_window_extent() for text in plot.axes.texts}
    assert boxes["residual"].y0 > boxes["plain"].y1 > boxes["plain"].y0 > plot.axes.bbox.y0


def test_a_long_legend_leaves_the_lines_their_room(study: Make) -> None:
    """Except in a slide, whose size is given."""
    errors = {("plain", depth): [depth, depth + 1] for depth in (8, 14)}
    folder, heights = study(errors), list[float]()
    add_family(folder, "dirac", errors, model={"init": "dirac"})
    for number in range(2):
        summary = summarise(folder)
        for grows in (True, False):
            plot = depth_plot(summary.nets, "clean", summary.verdict.families, SMALL, grows=grows)
            plot.figure.draw_without_rendering()
            heights.append(plot.axes.bbox.height)
        if not number:
            for decay in range(1, 9):
                words = {"weight_decay": decay / 1000, "momentum": 0.5 + decay / 100}
                add_family(folder, f"weight_decay={decay / 1000}-momentum={0.5 + decay / 100}", errors, train=words)
    few, fixed, many, pressed = heights
    assert few == fixed
    assert many > 0.75 * few
    assert many > 1.5 * pressed


@pytest.mark.parametrize("size", ["640x480", "480x640", "800x200", "100x100", "1920x1080"])
def test_the_text_of_a_slide_fits_it(study: Make, size: str) -> None:
    slide = _slide(size, 200, None, None)
    assert slide is not None
    assert f"{slide.pixels[0]}x{slide.pixels[1]}" == size
    inches = slide.pixels[0] / slide.dpi, slide.pixels[1] / slide.dpi
    summary = drawn(study, [*PAPER, 1202])
    plot = depth_plot(summary.nets, "running", summary.verdict.families, inches)
    plot.figure.draw_without_rendering()
    assert overlapping(plot.axes.xaxis) == []
    (legend,) = plot.figure.legends
    assert legend.get_window_extent().y1 < plot.axes.xaxis.label.get_window_extent().y0


def test_families_of_one_depth_stand_side_by_side(study: Make) -> None:
    """Or the residual net would hide the plain one."""
    summary = drawn(study, [20])
    plot = depth_plot(summary.nets, "running", summary.verdict.families, LARGE)
    plain, residual = (container.lines[0].get_xdata()[0] for container in plot.axes.containers)
    assert plain < 20 < residual
    pixels = [plot.axes.transData.transform((x, 0))[0] for x in (plain, residual)]
    assert pixels[1] - pixels[0] > 10
    assert labels(plot) == ["20"]


def test_of_many_families_no_two_look_alike(study: Make) -> None:
    """Seven markers and three shades of a kind: with six markers every sixth family looked like another."""
    looks = family_looks(["plain", *(f"plain {number}" for number in range(20))])
    assert len({(look["color"], look["marker"]) for look in looks.values()}) == 21
    folder = study({("plain", 8): [30.0, 31.0], ("plain", 20): [40.0, 41.0]})
    for number in range(1, 9):
        add_family(folder, f"lr=0.0{number}", {("plain", 8): [30.0], ("plain", 20): [40.0]}, train={"lr": number / 100})
    summary = summarise(folder)
    plot = depth_plot(summary.nets, "running", ["plain"], LARGE)
    assert len({(line.get_color(), line.get_marker()) for line in plot.axes.lines if line.get_marker() != "None"}) >= 9


def test_an_axis_that_does_not_begin_at_zero_says_so(study: Make) -> None:
    records = drawn(study, [8]).records
    names = {low: curves_plot(records, "plain", (low, 100), SMALL).axes.get_ylabel() for low in (0, 20)}
    assert names == {0: "error (%)", 20: "error (%), axis from 20"}


def test_curves_say_where_they_end(study: Make) -> None:
    titles = [
        curves_plot(drawn(study, depths).records, kind, (0, 100), LARGE).axes.get_title("left").replace("\n", " ")
        for kind, depths in (("plain", [8, 38, 56]), ("residual", [8, 56]), ("plain", [8]))
    ]
    assert titles == [
        "plain nets: training error 4.5 % with 8 layers, 10.5 % with 56",
        "residual nets: training error 8.0 % with 8 layers, 5.9 % with 56",
        "plain nets",
    ]


def test_fifty_curves_leave_room_for_themselves(study: Make) -> None:
    depths = list(range(8, 308, 6))
    plot = curves_plot(drawn(study, depths).records, "plain", (0, 100), SMALL)
    plot.figure.draw_without_rendering()
    (legend,) = plot.figure.legends
    named = [text.get_text() for text in legend.get_texts()]
    assert len(named) == IN_LEGEND
    assert (named[0], named[-1]) == ("plain-8", "plain-302")
    assert plot.axes.get_position().height > 0.5


def test_long_names_fit_the_figure(study: Make) -> None:
    """A legend of long names has fewer columns; titles of panels break into lines."""
    errors = {(kind, depth): [10.0] for kind in ("plain", "residual") for depth in (8, 14)}
    folder, variant = study(errors), "warmup_until_error0.8-warmup_lr0.01-precisionbf16"
    changes = {"warmup_lr": 0.01, "warmup_until_error": 0.8, "precision": "bf16"}
    add_family(folder, variant, errors, train=changes)
    summary = summarise(folder)
    plot = depth_plot(summary.nets, "running", summary.verdict.families, SMALL)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # of axes that have no room left
        plot.figure.draw_without_rendering()
    (legend,) = plot.figure.legends
    assert legend.get_window_extent().width <= plot.figure.bbox.width

    long = f"residual {variant}, after training".replace("-", " ")
    wide = styled(Plot)("", "layer", "error (%)", (6.0, 4.2), [[long, long]])
    wide.figure.draw_without_rendering()
    left, right = (axes.title.get_window_extent() for axes in wide.panels[0])
    assert not left.overlaps(right)
