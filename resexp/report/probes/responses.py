"""Layer responses, as in Fig. 7."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from resexp import paper
from resexp.report.figure import Plot, family_colours, styled, tints
from resexp.report.plots import told_in_legend
from resexp.report.probes.material import MAX_LAYERS, Found, Material, Number, Part, Record, Section
from resexp.report.probes.panels import MARKS, logarithmic, looks


class _Layer(Part):
    layer: str
    std: Number


class Responses(Record):
    """See `resexp.probes.signals.responses`."""

    layers: list[_Layer] = Field(min_length=1, max_length=MAX_LAYERS)
    mean_std: Number

    @property
    def places(self) -> list[str]:
        """Layers."""
        return [layer.layer for layer in self.layers]

    @property
    def stds(self) -> list[float]:
        """By layer."""
        return [layer.std for layer in self.layers]


def responses(material: Material) -> Section | None:
    """Both panels of Fig. 7."""
    moment, nets = material.latest("responses", Responses)
    if not nets:
        return None
    return Section(
        "Layer responses",
        f"The standard deviation's mean over layers, {moment}: {', '.join(map(_mean, nets))}.",
        "Standard deviation of each 3x3 layer's response, after BN and before ReLU and addition, on 1,000 training "
        "images in eval mode, after Fig. 7 of the paper. It does not say over which axes; here over images, positions "
        "and channels together. Means over seeds.",
        {"probe-responses": _plot(moment, nets)},
    )


def _mean(net: Found[Responses]) -> str:
    published = paper.published(net.run.config.model)
    beside = ""
    if published and published.response_std is not None:
        beside = f" (paper: {published.response_std:.2f}{', not comparable' if net.run.departures else ''})"
    return f"{net.label} {float(net.mean(lambda r: r.mean_std)):.2f}{beside}"


@styled
def _plot(moment: str, nets: Sequence[Found[Responses]]) -> Plot:
    titles = [["in order", "by magnitude"]]
    plot = Plot(f"Layer responses, {moment}", "layer", "standard deviation", (8.0, 4.2), titles)
    look = looks(net.depth for net in nets)
    colours = family_colours(dict.fromkeys(net.family for net in nets))
    told = told_in_legend(look)
    shades = {family: dict(zip(look, tints(colour, len(look)), strict=True)) for family, colour in colours.items()}
    for net in sorted(nets, key=lambda net: net.depth):
        stds = net.mean(lambda r: r.stds)
        layers = np.arange(1, len(stds) + 1)
        style = look[net.depth] | {"color": shades[net.family][net.depth], "markevery": -(-len(stds) // MARKS)}
        for axes, values in zip(plot.panels[0], (stds, np.sort(stds)[::-1]), strict=True):
            axes.plot(layers, values, gid=plot.mark(net.label, net.label), **style)
        if net.depth in told:
            plot.axes.plot([], [], label=net.label, **style)
    logarithmic(plot.axes)
    # A column a depth, with its nets one above the other.
    plot.legend(min(4, len(told)), "small", handlelength=3)
    return plot
