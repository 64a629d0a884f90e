"""What comes out of layers and blocks: signals, responses as in Fig. 7, and residual branches."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pydantic import Field

from resexp.report.figure import Plot, family_looks, styled, tints
from resexp.report.formatting import number
from resexp.report.plots import named_in_legend
from resexp.report.probes.panels import MARKS, by_moment, decades, deepest, logarithmic, looks, profiles, seeds
from resexp.report.probes.results import MAX_LAYERS, LayerRecord, Layerwise, NetResult, Number, PageSection, latest
from resexp.report.stats import grouped


class _Signal(LayerRecord):
    variance: Number


class _Response(LayerRecord):
    std: Number


class _Block(LayerRecord):
    layer: str = Field(validation_alias="block")
    ratio: Number


Signals = Layerwise[_Signal]


class Responses(Layerwise[_Response]):
    """See `resexp.probes.outputs.responses`."""

    mean_std: Number


class Branches(Layerwise[_Block]):
    """See `resexp.probes.outputs.branches`."""

    layers: list[_Block] = Field(validation_alias="blocks", min_length=1, max_length=MAX_LAYERS)


def signals(nets: Sequence[NetResult[Signals]]) -> PageSection:
    """Variance by layer."""

    def largest(net: NetResult[Signals]) -> str:
        return decades(net, lambda record: float(np.max(record.each("variance"))))  # NaN if a number is not known

    rows = []
    for net in nets:
        smallest = decades(net, lambda record: float(np.min(record.each("variance"))))
        rows.append([net.label, net.moment, str(len(net.runs)), smallest, largest(net)])
    deep = deepest(nets)
    return PageSection(
        "Signals",
        f"The largest variance of a layer's output is {by_moment(deep, largest)} ({seeds(deep)}).",
        "Variance of the output of each convolution and of the last layer, before BN, in train mode, over 1,000 "
        "images, all positions and channels. BN divides it out. A large variance comes from large weights or a "
        "large input. Means over seeds are geometric.",
        {"probe-signals": profiles("Variance of each layer's output", "variance", nets, "variance")},
        (["net", "moment", "seeds", "smallest variance", "largest variance"], rows),
    )


def responses(every: Sequence[NetResult[Responses]]) -> PageSection:
    """Both panels of Fig. 7."""
    nets, means = latest(every), []
    for net in nets:
        theirs = net.published.response_std if net.published else None
        beside = "" if theirs is None else f" (paper: {theirs:.2f})"
        means.append(f"{net.label} {float(net.mean(lambda r: r.mean_std)):.2f}{beside}")
    return PageSection(
        "Layer responses",
        f"The standard deviation's mean over layers, {nets[0].moment}: {', '.join(means)}.",
        "Standard deviation of each 3x3 layer's response, after BN and before ReLU and addition, on 1,000 training "
        "images in eval mode, after Fig. 7. The paper does not say over which axes; here it is over images, "
        "positions and channels together. Means over seeds.",
        {"probe-responses": _responses_plot(nets)},
    )


@styled
def _responses_plot(nets: Sequence[NetResult[Responses]]) -> Plot:
    titles = [["in order", "by magnitude"]]
    plot = Plot(f"Layer responses, {nets[0].moment}", "layer", "standard deviation", (8.0, 4.2), titles)
    look = looks(net.depth for net in nets)
    families = family_looks(net.family for net in nets)
    named = named_in_legend(look)
    shades = {name: dict(zip(look, tints(of["color"], len(look)), strict=True)) for name, of in families.items()}
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


def _median(net: NetResult[Branches]) -> float:
    """The median ratio over the blocks, the geometric mean over seeds; 0 with a seed in which it is."""
    zero = any(np.median(record.each("ratio")) == 0 for record in net.records)
    return 0.0 if zero else float(net.geometric(lambda record: np.median(record.each("ratio"))))


def branches(nets: Sequence[NetResult[Branches]]) -> PageSection:
    """|F(x)| / |x| by block."""
    medians = []
    for (family, moment), alike in grouped(nets, lambda net: (net.family, net.moment)).items():
        ratios = [_median(net) for net in alike]
        at_depths = [f"{number(ratio)} at depth {net.depth}" for net, ratio in zip(alike, ratios, strict=True)]
        medians.append(f"{', '.join(at_depths)} in {family} nets, {moment}")
    return PageSection(
        "Residual branches",
        f"The median of |F(x)| / |x| over the blocks of a net is {'; '.join(medians)}.",
        "Norms of what a block adds, F(x), and of what its shortcut passes on, root mean square over 1,000 training "
        "images, in eval mode. Means over seeds are geometric.",
        {"probe-branches": profiles("Size of F(x) compared with x", "|F(x)| / |x|", nets, "ratio", "block")},
    )
