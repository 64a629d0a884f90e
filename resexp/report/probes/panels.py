"""What the figures of probes have in common: a panel for each family, a line for each depth; and words on nets."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter, LogLocator, NullLocator

from resexp.report.figure import MARKERS, Plot, depth_colours, styled
from resexp.report.formatting import digits, span
from resexp.report.plots import named_in_legend
from resexp.report.probes.results import LayerwiseT, NetResult, RecordT
from resexp.report.stats import grouped

MARKS = 8
"""Approximate maximum number of markers per line."""

Draw = Callable[[Plot, Axes, NetResult[RecordT], dict[str, Any]], None]
"""Draws a net into its panel, given the look of its line."""


def looks(depths: Iterable[int]) -> dict[int, dict[str, Any]]:
    """How the line of each depth looks, the same in each panel."""
    ordered = sorted(set(depths))
    return {
        depth: {"color": colour, "marker": MARKERS[number % len(MARKERS)], "markersize": 4, "linewidth": 1.5}
        for number, (depth, colour) in enumerate(zip(ordered, depth_colours(len(ordered)), strict=True))
    }


@styled
def panels(title: str, xlabel: str, ylabel: str, nets: Sequence[NetResult[RecordT]], draw: Draw[RecordT]) -> Plot:
    """A panel for each family, a row for each moment, and a legend with the depths."""
    families = list(dict.fromkeys(net.family for net in nets))
    moments = list(dict.fromkeys(net.moment for net in nets))
    titles = [[f"{family}, {moment}" for family in families] for moment in moments]
    plot = Plot(title, xlabel, ylabel, (max(6.0, 1.5 + 3.0 * len(families)), 1.7 + 2.5 * len(titles)), titles)
    look = looks(net.depth for net in nets)
    for depth in sorted(named_in_legend(look)):
        plot.axes.plot([], [], label=f"{depth} layers", **look[depth])
    plot.legend(6, "small")
    for net in nets:
        panel = plot.panels[moments.index(net.moment)][families.index(net.family)]
        draw(plot, panel, net, dict(look[net.depth]))
    return plot


@styled
def profiles(title: str, ylabel: str, nets: Sequence[NetResult[LayerwiseT]], number: str, what: str = "layer") -> Plot:
    """A positive number by layer (or block), on a logarithmic axis, over the layer's place between first and last.

    `number` is the name of its field. Over seeds the mean is geometric; a number that is not positive has no place on
    the axis.
    """

    def draw(plot: Plot, axes: Axes, net: NetResult[LayerwiseT], look: dict[str, Any]) -> None:
        mean = net.geometric(lambda record: record.each(number))
        look |= {"axes": axes, "markevery": -(-len(mean) // MARKS)}
        plot.line(np.linspace(0, 1, len(mean)), mean, f"{net.depth} layers", net.label, **look)

    plot = panels(title, f"place of the {what} (0 first, 1 last)", ylabel, nets, draw)
    logarithmic(plot.axes)
    return plot


def logarithmic(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers where it spans little: powers of ten alone would be too few."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())  # over many powers they take most of the time to draw
    low, high = axes.get_ylim()
    if high < 3 * low:
        axes.set_yscale("linear")
    elif high < 100 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))


def decades(net: NetResult[RecordT], value: Callable[[RecordT], float]) -> str:
    """The geometric mean over seeds of a number that spans decades, and its range: ``380 (190 to 770)``."""
    values = sorted(map(value, net.records))
    ends = dict.fromkeys(digits(end) for end in (values[0], values[-1]))
    return digits(float(net.geometric(value))) + (f" ({' to '.join(ends)})" if len(ends) > 1 else "")


def by_moment(nets: Sequence[NetResult[RecordT]], numbers: Callable[[NetResult[RecordT]], str]) -> str:
    """The numbers of nets: ``at initialisation 1.0 in plain-8, 2.0 in plain-20; trained 3.0 in plain-8``."""
    moments = grouped(nets, lambda net: net.moment)
    return "; ".join(
        f"{moment} {', '.join(f'{numbers(net)} in {net.label}' for net in alike)}" for moment, alike in moments.items()
    )


def seeds(nets: Iterable[NetResult[RecordT]]) -> str:
    """How many seeds the nets have: ``2 seeds``, ``1 to 2 seeds``."""
    counts = [len(net.runs) for net in nets]
    return f"{span(counts)} seed{'s' * (max(counts) != 1)}"


def deepest(nets: Iterable[NetResult[RecordT]]) -> list[NetResult[RecordT]]:
    """The deepest net of each family at each moment."""
    return [alike[-1] for alike in grouped(nets, lambda net: (net.moment, net.family)).values()]
