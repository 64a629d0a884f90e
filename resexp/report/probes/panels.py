"""What the figures of probes have in common: a panel a family, a line a depth; and words for their sentences."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from resexp.report.figure import MARKERS, Plot, depth_colours, styled
from resexp.report.plots import told_in_legend
from resexp.report.probes.material import Found, Moments, RecordT

MARKS = 8
"""Marks on a line, at most about; one a layer would hide the line of a deep net."""

ItemT = TypeVar("ItemT")


def families(found: Moments[RecordT]) -> list[str]:
    """In their order."""
    having = dict.fromkeys(net.family for nets in found.values() for net in nets)
    return list(having)


def looks(depths: Iterable[int]) -> dict[int, dict[str, Any]]:
    """How the line of each depth looks, the same in each panel."""
    ordered = sorted(set(depths))
    colours = depth_colours(len(ordered))
    return {
        depth: {"color": colour, "marker": MARKERS[number % len(MARKERS)], "markersize": 4, "linewidth": 1.5}
        for number, (depth, colour) in enumerate(zip(ordered, colours, strict=True))
    }


@styled
def panels(title: str, xlabel: str, ylabel: str, found: Moments[RecordT]) -> Plot:
    """An empty panel for each family, a row for each moment, and a legend that tells the depths."""
    named = families(found)
    titles = [[f"{family}, {moment}" for family in named] for moment in found]
    plot = Plot(title, xlabel, ylabel, (max(6.0, 1.5 + 3.0 * len(named)), 1.7 + 2.5 * len(titles)), titles)
    look = looks(net.depth for nets in found.values() for net in nets)
    for depth in sorted(told_in_legend(look)):
        plot.axes.plot([], [], label=f"{depth} layers", **look[depth])
    plot.legend(6, "small")
    return plot


def places(plot: Plot, found: Moments[RecordT]) -> Iterator[tuple[Axes, Found[RecordT], dict[str, Any]]]:
    """Each net with the panel that it belongs to and the look of its line."""
    look, named = looks(net.depth for nets in found.values() for net in nets), families(found)
    for row, nets in zip(plot.panels, found.values(), strict=True):
        for net in nets:
            yield row[named.index(net.family)], net, look[net.depth]


@styled
def profiles(
    title: str, ylabel: str, found: Moments[RecordT], values: Callable[[RecordT], Sequence[float]], what: str = "layer"
) -> Plot:
    """A positive number by layer (or block), on a logarithmic axis, over the layer's place between first and last.

    Over seeds the mean is geometric; a number that is not positive has no place on the axis.
    """
    plot = panels(title, f"place of the {what} (0 first, 1 last)", ylabel, found)
    for axes, net, look in places(plot, found):
        mean = net.geometric(values)
        x = np.linspace(0, 1, len(mean))
        axes.plot(x, mean, markevery=-(-len(mean) // MARKS), gid=plot.mark(f"{net.depth} layers", net.label), **look)
    logarithmic(plot.axes)
    return plot


def logarithmic(axes: Axes) -> None:
    """Make the y axis logarithmic, with plain numbers where it spans little: powers of ten alone would be too few."""
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())  # over many powers they take most of the time to draw
    low, high = axes.get_ylim()
    if high < 100 * low:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(FuncFormatter(_plainly))


def _plainly(value: float, _: int | None) -> str:
    return f"{value:g}"


def by_family(nets: Iterable[Found[RecordT]]) -> dict[str, list[Found[RecordT]]]:
    """The nets of each family, the shallowest first."""
    grouped: dict[str, list[Found[RecordT]]] = {}
    for net in nets:
        grouped.setdefault(net.family, []).append(net)
    return grouped


def each(nets: Sequence[Found[RecordT]], say: Callable[[list[Found[RecordT]]], str]) -> str:
    """What is to say of each family: ``1 to 2 in plain nets of 8 to 56 layers, 3 in residual nets of 8 layers``."""
    return ", ".join(f"{say(alike)} in {_nets(family, alike)}" for family, alike in by_family(nets).items())


def _nets(family: str, nets: Sequence[Found[RecordT]]) -> str:
    kind, _, variant = family.partition(" ")
    depths = span([net.depth for net in nets])
    return f"{kind} nets{f' ({variant})' if variant else ''} of {depths} layers"


def number(value: float) -> str:
    """To two digits, or to the last before the point: ``0.012``, ``1,230``."""
    return f"{value:,.0f}" if math.isfinite(value) and abs(value) >= 100 else f"{value:.2g}"


def digits(value: float) -> str:
    """To two digits, however large or small: ``0.53``, ``4.0``, ``1,600``, ``3.8e7``."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    if not exponent:  # NaN or infinite
        return mantissa
    power = int(exponent)
    if -4 < power < 4:
        return f"{float(f'{value:.1e}'):,.{max(0, 1 - power)}f}"
    return f"{mantissa}e{power}"


def decades(net: Found[RecordT], value: Callable[[RecordT], float], also: str = "") -> str:
    """The geometric mean over seeds of a number that spans decades, its range, and what else is in the brackets:
    ``380 (190 to 770; 1.12 a layer)``."""
    values = sorted(map(value, net.seeds))
    ends = list(dict.fromkeys(digits(end) for end in (values[0], values[-1])))
    brackets = "; ".join(filter(None, (" to ".join(ends) if ends[1:] else "", also)))
    return digits(float(net.geometric(value))) + (f" ({brackets})" if brackets else "")


def seeds(nets: Iterable[Found[RecordT]]) -> str:
    """How many seeds the nets have: ``2 seeds``, ``1 to 2 seeds``."""
    counts = [len(net.seeds) for net in nets]
    return f"{span(counts)} seed{'s' * (max(counts) != 1)}"


def deepest(nets: Iterable[Found[RecordT]]) -> list[Found[RecordT]]:
    """The deepest net of each family."""
    return [alike[-1] for alike in by_family(nets).values()]


def span(values: Iterable[float]) -> str:
    """The least and the largest, or the one that they are: ``0.9 to 1.3``."""
    return course(sorted(values))


def course(values: Sequence[float]) -> str:
    """The first and the last, or the one that they are."""
    return " to ".join(dict.fromkeys(number(end) for end in (values[0], values[-1])))
