"""Nets with blocks removed, or in another order."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FormatStrFormatter
from pydantic import Field

from resexp.report.figure import Plot, styled
from resexp.report.formatting import NOTHING, Table, filled
from resexp.report.probes.panels import Draw, deepest, panels, seeds
from resexp.report.probes.results import MAX_LAYERS, NetResult, PageSection, ProbeRecord, RecordPart, latest
from resexp.report.stats import grouped
from resexp.utils.text import listed

FEW_LEFT = 20
"""Points up to guessing: a net that has fewer left is named as one that has little to lose."""
AT_CHANCE = 3
"""Points from guessing at which a net is named as one whose rise can hardly be larger."""
_NAME = r"^stages\.[0-9]\.[0-9]{1,5}$"


class _Swapped(RecordPart):
    block: str = Field(pattern=_NAME)
    error: float


class _Without(_Swapped):
    same: bool


class _Removed(RecordPart):
    blocks: int = Field(ge=1, le=MAX_LAYERS)
    error: float


class _Shuffled(RecordPart):
    pairs: int = Field(ge=1, le=MAX_LAYERS)
    tau: float = Field(ge=-1, le=1)
    error: float


class Lesion(ProbeRecord):
    """See `resexp.probes.lesion`; errors are fractions. Earlier records have no random sets and orders."""

    intact: float
    without: list[_Without] = Field(max_length=MAX_LAYERS)
    swapped: list[_Swapped] = Field(max_length=MAX_LAYERS)
    removed: list[_Removed] = Field(default=[], max_length=MAX_LAYERS)
    shuffled: list[_Shuffled] = Field(default=[], max_length=MAX_LAYERS)

    @property
    def places(self) -> list[str]:
        """Blocks that can be left out, and blocks that can be exchanged with the one before."""
        return [block.block for block in [*self.without, *self.swapped]]

    @property
    def keeping(self) -> list[_Without]:
        """The net without each block that keeps its dimensions."""
        return [block for block in self.without if block.same]


_Points = Callable[[NetResult[Lesion]], list[tuple[float, float]]]
"""Places on the x axis and errors in percent, of a net."""


def lesion(every: Sequence[NetResult[Lesion]]) -> PageSection:
    """Training error without each block, without several, and with blocks in another order."""
    nets = latest(every)
    classes = dict.fromkeys(net.runs[0].manifest.data.classes for net in nets)
    chance = ", ".join(f"{100 * (1 - 1 / number):.1f} %" for number in classes)
    plots, draws = {"probe-lesion": _of_single_blocks(nets)}, ""
    if several := [net for net in nets if _removed(net)]:
        plots["probe-lesion-several"] = _several(several)
        draws += " Random blocks are chosen from all that keep dimensions."
    if shuffled := [net for net in nets if _shuffled(net)]:
        plots["probe-lesion-shuffled"] = _orders(shuffled)
        draws += (
            " Random orders come from exchanges of two such blocks of a stage. Kendall's tau is an order's rank "
            "correlation with the net's own."
        )
    return PageSection(
        "Removing blocks",
        " ".join([_sentence(nets), *_random(nets)]),
        f"Training error on 1,000 images in eval mode, {nets[0].moment}; nothing is trained again. Thin lines: the "
        "whole net. Hollow marks: blocks that change dimensions, which a plain net can't be without. A rise is "
        f"compared with what is left up to guessing ({chance}).{draws} After Veit et al. 2016 "
        f"(arXiv 1605.06431). Means over {'draws and ' if draws else ''}{seeds(nets)}. Rises are in points.",
        plots,
        _table(nets),
    )


def _removed(net: NetResult[Lesion]) -> list[tuple[float, float]]:
    """For each number of random blocks removed, the mean error over draws and seeds; none in earlier records."""
    draws = []
    for record in net.records:
        if record.removed:
            draws += [(1, 1, block.error) for block in record.keeping]
            draws += [(draw.blocks, draw.blocks, draw.error) for draw in record.removed]
    return _means(draws)


def _shuffled(net: NetResult[Lesion]) -> list[tuple[float, float]]:
    """For each number of exchanged pairs, the means of Kendall's tau and of the error; the largest tau first, since
    more exchanges of few blocks may bring them back to their places."""
    return _means((draw.pairs, draw.tau, draw.error) for record in net.records for draw in record.shuffled)[::-1]


def _means(draws: Iterable[tuple[int, float, float]]) -> list[tuple[float, float]]:
    """The mean place and error, percent, of the draws that have an equal number, in the order of the places."""
    alike = grouped(draws, lambda draw: draw[0]).values()
    places = [statistics.fmean(place for _, place, _ in of) for of in alike]
    return sorted(zip(places, (100 * statistics.fmean(error for *_, error in of) for of in alike), strict=True))


@styled
def _panels(title: str, xlabel: str, nets: Sequence[NetResult[Lesion]], draw: Draw[Lesion]) -> Plot:
    plot = panels(title, xlabel, "training error (%)", nets, draw)
    plot.axes.set_ylim(0, 100)
    return plot


def _of_single_blocks(nets: Sequence[NetResult[Lesion]]) -> Plot:
    def draw(plot: Plot, axes: Axes, net: NetResult[Lesion], look: dict[str, Any]) -> None:
        blocks, series = net.records[0].without, f"{net.depth} layers"
        x, errors = _places(net), 100 * net.mean(lambda r: [block.error for block in r.without])
        axes.axhline(_whole(net), color=look["color"], linewidth=0.7, gid=plot.mark(series))
        plot.line(x, errors, series, net.label, axes=axes, color=look["color"], linewidth=look["linewidth"])
        for same, fill, size in ((True, look["color"], 4), (False, "none", 6)):
            chosen = [number for number, block in enumerate(blocks) if block.same is same]
            if chosen:
                style = look | {"linestyle": "none", "markerfacecolor": fill, "markersize": size}
                plot.line([x[number] for number in chosen], errors[chosen], series, axes=axes, **style)

    return _panels("Training error without one block", "place of the block (0 first, 1 last)", nets, draw)


@styled
def _several(nets: Sequence[NetResult[Lesion]]) -> Plot:
    draw = _from_whole(0, _removed)
    plot = _panels("Training error without several blocks", "random blocks removed", nets, draw)
    plot.axes.set_xscale("symlog", base=2, linthresh=1)
    plot.axes.xaxis.set_major_formatter(FormatStrFormatter("%g"))
    return plot


@styled
def _orders(nets: Sequence[NetResult[Lesion]]) -> Plot:
    draw = _from_whole(1, _shuffled)
    plot = _panels("Training error with blocks in another order", "Kendall's tau with the net's order", nets, draw)
    plot.axes.invert_xaxis()
    return plot


def _from_whole(whole: float, points: _Points) -> Draw[Lesion]:
    """Draws a line through the `points` of a net, which begins with the whole net's error at x = `whole`."""

    def draw(plot: Plot, axes: Axes, net: NetResult[Lesion], look: dict[str, Any]) -> None:
        x, errors = zip((whole, _whole(net)), *points(net), strict=True)
        plot.line(x, errors, f"{net.depth} layers", net.label, axes=axes, **look)

    return draw


def _whole(net: NetResult[Lesion]) -> float:
    """The error of the whole net, in percent."""
    return 100 * float(net.mean(lambda r: r.intact))


def _places(net: NetResult[Lesion]) -> list[float]:
    """Relative positions in the net of the blocks that can be left out, in [0, 1]."""
    names = [block.block.split(".") for block in net.records[0].without]
    at = [(int(stage), int(index)) for _, stage, index in names]
    stages = net.runs[0].config.model.stages
    if not stages:  # the plug-in that tells the number of blocks in each is not loaded
        last = dict(sorted(at))
        stages = tuple(last.get(stage, 0) + 1 for stage in range(max(last) + 1))
    return [(sum(stages[:stage]) + index) / max(1, sum(stages) - 1) for stage, index in at]


def _sentence(nets: list[NetResult[Lesion]]) -> str:
    """All depths, the families side by side: where a net is nearly as bad as guessing, it has little left to lose."""
    ordered = sorted(nets, key=lambda net: net.depth)  # stable: the families keep their order
    sentences = [
        f"{what}, the training error rises by this many points (median over blocks): {', '.join(rises)}."
        for what, blocks in _DONE.items()
        if (rises := [f"{rise:.1f} in {net.label}" for net in ordered if (rise := _rise(net, blocks)) is not None])
    ]
    if not sentences:
        return "None of the nets has a block that keeps its dimensions."
    if poor := [net.label for net in ordered if _left(net) < FEW_LEFT]:
        sentences.append(f"Close to guessing already: {listed(poor)}.")
    medians = {net.label: (rise, _left(net)) for net in ordered if (rise := _rise(net, _DONE[ONE])) is not None}
    if lost := [label for label, (rise, left) in medians.items() if rise > left - AT_CHANCE]:
        sentences.append(
            f"Without the one block within {AT_CHANCE} points of guessing, so that the rise can hardly be larger: "
            f"{listed(lost)}."
        )
    return " ".join(sentences)


def _random(nets: Sequence[NetResult[Lesion]]) -> list[str]:
    """Sentences on the deepest net of each family, without several blocks and with blocks in another order."""
    removed, shuffled = [], []
    for net in deepest(nets):
        if points := _removed(net):
            errors = ", ".join(f"{error:.1f}" for _, error in points)
            removed.append(f"{errors} % in {net.label} without {listed([f'{blocks:g}' for blocks, _ in points])}")
        if points := _shuffled(net):
            ends = dict.fromkeys(f"{error:.1f} % at Kendall's tau {tau:.2f}" for tau, error in (points[0], points[-1]))
            shuffled.append(f"{' to '.join(ends)} in {net.label}")
    done = {
        f"The training error is {'; '.join(removed)} random blocks.": removed,
        f"With blocks in another order it is {'; '.join(shuffled)}.": shuffled,
    }
    return [sentence for sentence, parts in done.items() if parts]


def _left(net: NetResult[Lesion]) -> float:
    """Points between the error of the whole net and chance."""
    return 100 * (1 - 1 / net.runs[0].manifest.data.classes - float(net.mean(lambda r: r.intact)))


_Blocks = Callable[[Lesion], Sequence[_Swapped]]
ONE = "Without one block that keeps its dimensions"
_DONE: dict[str, _Blocks] = {
    ONE: lambda record: record.keeping,
    "With two neighbours exchanged": lambda record: record.swapped,
}


def _rise(net: NetResult[Lesion], blocks: _Blocks) -> float | None:
    """The median rise of the error over these blocks, as a mean over seeds, in points; None without such blocks."""
    having = [record for record in net.records if blocks(record)]
    rises = [100 * statistics.median(block.error - record.intact for block in blocks(record)) for record in having]
    return statistics.fmean(rises) if rises else None


def _table(nets: Sequence[NetResult[Lesion]]) -> Table:
    header = [
        "net",
        "clean error of 1,000 training images, %",
        "points up to guessing",
        *(f"{done[0].lower()}{done[1:]}" for done in _DONE),
    ]
    rows = [
        [
            net.label,
            f"{_whole(net):.1f}",
            f"{_left(net):.1f}",
            *(NOTHING if (rise := _rise(net, blocks)) is None else f"{rise:.1f}" for blocks in _DONE.values()),
        ]
        for net in nets
    ]
    return filled(header, rows)
