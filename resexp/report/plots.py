"""The figures. Colours are Okabe and Ito's, which people with any colour vision can tell apart; markers and dashes
repeat what colour says."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from html import escape
from itertools import cycle
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from resexp.report.stats import METRICS, Net, RunRecord

INK = "#1b1f24"
"""Text and axes. On the page it becomes the page's own text colour, light or dark."""
PALETTE = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P")
MAX_POINTS = 250
"""Points of a training curve; more would only make the page larger."""

STYLE: dict[Any, Any] = {
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


class Plot:
    """A figure and the tooltips of its points."""

    def __init__(self, title: str, xlabel: str, ylabel: str, size: tuple[float, float]) -> None:
        self.figure = Figure(figsize=size, layout="constrained")
        self.axes: Axes = self.figure.subplots()
        self.axes.set(title=title, xlabel=xlabel, ylabel=ylabel)
        self.tips: list[str] = []

    def tip(self, text: str) -> str:
        """An id for an artist whose tooltip is `text`."""
        self.tips.append(text)
        return f"tip{len(self.tips) - 1}"

    @mpl.rc_context(STYLE)
    def file(self, kind: str) -> bytes:
        """The figure as a PNG, PDF or SVG file, on white."""
        metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format=kind, dpi=150, facecolor="white", metadata=metadata)
        return buffer.getvalue()

    @mpl.rc_context(STYLE)
    def inline(self) -> str:
        """The figure as SVG for the page: in the page's text colour and font, with tooltips."""
        buffer = io.StringIO()
        self.figure.savefig(buffer, format="svg", facecolor="none", metadata={"Date": None})
        svg = buffer.getvalue()
        svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
        for attribute in ("width", "height"):  # the page decides how large it is
            svg = re.sub(rf'(<svg[^>]*?) {attribute}="[^"]*"', r"\1", svg, count=1)
        for number, text in enumerate(self.tips):
            mark = f'<g id="tip{number}">'
            svg = svg.replace(mark, f"<g><title>{escape(text)}</title>", 1)
        return svg


@mpl.rc_context(STYLE)
def depth_plot(nets: Sequence[Net], metric: str, size: tuple[float, float]) -> Plot:
    """An error against depth: a line a family through the means, bars of one standard deviation, a faint dot a seed."""
    name = METRICS[metric]
    plot = Plot(f"{name[0].upper()}{name[1:]}", "depth (layers)", "error (%)", size)
    axes = plot.axes
    families = list(dict.fromkeys(net.family for net in nets))
    for number, (family, colour, marker) in enumerate(zip(families, cycle(PALETTE), cycle(MARKERS), strict=False)):
        of_family = [net for net in nets if net.family == family]
        # More than two curves that meet would hide each other: they stand side by side.
        shift = 0.5 * (number - (len(families) - 1) / 2) if len(families) > 2 else 0.0
        depths = [net.depth + shift for net in of_family]
        errors = [net.errors[metric] for net in of_family]
        spread = [error.std or 0 for error in errors]
        dashes = "-" if family.startswith("plain") else "--"
        look: dict[str, Any] = {"color": colour, "marker": marker}
        axes.errorbar(depths, [e.mean for e in errors], spread, linestyle=dashes, capsize=3, label=family, **look)
        for net, error in zip(of_family, errors, strict=True):
            seeds = [net.depth + shift] * len(error.values)
            axes.plot(seeds, error.values, alpha=0.3, markersize=4, linestyle="none", **look)
            tip = plot.tip(f"{net.label}: {error} %, n = {len(error.values)}")
            axes.plot([net.depth + shift], [error.mean], markersize=7, gid=tip, **look)
        published = [
            (net.depth + shift, getattr(net.published, _PAPER[metric]))
            for net in of_family
            if net.published and metric in _PAPER
        ]
        if published:
            axes.plot(*zip(*published, strict=True), "x", color=colour, markersize=9, label=f"{family}, He et al. 2015")
    depths = sorted({net.depth for net in nets})
    axes.set_xticks(depths, [str(depth) for depth in depths])
    axes.set_ylim(bottom=0)
    plot.figure.legend(loc="outside lower center", ncols=2)
    return plot


_PAPER = {"running": "train", "test": "test"}
"""What of the paper's numbers belongs beside which error."""


@mpl.rc_context(STYLE)
def curves_plot(records: Iterable[RunRecord], family: str, top: float, size: tuple[float, float]) -> Plot:
    """Training curves in the manner of Fig. 6: training error dashed, validation bold, the final test error a mark.

    Each curve is the mean over seeds; `top` is the upper end of the error axis, shared by the families.
    """
    plot = Plot(f"{family} nets", "step", "error (%)", size)
    by_net: dict[str, list[RunRecord]] = {}
    for record in sorted(records, key=lambda r: r.config.model.depth):
        if record.family == family and len(record.metrics):
            by_net.setdefault(record.run.label, []).append(record)
    for (label, of_net), colour, marker in zip(
        by_net.items(), _depth_colours(len(by_net)), cycle(MARKERS), strict=False
    ):
        metrics = pd.concat([record.metrics for record in of_net])
        train, validation, test = (_curve(metrics, f"{part}_error") for part in ("train", "val", "test"))
        plot.axes.plot(train.index, train, color=colour, linestyle="--", linewidth=1.2, label=label)
        plot.axes.plot(validation.index, validation, color=colour, linewidth=2.5)
        if len(test):
            tip = plot.tip(f"{label}: test error {test.iloc[-1]:.2f} % at the end")
            plot.axes.plot(test.index, test, color=colour, marker=marker, markersize=7, clip_on=False, gid=tip)
    plot.axes.set_ylim(0, top)
    plot.axes.set_xlim(left=0)
    plot.axes.xaxis.set_major_formatter(
        FuncFormatter(lambda step, _: f"{step / 1000:g}k" if step >= 1000 else f"{step:g}")
    )
    plot.figure.legend(loc="outside lower center", ncols=4, fontsize="small")
    return plot


def _curve(metrics: pd.DataFrame, column: str) -> pd.Series:
    """Mean over seeds of a column by step, at most MAX_POINTS points, each the mean of its neighbours."""
    curve = metrics[metrics[column].notna()].groupby("step")[column].mean()
    width = -(-len(curve) // MAX_POINTS) or 1
    bins = [position // width for position in range(len(curve))]
    thinned = curve.groupby(bins).mean()
    thinned.index = curve.index.to_series().groupby(bins).last()
    return thinned


def _depth_colours(count: int) -> list[str]:
    """A colour a net, shallow to deep; more nets than can be told apart by hue get shades from dark to light."""
    hues = ["#E69F00", "#56B4E9", "#009E73", "#D55E00", "#CC79A7", "#0072B2", "#999999"]
    if count <= len(hues):
        return hues[:count]
    shades = mpl.colormaps["cividis"]
    return [to_hex(shades(0.2 + 0.8 * i / (count - 1))) for i in range(count)]
