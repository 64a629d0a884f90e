"""Nets with a block removed, or two exchanged."""

from __future__ import annotations

import statistics

from pydantic import Field

from resexp.report.figure import Plot, styled
from resexp.report.formatting import listed
from resexp.report.probes.material import MAX_LAYERS, Found, Material, Moments, Part, Record, Section
from resexp.report.probes.panels import panels, places, seeds

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
        """By how much the error rises without a block that keeps its dimensions, in points: the median."""
        return _median([block.error - self.intact for block in self.without if block.same])

    @property
    def rise_swapped(self) -> float | None:
        """The same with two neighbours exchanged."""
        return _median([block.error - self.intact for block in self.swapped])


def _median(rises: list[float]) -> float | None:
    return 100 * statistics.median(rises) if rises else None


def lesion(material: Material) -> Section | None:
    """Training error without each block."""
    moment, nets = material.latest("lesion", Lesion)
    if not nets:
        return None
    return Section(
        "Nets without one of their blocks",
        _sentence(nets),
        f"Training error on 1,000 images in eval mode, {moment}; nothing is trained again. Thin lines: the whole net. "
        "Hollow marks: blocks that change dimensions, which a plain net can't be without. A rise is compared with "
        f"what is left up to chance ({_guessing(nets)}). After Veit et al. 2016. Means over {seeds(nets)}.",
        {"probe-lesion": _plot({moment: nets})},
    )


def _guessing(nets: list[Found[Lesion]]) -> str:
    classes = dict.fromkeys(net.run.manifest.data.classes for net in nets)
    return ", ".join(f"{100 * (1 - 1 / number):.1f} %" for number in classes)


@styled
def _plot(found: Moments[Lesion]) -> Plot:
    plot = panels(
        "Training error without one block", "place of the block (0 first, 1 last)", "training error (%)", found
    )
    for axes, net, look in places(plot, found):
        x = [_place(block.block, net.run.config.model.stages) for block in net.seeds[0].without]
        errors = 100 * net.mean(lambda r: [block.error for block in r.without])
        same = [block.same for block in net.seeds[0].without]
        series, whole = f"{net.depth} layers", 100 * float(net.mean(lambda r: r.intact))
        axes.axhline(whole, color=look["color"], linewidth=0.7, gid=plot.mark(series))
        line = plot.mark(series, net.label)
        axes.plot(x, errors, color=look["color"], linewidth=look["linewidth"], gid=line)
        for keeps, fill in ((True, look["color"]), (False, "none")):
            marks = [(at, error) for at, error, like in zip(x, errors, same, strict=True) if like is keeps]
            if marks:
                style = look | {"linestyle": "none", "markerfacecolor": fill, "markersize": 4 if keeps else 6}
                axes.plot(*zip(*marks, strict=True), gid=plot.mark(series), **style)
    plot.axes.set_ylim(0, 100)
    return plot


def _place(block: str, stages: tuple[int, ...]) -> float:
    """Relative position of a block in the net, in [0, 1]."""
    _, stage, index = block.split(".")
    return (sum(stages[: int(stage)]) + int(index)) / max(1, sum(stages) - 1)


def _sentence(nets: list[Found[Lesion]]) -> str:
    """All depths, the families side by side: where a net is nearly as bad as guessing, it has little left to lose."""
    ordered = sorted(nets, key=lambda net: net.depth)  # stable: the families keep their order
    done = {
        "Without one block that keeps its dimensions": [_points(net, [r.rise for r in net.seeds]) for net in ordered],
        "With two neighbours exchanged": [_points(net, [r.rise_swapped for r in net.seeds]) for net in ordered],
    }
    said = [
        f"{what} the training error rises, in the median over blocks, by {', '.join(filter(None, points))}."
        for what, points in done.items()
        if any(points)
    ]
    if not said:
        return "None of the nets has a block that keeps its dimensions."
    poor = [net.label for net in ordered if _left(net) < FEW_LEFT]
    if poor:
        said.append(f"Little is left to lose in {listed(poor)}.")
    return " ".join(said)


def _left(net: Found[Lesion]) -> float:
    """Points between the error of the whole net and chance."""
    return 100 * (1 - 1 / net.run.manifest.data.classes - float(net.mean(lambda r: r.intact)))


def _points(net: Found[Lesion], rises: list[float | None]) -> str:
    known = [rise for rise in rises if rise is not None]
    return f"{statistics.fmean(known):.1f} of {_left(net):.1f} points in {net.label}" if known else ""
