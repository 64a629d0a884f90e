"""Nets with a block removed, or two exchanged."""

from __future__ import annotations

import statistics
from typing import Any

from matplotlib.axes import Axes
from pydantic import Field

from resexp.report.figure import Plot, styled
from resexp.report.formatting import listed
from resexp.report.probes.panels import panels, seeds
from resexp.report.probes.results import MAX_LAYERS, NetResult, Part, ProbeResults, Record, Section

FEW_LEFT = 20
"""Points up to guessing: a net that has fewer left is named as one that has little to lose."""
_NAME = r"^stages\.[0-9]\.[0-9]{1,5}$"


class _Swapped(Part):
    block: str = Field(pattern=_NAME)
    error: float


class _Without(_Swapped):
    same: bool


class Lesion(Record):
    """See `resexp.probes.lesion`; errors are fractions."""

    intact: float
    without: list[_Without] = Field(max_length=MAX_LAYERS)
    swapped: list[_Swapped] = Field(max_length=MAX_LAYERS)

    @property
    def places(self) -> list[str]:
        """Blocks that can be left out, and blocks that can be exchanged with the one before."""
        return [block.block for block in [*self.without, *self.swapped]]

    @property
    def rise(self) -> float | None:
        """The median rise of the error without a block that keeps its dimensions, in points; None without any."""
        return _median([block.error - self.intact for block in self.without if block.same])

    @property
    def rise_swapped(self) -> float | None:
        """The same with two neighbours exchanged."""
        return _median([block.error - self.intact for block in self.swapped])


def _median(rises: list[float]) -> float | None:
    return 100 * statistics.median(rises) if rises else None


def lesion(results: ProbeResults) -> Section | None:
    """Training error without each block."""
    nets = results.latest("lesion", Lesion)
    if not nets:
        return None
    classes = dict.fromkeys(net.runs[0].manifest.data.classes for net in nets)
    chance = ", ".join(f"{100 * (1 - 1 / number):.1f} %" for number in classes)
    return Section(
        "Nets without one of their blocks",
        _sentence(nets),
        f"Training error on 1,000 images in eval mode, {nets[0].moment}; nothing is trained again. Thin lines: the "
        "whole net. Hollow marks: blocks that change dimensions, which a plain net can't be without. A rise is "
        f"compared with what is left up to chance ({chance}). After Veit et al. 2016. Means over {seeds(nets)}.",
        {"probe-lesion": _plot(nets)},
    )


@styled
def _plot(nets: list[NetResult[Lesion]]) -> Plot:
    plot = panels(
        "Training error without one block", "place of the block (0 first, 1 last)", "training error (%)", nets, _draw
    )
    plot.axes.set_ylim(0, 100)
    return plot


def _draw(plot: Plot, axes: Axes, net: NetResult[Lesion], look: dict[str, Any]) -> None:
    blocks = net.records[0].without
    x = [_place(block.block, net.runs[0].config.model.stages) for block in blocks]
    errors = 100 * net.mean(lambda r: [block.error for block in r.without])
    series, intact = f"{net.depth} layers", 100 * float(net.mean(lambda r: r.intact))
    axes.axhline(intact, color=look["color"], linewidth=0.7, gid=plot.mark(series))
    plot.line(x, errors, series, net.label, axes=axes, color=look["color"], linewidth=look["linewidth"])
    for same, fill, size in ((True, look["color"], 4), (False, "none", 6)):
        chosen = [number for number, block in enumerate(blocks) if block.same is same]
        if chosen:
            style = look | {"linestyle": "none", "markerfacecolor": fill, "markersize": size}
            plot.line([x[number] for number in chosen], errors[chosen], series, axes=axes, **style)


def _place(block: str, stages: tuple[int, ...]) -> float:
    """Relative position of a block in the net, in [0, 1]."""
    _, stage, index = block.split(".")
    return (sum(stages[: int(stage)]) + int(index)) / max(1, sum(stages) - 1)


def _sentence(nets: list[NetResult[Lesion]]) -> str:
    """All depths, the families side by side: where a net is nearly as bad as guessing, it has little left to lose."""
    ordered = sorted(nets, key=lambda net: net.depth)  # stable: the families keep their order
    done = {
        "Without one block that keeps its dimensions": [_points(net, [r.rise for r in net.records]) for net in ordered],
        "With two neighbours exchanged": [_points(net, [r.rise_swapped for r in net.records]) for net in ordered],
    }
    sentences = [
        f"{what} the training error rises, in the median over blocks, by {', '.join(filter(None, points))}."
        for what, points in done.items()
        if any(points)
    ]
    if not sentences:
        return "None of the nets has a block that keeps its dimensions."
    poor = [net.label for net in ordered if _left(net) < FEW_LEFT]
    return " ".join(sentences) + (f" Little is left to lose in {listed(poor)}." if poor else "")


def _left(net: NetResult[Lesion]) -> float:
    """Points between the error of the whole net and chance."""
    return 100 * (1 - 1 / net.runs[0].manifest.data.classes - float(net.mean(lambda r: r.intact)))


def _points(net: NetResult[Lesion], rises: list[float | None]) -> str:
    known = [rise for rise in rises if rise is not None]
    return f"{statistics.fmean(known):.1f} of {_left(net):.1f} points in {net.label}" if known else ""
