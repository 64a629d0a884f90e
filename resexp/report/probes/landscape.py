"""The loss around nets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import FuncFormatter
from pydantic import Field, model_validator

from resexp.report.plots import INK, Plot, styled
from resexp.report.probes.material import Found, Material, Record, Section
from resexp.report.probes.panels import by_family

LEVELS = 16


class Landscape(Record):
    """See `resexp.probes.landscape`."""

    steps: list[float] = Field(min_length=2)
    loss: list[list[float]]

    @model_validator(mode="after")
    def _square(self) -> Landscape:
        if {len(self.loss), *map(len, self.loss)} != {len(self.steps)}:
            raise ValueError("the loss is not a square of as many points a side as there are steps")
        return self

    @property
    def places(self) -> list[str]:
        """Points of the grid, along a side."""
        return list(map(str, self.steps))

    def share_under(self, loss: float) -> float:
        """The share of the grid's points that have less."""
        return float(np.mean(np.array(self.loss) < loss))


def landscape(material: Material) -> Section | None:
    """The deepest net of each family."""
    moment, nets = material.latest("landscape", Landscape)
    if not nets:
        return None
    deepest = [alike[-1] for alike in by_family(nets).values()]
    shares = ", ".join(_share(net) for net in deepest)
    guess = ", ".join(dict.fromkeys(f"ln {net.run.manifest.data.classes} = {_guessing(net):.2f}" for net in deepest))
    return Section(
        "The loss around the nets",
        f"The loss is under that of guessing ({guess}) on this share of the plane around the net, {moment}: {shares}.",
        "Training loss on 500 images in eval mode along two random directions, in units of the weights' own norm "
        "filter by filter (Li et al. 2018); the net itself is in the middle. The line is the loss of guessing. Means "
        "over seeds are geometric.",
        {"probe-landscape": _plot(moment, deepest)},
    )


def _share(net: Found[Landscape]) -> str:
    guessing = _guessing(net)
    return f"{100 * float(net.mean(lambda r: r.share_under(guessing))):.0f} % for {net.label}"


def _guessing(net: Found[Landscape]) -> float:
    """The loss of the same probability for each class."""
    return math.log(net.run.manifest.data.classes)


@styled
def _plot(moment: str, nets: Sequence[Found[Landscape]]) -> Plot:
    with np.errstate(divide="ignore"):
        logs = [net.mean(lambda r: np.log10(np.array(r.loss))) for net in nets]
    every = np.concatenate([log[np.isfinite(log)] for log in logs])
    levels = np.linspace(every.min(), every.max() + 1e-6, LEVELS)
    size = (1.5 + 3.2 * len(nets), 4.4)
    plot = Plot(
        f"Loss around the nets, {moment}", "first direction", "second direction", size, [[n.label for n in nets]]
    )
    for axes, net, log in zip(plot.panels[0], nets, logs, strict=True):
        steps = net.seeds[0].steps
        seen = np.ma.masked_invalid(log)
        filled = axes.contourf(steps, steps, seen, levels=levels, cmap="cividis_r")
        axes.contour(steps, steps, seen, levels=[math.log10(_guessing(net))], colors=[INK], linewidths=1)
        axes.plot([0], [0], "+", color=INK)
        axes.set_aspect("equal")
        axes.grid(visible=False)
    bar = plot.figure.colorbar(filled, ax=plot.panels[0], shrink=0.8, label="loss")
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda log, _: f"{10**log:.2g}"))
    return plot
