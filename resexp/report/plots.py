"""The figures. Colours are Okabe and Ito's, which people with any colour vision can tell apart; markers and dashes
repeat what colour says."""

from __future__ import annotations

import io
import math
import re
import textwrap
from collections.abc import Iterable, Sequence
from html import escape
from itertools import cycle
from typing import Any, TypeVar

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from resexp import paper
from resexp.report.controls import QUANTITIES, Control
from resexp.report.stats import METRICS, Net, RunRecord, Series

INK = "#1b1f24"
"""Text and axes. On the page it becomes the page's own text colour, light or dark."""
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
HE_2015 = "He et al. 2015"
FEW = 4
"""Families that one figure can show, each with its bars and seeds."""
SIDE_BY_SIDE = 0.01
"""Distance between families that would hide each other, as a share of the depth axis."""
MORE_EVEN = 1.5
"""Factor in the geometric mean of the gaps between depths that a logarithmic axis must gain to be used."""
LETTERS = 9
"""Letters in an inch of a panel's title."""
LONG = 100_000
"""Steps beyond which a curve counts them in tens of thousands, as the paper's figures do."""
IN_LEGEND = 12
"""Nets that a legend names; more would take the room of the curves."""
MAX_POINTS = 250
"""Points of a training curve; more would only make the page larger."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "resexp",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


styled = mpl.rc_context({**mpl.rcParamsDefault, "backend": "agg", **_STYLE})
"""For a function that draws."""

ItemT = TypeVar("ItemT")


class Plot:
    """A figure and the tooltips of its points."""

    def __init__(
        self,
        title: str,
        xlabel: str,
        ylabel: str,
        size: tuple[float, float],
        panels: Sequence[Sequence[str]] = (("",),),
    ) -> None:
        """`panels` are the titles of the panels, row by row; they share both axes."""
        self.figure = Figure(figsize=size, layout="constrained")
        grid = self.figure.subplots(len(panels), len(panels[0]), sharex=True, sharey=True, squeeze=False)
        self.panels: list[list[Axes]] = [list(row) for row in grid]
        self.axes = self.panels[0][0]
        for row, titles in zip(self.panels, panels, strict=True):
            row[0].set_ylabel(ylabel)
            for axes, name in zip(row, titles, strict=True):
                axes.set_title(textwrap.fill(name, int(LETTERS * size[0] / len(titles))), fontsize="medium")
        for axes in self.panels[-1]:
            axes.set_xlabel(xlabel)
        if grid.size == 1:
            self.axes.set_title(": ".join(filter(None, (title, panels[0][0]))))
        else:
            self.figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        self.tips: list[str] = []

    def legend(self, columns: int, fontsize: str = "medium", **look: Any) -> None:
        """Add the legend below the panels, in fewer columns where it would be wider than the figure."""
        while True:
            legend = self.figure.legend(loc="outside lower center", ncols=columns, fontsize=fontsize, **look)
            if columns == 1 or legend.get_window_extent().width <= self.figure.bbox.width:
                return
            legend.remove()
            columns -= 1

    def tip(self, text: str) -> str:
        """An id for an artist whose tooltip is `text`."""
        self.tips.append(text)
        return f"tip{len(self.tips) - 1}"

    @styled
    def files(self) -> dict[str, bytes]:
        """The figure on white, as a PNG, an SVG and a PDF file."""
        found = {}
        for kind, metadata in {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}.items():
            buffer = io.BytesIO()
            self.figure.savefig(buffer, format=kind, dpi=150, facecolor="white", metadata=metadata)
            found[kind] = buffer.getvalue()
        return found

    def inline(self, file: bytes) -> str:
        """Its SVG `file`, for the page: without the white, in the page's text colour and font, with tooltips."""
        svg = file.decode()
        svg = svg[svg.index("<svg") :].replace("fill: #ffffff", "fill: none", 1).replace(INK, "currentColor")
        for attribute in ("width", "height"):  # the page decides how large it is
            svg = re.sub(rf'(<svg[^>]*?) {attribute}="[^"]*"', r"\1", svg, count=1)
        svg = re.sub(r"(\.\d)\d{2,}", r"\1", svg)  # a tenth of a point is finer than a screen shows
        for number, text in enumerate(self.tips):
            mark = f'<g id="tip{number}">'
            svg = svg.replace(mark, f"<g><title>{escape(text)}</title>", 1)
        return svg


@styled
def depth_plot(nets: Sequence[Net], metric: str, judged: Sequence[str], size: tuple[float, float]) -> Plot:
    """An error against depth: a line a family through the means, bars of one standard deviation, a faint dot a seed.

    Of more than FEW families only those `judged` are drawn so; the others are thin lines.
    """
    name = METRICS[metric]
    plot = Plot(f"{name[0].upper()}{name[1:]}", "depth (layers)", "error (%)", size)
    axes = plot.axes
    depths = sorted({net.depth for net in nets})
    families = sorted(dict.fromkeys(net.family for net in nets), key=lambda family: family not in judged)
    full = [family for family in families if len(families) <= FEW or family in judged]
    # More than two curves that meet would hide each other, and so do two points: they stand side by side.
    crowded = len(full) > 2 or len(depths) == 1
    for number, family in enumerate(families):
        of_family = [net for net in nets if net.family == family]
        look: dict[str, Any] = {
            "color": PALETTE[number % len(PALETTE)],
            "marker": MARKERS[(number + number // len(PALETTE)) % len(MARKERS)],
        }
        shift = SIDE_BY_SIDE * (number - (len(full) - 1) / 2) if family in full and crowded else 0.0
        at = [_shifted(net.depth, shift, depths) for net in of_family]
        errors = [net.errors[metric] for net in of_family]
        line = look | {"linestyle": "-" if family.startswith("plain") else "--", "label": family}
        means = [error.mean for error in errors]
        if family in full:
            axes.errorbar(at, means, [error.std or 0 for error in errors], capsize=3, **line)
        else:
            axes.errorbar(at, means, linewidth=0.8, markersize=3, **line)
        for net, x, error in zip(of_family, at, errors, strict=True):
            tip = plot.tip(f"{net.label}: {error} %, n = {len(error.values)}")
            axes.plot([x], [error.mean], markersize=7 if family in full else 3, gid=tip, **look)
            if family in full:
                seeds = [x] * len(error.values)
                axes.plot(seeds, error.values, alpha=0.3, markersize=4, linestyle="none", **look)
        published = [
            (x, theirs)
            for net, x in zip(of_family, at, strict=True)
            if metric in _PAPER and (theirs := getattr(net.published, _PAPER[metric], None)) is not None
        ]
        if published:
            crosses = look | {"marker": "x", "linestyle": "none", "markersize": 9, "label": f"{family}, {HE_2015}"}
            axes.plot(*zip(*published, strict=True), **crosses)
    axes.set_ylim(0, 1.05 * axes.dataLim.ymax or None)  # the margin of the data's range would cut marks at the top
    plot.legend(2, "medium" if len(families) <= FEW else "small")
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
    plot.figure.draw_without_rendering()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    room = boxes[0].height / 2
    kept = [0]
    for number in range(1, len(depths) - 1):
        if boxes[kept[-1]].x1 + room < boxes[number].x0 and boxes[number].x1 + room < boxes[-1].x0:
            kept.append(number)
    shown = sorted({*(depths[number] for number in kept), depths[-1]})
    axes.set_xticks(shown, map(str, shown))
    axes.set_xticks([depth for depth in depths if depth not in shown], [], minor=True)


_PAPER = {"running": "train", "test": "test"}
"""The paper's number for each of our errors."""


@styled
def curves_plot(
    records: Iterable[RunRecord], family: str, ends: tuple[float, float], size: tuple[float, float]
) -> Plot:
    """Training curves in the manner of Figs. 4 and 6: training error dashed, validation bold, the final test error a
    mark.

    Each curve is the mean over seeds. Thin lines are the paper's own, training dashed and test solid, for the nets
    that may be compared with them. `ends` are those of the error axis, shared by the families.
    """
    plot = Plot(f"{family} nets", "step", "error (%)", size)
    beside_the_paper = False
    by_net: dict[str, list[RunRecord]] = {}
    for record in sorted(records, key=lambda r: r.config.model.depth):
        if record.family == family and len(record.metrics["train_error"].steps):
            by_net.setdefault(record.run.label, []).append(record)
    told = told_in_legend(by_net)
    for (label, of_net), colour, marker in zip(
        by_net.items(), depth_colours(len(by_net)), cycle(MARKERS), strict=False
    ):
        model = of_net[0].config.model
        name = f"{model.kind}-{model.depth}" if label in told else None  # the title says which variant
        train, validation, test = (curve(of_net, f"{part}_error") for part in ("train", "val", "test"))
        plot.axes.plot(train.steps, train.values, color=colour, linestyle="--", linewidth=1.2, label=name)
        plot.axes.plot(validation.steps, validation.values, color=colour, linewidth=2.5)
        if len(test.steps):
            tip = plot.tip(f"{label}: test error {test.values[-1]:.2f} % at the end")
            look: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 7}
            plot.axes.plot(test.steps, test.values, clip_on=False, gid=tip, **look)
        published = {} if of_net[0].departures else paper.fig6(model.kind, str(model.block), model.depth)
        for split, points in published.items():
            dashes = "--" if split == "train" else "-"
            plot.axes.plot(*zip(*points, strict=True), color=colour, linestyle=dashes, linewidth=0.6)
        beside_the_paper |= bool(published)
    if beside_the_paper:
        plot.axes.plot([], [], color=INK, linewidth=0.6, label=HE_2015)
    plot.axes.set_ylim(*ends)
    plot.axes.set_xlim(left=0)
    if plot.axes.get_xlim()[1] > LONG:
        plot.axes.set_xlabel("step (1e4)")
        plot.axes.xaxis.set_major_formatter(FuncFormatter(lambda step, _: f"{step / 10_000:g}"))
    else:
        plot.axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
    plot.legend(4, "small")
    return plot


def _thousands(step: float, _: int | None) -> str:
    return f"{step / 1000:g}k" if step >= 1000 else f"{step:g}"


@styled
def controls_plot(found: Sequence[Control]) -> Plot:
    """The differences that the verdict rests on, a row per variant, with 95 % intervals where there are any."""
    title = "Running training error by variant"
    plot = Plot(title, "difference (points); bars are 95 % intervals", "", (7.0, 1.9 + 0.5 * len(found)))
    axes = plot.axes
    axes.axvline(0, color=INK, linewidth=1)
    colours = {"interaction": INK, "plain": PALETTE[0], "residual": PALETTE[1], "gap": PALETTE[2]}
    for number, (quantity, words) in enumerate(QUANTITIES.items()):
        look: dict[str, Any] = {"color": colours[quantity], "marker": MARKERS[number]}
        for row, control in enumerate(found):
            if quantity not in control.changes:
                continue
            change, y = control.changes[quantity], row + 0.18 * (number - 1.5)
            points = change.difference
            if points.low is not None and points.high is not None:
                axes.plot([points.low, points.high], [y, y], color=look["color"], linewidth=2)
            tip = plot.tip(f"{control.variant}, {words} (at {change.at}): {points}")
            axes.plot([points.value], [y], markersize=7, gid=tip, **look)
        if any(quantity in control.changes for control in found):
            axes.plot([], [], linestyle="none", label=words, **look)
    axes.set_yticks(range(len(found)), [control.variant for control in found])
    axes.set_ylim(len(found) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    plot.legend(2)
    return plot


def curve(records: Sequence[RunRecord], error: str) -> Series:
    """Mean over the runs of an error by step, at most MAX_POINTS points, each the mean of its neighbours."""
    every = [record.metrics[error] for record in records]
    steps, which = np.unique(np.concatenate([one.steps for one in every]), return_inverse=True)
    means = np.bincount(which, np.concatenate([one.values for one in every])) / np.bincount(which)
    width = -(-len(steps) // MAX_POINTS) or 1
    first = np.arange(0, len(steps), width)
    last = np.minimum(first + width, len(steps)) - 1
    return Series(steps[last], np.add.reduceat(means, first) / (last - first + 1))


def told_in_legend(items: Iterable[ItemT]) -> set[ItemT]:
    """All items, shallow to deep, or IN_LEGEND of them from the first to the last: the shades between follow."""
    every = list(items)
    return {every[round(at)] for at in np.linspace(0, len(every) - 1, min(len(every), IN_LEGEND))}


def depth_colours(count: int) -> list[str]:
    """A colour a net, shallow to deep; more nets than hues can distinguish get shades from dark to light."""
    hues = ["#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#999999"]
    if count <= len(hues):
        return hues[:count]
    shades = mpl.colormaps["cividis"]
    return [to_hex(shades(0.2 + 0.8 * i / (count - 1))) for i in range(count)]
