"""The figures of the training: errors against depth, training curves, and what the conditions of a study change."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter

from resexp import paper
from resexp.report.controls import QUANTITIES, Control
from resexp.report.figure import INK, KINDS, MARKERS, NEUTRAL, Plot, depth_colours, family_looks, styled
from resexp.report.stats import METRICS, ItemT, Net, RunRecord, Series, grouped

HE_2015 = "He et al. 2015"
MAX_BARRED = 4
"""Families that one figure can show, each with its bars and seeds."""
SIDE_BY_SIDE = 0.01
"""Distance between families that would hide each other, as a share of the depth axis."""
MORE_EVEN = 1.5
"""Factor in the geometric mean of the gaps between depths that a logarithmic axis must gain to be used."""
LONG = 100_000
"""Steps beyond which a curve counts them in tens of thousands, as the paper's figures do."""
IN_LEGEND = 12
"""Nets that a legend names; more would take the room of the curves."""
LABELLED = 7
"""Curves that are named where they end."""
MAX_POINTS = 250
"""Points of a training curve; more would only make the page larger."""

OF_CURVES = (
    "Pale bars show how far the paper's curve moves after iteration 48,000 (Fig. 6); they are not a spread over runs."
)
OF_RESNET_110 = (
    "The pale bar at ResNet-110's test error is one standard deviation of the paper's five runs on each side (Table 6)."
)

SPLITS = {"running": "train", "test": "test"}
"""The paper's names of the errors; it has no clean one."""


def _has_five_runs(net: Net, split: str) -> bool:
    """Whether the paper gives the spread of five runs for this number."""
    return (net.kind, net.depth, split) == ("residual", 110, "test")


def of_the_paper(nets: Iterable[Net], metrics: Iterable[str] = ("running", "test")) -> str:
    """What figures of these errors draw of the paper, in words; empty if nothing."""
    splits = [SPLITS[metric] for metric in metrics if metric in SPLITS]
    published = [net for net in nets if any(getattr(net.published, split, None) is not None for split in splits)]
    with_curves = [net for net in published if net.published and net.published.bands]
    with_spread = [net for net in with_curves if _has_five_runs(net, "test") and "test" in splits]
    sentences = {"Crosses are the paper's numbers.": published, OF_CURVES: with_curves, OF_RESNET_110: with_spread}
    return " ".join(sentence for sentence, having in sentences.items() if having)


@styled
def depth_plot(
    nets: Sequence[Net],
    metric: str,
    judged: Sequence[str],
    size: tuple[float, float],
    title: str = "",
    *,
    looks: Mapping[str, dict[str, Any]] | None = None,
    top: float | None = None,
    grows: bool = True,
) -> Plot:
    """An error against depth: a line per family through means, bars of one standard deviation, a faint dot per seed.

    Of more than MAX_BARRED families only those `judged` are drawn so; the others are thin lines. The `title` says what
    is seen; without one it is the name of the error. `looks` are the families' colours, markers and lines, `top` is the
    end of the error axis, percent. `grows`: see `Plot.legend`.
    """
    name = METRICS[metric]
    split = SPLITS.get(metric, "")
    plot = Plot(title or f"{name[0].upper()}{name[1:]}", "depth (layers)", f"{name.partition(',')[0]} (%)", size)
    several = any(len(net.runs) > 1 for net in nets)
    plot.note = "Means over seeds; bars: one standard deviation; faint dots: seeds." if several else "One run per net."
    axes = plot.axes
    depths = sorted({net.depth for net in nets})
    families = sorted(dict.fromkeys(net.family for net in nets), key=lambda family: family not in judged)
    full = [family for family in families if len(families) <= MAX_BARRED or family in judged]
    ends = []
    looks = looks or family_looks(families)
    for number, family in enumerate(families):
        of_family = [net for net in nets if net.family == family]
        look, barred = looks[family], family in full
        shift = SIDE_BY_SIDE * (number - (len(full) - 1) / 2) if barred else 0.0
        at = [_shifted(net.depth, shift, depths) for net in of_family]
        errors = [net.errors[metric] for net in of_family]
        means = [error.mean for error in errors]
        bars = {"yerr": [error.std or 0 for error in errors], "capsize": 3} if barred else {"linewidth": 0.8}
        plot.errorbar(at, means, family, markersize=6 if barred else 3, **bars, **look)
        for net, x, error in zip(of_family, at, errors, strict=True):
            tip = f"{net.label}: {error} %, n = {len(error.values)}"
            plot.line([x], [error.mean], family, tip, markersize=7 if barred else 3, **look)
            for run in net.runs if barred else ():
                tip = f"{net.label}, seed {run.config.seed}: {run.errors[metric]:.2f} %"
                faint = look | {"alpha": 0.3, "markersize": 4, "linestyle": "none"}
                plot.line([x], [run.errors[metric]], family, tip, **faint)
        if barred:
            right = _shifted(of_family[-1].depth, SIDE_BY_SIDE * (len(full) - 1) / 2, depths)  # clear of other families
            ends.append((right, means[-1], family, look["color"], family))
        series = f"{family}, {HE_2015}"
        crosses = look | {"marker": "x", "linestyle": "none", "markersize": 9, "label": series}
        for net, x in zip(of_family, at, strict=True):
            theirs = getattr(net.published, split, None)
            if net.published is None or theirs is None:
                continue
            tip = f"{net.label}, {HE_2015}: {theirs:.2f} %"
            if band := net.published.bands.get(split):
                what = "five runs" if _has_five_runs(net, split) else "curve after 48,000"
                tip += f" ({what}: {band[0]:.2f} to {band[1]:.2f})"
                pale: dict[str, Any] = {"linewidth": 9, "alpha": 0.3, "solid_capstyle": "butt"}
                plot.line([x, x], band, series, color=look["color"], paper=True, **pale)
            plot.line([x], [theirs], series, tip, paper=True, **crosses)
            crosses["label"] = None
    if words := of_the_paper(nets, [metric]):
        plot.note += f" {words}"
    # the margin of the data's range would cut marks at the top
    axes.set_ylim(0, top or 1.05 * axes.dataLim.ymax or None)
    plot.legend(2, "medium" if len(families) <= MAX_BARRED else "small", grows=grows)
    if len(depths) > 1:
        plot.label_ends(ends)
    depth_axis(plot, depths)
    return plot


def depth_scale(depths: Sequence[int]) -> str:
    """``log`` where the depths, ascending, lie far more evenly on it than on a ``linear`` axis: 20, 56, 110, 1202."""
    evenness = [
        np.log(np.diff(places) / np.ptp(places)).mean() if len(places) > 1 else 0.0
        for places in (np.asarray(depths), np.log(depths))
    ]
    return "log" if evenness[1] > evenness[0] + math.log(MORE_EVEN) else "linear"


def _shifted(depth: int, share: float, depths: Sequence[int]) -> float:
    """Where a depth lies once it is moved by a `share` of the axis of the `depths`."""
    low, high = depths[0], depths[-1]
    if depth_scale(depths) == "log":
        return float(depth * (high / low) ** share)
    return depth + share * (high - low or 1)


def depth_axis(plot: Plot, depths: Sequence[int]) -> None:
    """A tick for each of the depths, ascending, on their `depth_scale`, with as many labels as fit.

    The shallowest and the deepest always have theirs. Call it last: the room depends on all that the figure holds.
    """
    axes = plot.panels[-1][0]
    if depth_scale(depths) == "log":
        for panel in plot.panels[-1]:
            panel.set(xscale="log", xlabel=f"{panel.get_xlabel()}, log scale")
    if len(depths) == 1:
        axes.set_xlim(depths[0] - 0.1, depths[0] + 0.1)
    axes.set_xticks(depths, map(str, depths))
    plot.lay_out()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    room = boxes[0].height / 2
    kept = [0]
    for number in range(1, len(depths) - 1):
        if boxes[kept[-1]].x1 + room < boxes[number].x0 and boxes[number].x1 + room < boxes[-1].x0:
            kept.append(number)
    shown = sorted({*(depths[number] for number in kept), depths[-1]})
    axes.set_xticks(shown, map(str, shown))
    axes.set_xticks([depth for depth in depths if depth not in shown], [], minor=True)


@styled
def curves_plot(
    records: Iterable[RunRecord], family: str, ends: tuple[float, float], size: tuple[float, float], of: str = ""
) -> Plot:
    """Training curves in the manner of Figs. 4 and 6: training error dashed, validation bold, the final test error a
    mark.

    Each curve is the mean over seeds. Thin lines are the paper's own, training dashed and test solid, for the nets
    that may be compared with them. `ends` are those of the error axis, shared by the families. `of` names the study.
    """
    drawn = [record for record in records if record.family == family and len(record.metrics["train_error"].steps)]
    by_net = grouped(sorted(drawn, key=lambda r: r.config.model.depth), lambda r: r.run.label)
    title = f"{family} nets{of and f' of {of}'}{_where_they_end(list(by_net.values()))}"
    plot = Plot(title, "step", f"error (%){f', axis from {ends[0]:g}' if ends[0] else ''}", size)
    validated = "validation error bold, " * any(len(record.metrics["val_error"].steps) for record in drawn)
    over = "Means over seeds" if any(len(of_net) > 1 for of_net in by_net.values()) else "One seed"
    plot.note = f"{over}: running training error dashed, {validated}final test error a mark."
    plot.zooms = True
    named, colours = named_in_legend(by_net), depth_colours(len(by_net))
    lasts = []
    for (label, of_net), colour, marker in zip(by_net.items(), colours, cycle(MARKERS), strict=False):
        model = of_net[0].config.model
        series = f"{model.kind}-{model.depth}" if label in named else label  # the title says which condition
        shown = of_the_curve(of_net)
        train, validation, test = (curve(shown, f"{part}_error") for part in ("train", "val", "test"))
        look: dict[str, Any] = {"color": colour, "linestyle": "--", "linewidth": 1.2}
        named_as = series if label in named else None
        plot.line(train.steps, train.values, series, f"{label}, training", label=named_as, **look)
        plot.line(validation.steps, validation.values, series, f"{label}, validation", color=colour, linewidth=2.5)
        if len(test.steps):
            tip = f"{label}: test error {test.values[-1]:.2f} % at the end"
            look = {"color": colour, "marker": marker, "markersize": 7, "clip_on": False}
            plot.line(test.steps, test.values, series, tip, **look)
            lasts.append((test.steps[-1], test.values[-1], str(model.depth), colour, series))
        published = {} if Net(tuple(of_net)).departures else paper.fig6(model.kind, str(model.block), model.depth)
        for split, points in published.items():
            look = {"color": colour, "linestyle": "--" if split == "train" else "-", "linewidth": 0.6}
            steps, errors = zip(*points, strict=True)
            plot.line(steps, errors, HE_2015, f"{label}, {HE_2015}, {split}", paper=True, **look)
    if HE_2015 in plot.series:
        plot.note += f" Thin lines: {HE_2015}, Fig. 6, training dashed and test solid."
        plot.axes.plot([], [], color=INK, linewidth=0.6, label=HE_2015)
    plot.axes.set_ylim(*ends)
    plot.axes.set_xlim(left=0)
    long = plot.axes.get_xlim()[1] > LONG
    plot.axes.set_xlabel("step (1e4)" if long else "step")
    plot.axes.xaxis.set_major_formatter(FuncFormatter(partial(_step, long)))
    plot.legend(4, "small")
    if len(lasts) <= LABELLED:
        plot.label_ends(lasts)
    return plot


def _where_they_end(nets: Sequence[Sequence[RunRecord]]) -> str:
    """The training errors of the shallowest and the deepest net of a family; `nets` are their runs, by depth."""
    finished = [Net(runs) for of_net in nets if (runs := tuple(run for run in of_net if run.finished))]
    if len(finished) < 2:
        return ""
    errors = [f"{net.errors['running'].mean:.1f} % with {net.depth}" for net in (finished[0], finished[-1])]
    return f": training error {errors[0]} layers, {errors[1]}"


def _step(long: bool, step: float, _: int | None) -> str:
    """A step, in tens of thousands where the curves are `long`."""
    return f"{step / 10_000:g}" if long else f"{step / 1000:g}k" if step >= 1000 else f"{step:g}"


@styled
def controls_plot(found: Sequence[Control]) -> Plot:
    """The differences that the verdict rests on, a row per condition, with 95 % intervals where there are any."""
    rises = [control.changes["interaction"].difference for control in found if "interaction" in control.changes]
    known = [rise.sign > 0 for rise in rises if rise.low is not None]
    title = f"Plain nets' error rises more with depth in {sum(known)} of {len(known)} conditions"
    if not known:
        title = "Difference of the rises by condition" if rises else "Rise of the training error by condition"
    plot = Plot(title, "points, with 95 % intervals", "", (7.0, 1.9 + 0.5 * len(found)))
    plot.note = "Differences of mean running training errors. Conditions whose interval lies above zero are counted."
    axes = plot.axes
    axes.axvline(0, color=INK, linewidth=1)
    colours = {"interaction": INK, "plain": KINDS["plain"][0], "residual": KINDS["residual"][0], "gap": NEUTRAL[0]}
    for number, (quantity, words) in enumerate(QUANTITIES.items()):
        look: dict[str, Any] = {"color": colours[quantity], "marker": MARKERS[number]}
        for row, control in enumerate(found):
            if quantity not in control.changes:
                continue
            change, y = control.changes[quantity], row + 0.18 * (number - 1.5)
            points = change.difference
            if points.low is not None and points.high is not None:
                plot.line([points.low, points.high], [y, y], words, color=look["color"], linewidth=2)
            tip = f"{control.condition}, {words} (at {change.at}): {points}"
            plot.line([points.value], [y], words, tip, markersize=7, **look)
        if any(quantity in control.changes for control in found):
            axes.plot([], [], linestyle="none", label=words, **look)
    plot.rows([control.condition for control in found])
    plot.legend(2)
    return plot


def of_the_curve(of_net: Sequence[RunRecord]) -> list[RunRecord]:
    """The runs of a net that its curve averages: the finished ones, or all where none has finished."""
    return [record for record in of_net if record.finished] or list(of_net)


def curve(records: Sequence[RunRecord], error: str) -> Series:
    """Mean over the runs of an error, at the steps that all of them have: at most MAX_POINTS points, each the mean of
    its neighbours."""
    if not (every := [record.metrics[error] for record in records]):
        return Series(np.zeros(0), np.zeros(0))
    at, which, counts = np.unique(np.concatenate([one.steps for one in every]), return_inverse=True, return_counts=True)
    sums = np.bincount(which, np.concatenate([one.values for one in every]), len(at))
    steps, means = at[counts == len(every)], sums[counts == len(every)] / len(every)
    width = -(-len(steps) // MAX_POINTS) or 1
    first = np.arange(0, len(steps), width)
    last = np.minimum(first + width, len(steps)) - 1
    return Series(steps[last], np.add.reduceat(means, first) / (last - first + 1))


def named_in_legend(items: Iterable[ItemT]) -> set[ItemT]:
    """All items, shallow to deep, or IN_LEGEND of them from the first to the last: the shades between follow."""
    every = list(items)
    return {every[round(at)] for at in np.linspace(0, len(every) - 1, min(len(every), IN_LEGEND))}
