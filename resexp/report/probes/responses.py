"""Layer responses, as in Fig. 7."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from resexp.report.figure import Plot, family_colours, styled, tints
from resexp.report.plots import named_in_legend
from resexp.report.probes.panels import MARKS, logarithmic, looks
from resexp.report.probes.results import LayerRecord, Layerwise, NetResult, Number, PageSection, ProbeResults


class _Layer(LayerRecord):
    std: Number


class Responses(Layerwise[_Layer]):
    """See `resexp.probes.responses`."""

    mean_std: Number


def responses(results: ProbeResults) -> PageSection | None:
    """Both panels of Fig. 7."""
    nets = results.latest("responses", Responses)
    if not nets:
        return None
    return PageSection(
        "Layer responses",
        f"The standard deviation's mean over layers, {nets[0].moment}: {', '.join(map(_mean, nets))}.",
        "Standard deviation of each 3x3 layer's response, after BN and before ReLU and addition, on 1,000 training "
        "images in eval mode, after Fig. 7. The paper does not say over which axes; here it is over images, "
        "positions and channels together. Means over seeds.",
        {"probe-responses": _plot(nets)},
    )


def _mean(net: NetResult[Responses]) -> str:
    theirs = net.published.response_std if net.published else None
    beside = "" if theirs is None else f" (paper: {theirs:.2f})"
    return f"{net.label} {float(net.mean(lambda r: r.mean_std)):.2f}{beside}"


@styled
def _plot(nets: Sequence[NetResult[Responses]]) -> Plot:
    titles = [["in order", "by magnitude"]]
    plot = Plot(f"Layer responses, {nets[0].moment}", "layer", "standard deviation", (8.0, 4.2), titles)
    look = looks(net.depth for net in nets)
    colours = family_colours(dict.fromkeys(net.family for net in nets))
    named = named_in_legend(look)
    shades = {family: dict(zip(look, tints(colour, len(look)), strict=True)) for family, colour in colours.items()}
    for net in sorted(nets, key=lambda net: net.depth):
        stds = net.mean(lambda r: r.each("std"))
        style = look[net.depth] | {"color": shades[net.family][net.depth], "markevery": -(-len(stds) // MARKS)}
        for axes, values in zip(plot.panels[0], (stds, np.sort(stds)[::-1]), strict=True):
            plot.line(np.arange(1, len(stds) + 1), values, net.label, net.label, axes=axes, **style)
        if net.depth in named:
            plot.axes.plot([], [], label=net.label, **style)
    logarithmic(plot.axes)
    # A column for each depth, with its nets one above the other.
    plot.legend(min(4, len(named)), "small", handlelength=3)
    return plot
