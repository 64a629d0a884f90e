"""Gradients: their norm by layer, their signal-to-noise ratio, and how those of neighbouring images agree."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from operator import attrgetter
from typing import Annotated, Any

import numpy as np
from matplotlib.axes import Axes
from pydantic import Field, model_validator

from resexp.report.estimates import CONFIDENCE, t_critical
from resexp.report.figure import Plot, family_looks, styled
from resexp.report.formatting import Table, course, digits, span
from resexp.report.plots import depth_axis
from resexp.report.probes import shattering
from resexp.report.probes.panels import by_moment, decades, deepest, panels, profiles, seeds
from resexp.report.probes.results import (
    INITIAL,
    MAX_LAYERS,
    LayerRecord,
    Layerwise,
    NetResult,
    Number,
    PageSection,
)
from resexp.report.stats import grouped

NEAR = 0.1
"""The distance that the sentence is about, as a share of the image's norm."""
EXPLOSION = math.sqrt(math.pi / (math.pi - 1))
"""Growth per layer of the gradient's norm in wide plain nets with BN and ReLU, at initialisation (Yang et al. 2019)."""


class _Layer(LayerRecord):
    norm: Number
    snr: Number
    weight_norm: Number

    @property
    def product(self) -> float:
        """|g| |w|: the steepest slope of the loss against a relative change of the layer's weights."""
        return self.norm * self.weight_norm


class Gradients(Layerwise[_Layer]):
    """See `resexp.probes.gradients`."""

    layers: list[_Layer] = Field(min_length=2, max_length=MAX_LAYERS)
    snr: Number
    distances: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, max_length=1000)
    agreement: list[Number]

    @model_validator(mode="after")
    def _one_for_each_distance(self) -> Gradients:
        if len(self.agreement) != len(self.distances):
            raise ValueError("agreement and distances differ in length")
        return self

    @property
    def places(self) -> list[str]:
        """Layers and distances."""
        return [*super().places, *map(str, self.distances)]

    def rise(self, number: str) -> float:
        """``norm`` or ``product`` at the first layer over that at the last before the classifier.

        The classifier is left out: its gradient has another shape, and no BN behind it. So are projections.
        """
        layers = [layer for layer in self.layers[:-1] if "shortcut" not in layer.layer]
        first, last = (float(getattr(layer, number)) for layer in (layers[0], layers[-1]))
        return first / last if last else math.nan

    @property
    def snr_before_classifier(self) -> float:
        """The signal-to-noise ratio of all layers but the last, put together from theirs."""
        squares = [(layer.norm**2, layer.norm**2 / (1 + layer.snr)) for layer in self.layers[:-1] if layer.norm]
        noise = sum(noise for _, noise in squares)
        return (sum(square for square, _ in squares) - noise) / noise if noise else math.nan

    def agreement_at(self, distance: float) -> float:
        """The agreement at the distance that is nearest to this one, on a logarithmic scale."""
        pairs = zip(self.distances, self.agreement, strict=True)
        return min(pairs, key=lambda pair: abs(math.log(pair[0] / distance)))[1]


SNRS = attrgetter("snr"), attrgetter("snr_before_classifier")
"""Both signal-to-noise ratios, as functions of a record."""


def gradients(nets: Sequence[NetResult[Gradients]]) -> PageSection:
    """Norms by layer, SNR against depth, agreement against distance."""
    first = [net for net in nets if net.moment == nets[0].moment]
    plots = {
        "probe-gradients-product": profiles("Gradient times weights", "|g| |w|", nets, "product"),
        "probe-gradients-weights": profiles("Norm of the weights", "|w|", nets, "weight_norm"),
        "probe-gradients-norm": profiles("Norm of the loss gradient", "|g|", nets, "norm"),
        "probe-gradients-snr": _snr(nets),
        "probe-gradients-agreement": _agreement(first),
    }
    sentences, distance = [_sentence(nets, first)], min(first[0].records[0].distances)
    untrained = grouped((net for net in nets if net.moment == INITIAL), lambda net: net.family)
    by_depth = {
        family: [(net.depth, record.agreement_at(distance)) for net in alike for record in net.records]
        for family, alike in untrained.items()
        if len(alike) > 1
    }
    if by_depth:
        laws = {family: law for family, points in by_depth.items() if (law := shattering.fit(family, points))}
        plots["probe-gradients-depth"] = shattering.against_depth(by_depth, laws, distance)
        sentences += [shattering.sentence(laws, distance)] if laws else []
    return PageSection(
        "Gradients",
        " ".join(sentences),
        "|g| is the norm of the loss gradient with respect to a layer's weights, root mean square over 16 batches"
        " of 128 images, in train mode. |w| is the norm of the weights. BN makes a layer's output independent of "
        "|w|, so |g| is proportional to 1/|w|. |g| |w|, the steepest slope of the loss against a relative change "
        "of the weights, does not depend on |w|. Growth per layer is the factor between |g| |w| of one layer and "
        f"of the one before it. Theory: {EXPLOSION:.2f} per layer at initialisation, sqrt(pi / (pi - 1)), in wide "
        "nets with BN and ReLU and without shortcuts (Yang et al. 2019, arXiv 1902.08129). Signal-to-noise is the"
        " squared norm of the gradient's mean over the mean squared norm of its deviations. Agreement is the "
        "cosine between the gradient with respect to an image and that with respect to the same image with noise "
        "added (Balduzzi et al. 2017, arXiv 1702.08591). For distant inputs at initialisation they derived that "
        "it falls with the depth L as 2^-L in plain nets and as L^-0.5 in residual nets with BN. Exponents are "
        "fitted by least squares. Intervals are 95 % intervals. Means over seeds; for norms and their ratios, "
        "geometric means.",
        plots,
        _table(nets),
    )


@styled
def _snr(nets: Sequence[NetResult[Gradients]]) -> Plot:
    titles = ["all layers", "without the classifier"]
    plot = Plot("Signal-to-noise ratio of the gradient", "depth (layers)", "ratio", (8.0, 4.2), [titles])
    plot.axes.set_yscale("symlog", linthresh=0.01)  # the estimate may come out just below zero
    looks = family_looks(net.family for net in nets)
    for (moment, family), alike in grouped(nets, lambda net: (net.moment, net.family)).items():
        look = looks[family] | ({"linewidth": 0.8, "markerfacecolor": "none"} if moment == INITIAL else {})
        depths, series = [net.depth for net in alike], f"{family}, {moment}"
        for axes, label, value in zip(plot.panels[0], (series, None), SNRS, strict=True):
            ratios = [float(net.mean(value)) for net in alike]
            values = [f"{digits(ratio)} at depth {depth}" for depth, ratio in zip(depths, ratios, strict=True)]
            plot.line(depths, ratios, series, f"{series}: {', '.join(values)}", axes=axes, label=label, **look)
    plot.legend(2, "small")
    depth_axis(plot, sorted({net.depth for net in nets}))
    return plot


@styled
def _agreement(nets: Sequence[NetResult[Gradients]]) -> Plot:
    def draw(plot: Plot, axes: Axes, net: NetResult[Gradients], look: dict[str, Any]) -> None:
        agreement = net.mean(lambda r: r.agreement)
        plot.line(net.records[0].distances, agreement, f"{net.depth} layers", net.label, axes=axes, **look)

    title = "Agreement of gradients of an image with and without noise"
    plot = panels(title, "noise (share of the image's norm)", "cosine", nets, draw)
    plot.axes.set_xscale("log")
    return plot


def _largest(net: NetResult[Gradients]) -> str:
    """The largest |w| of a layer."""
    return decades(net, lambda record: float(np.max(record.each("weight_norm"))))


def _per_layer(net: NetResult[Gradients]) -> str:
    """The factor by which |g| |w| grows from one layer to the one before it, with its interval over seeds."""
    layers, seeds = net.depth - 2, len(net.records)
    factor = float(net.geometric(lambda r: r.rise("product"))) ** (1 / layers)
    if seeds == 1 or math.isnan(factor):
        return f"{factor:.2f}"
    std = statistics.stdev(math.log(record.rise("product")) / layers for record in net.records)
    half = float(np.exp(t_critical(seeds - 1, CONFIDENCE) * std / math.sqrt(seeds)))
    return f"{factor:.2f} [{factor / half:.2f}, {factor * half:.2f}]"


def _sentence(nets: Sequence[NetResult[Gradients]], first: Sequence[NetResult[Gradients]]) -> str:
    deep = deepest(nets)
    rises = by_moment(deep, lambda net: decades(net, lambda r: r.rise("product")))
    cosines = []
    for family, alike in grouped(first, lambda net: net.family).items():
        kind, _, condition = family.partition(" ")
        named = f"{kind} nets{f' ({condition})' if condition else ''} of {span(net.depth for net in alike)} layers"
        cosines.append(f"{course([float(net.mean(lambda r: r.agreement_at(NEAR))) for net in alike])} in {named}")
    return (
        f"|g| |w| of the first layer, divided by that of the last layer before the classifier, is {rises}. The largest "
        f"|w| of a layer is {by_moment(deep, _largest)} ({seeds(deep)}). If noise of "
        f"{100 * NEAR:g} % of an image's norm is added, the cosine between the old gradient and the new one is "
        f"{first[0].moment}, from the shallowest net to the deepest, {', '.join(cosines)}."
    )


def _table(nets: Sequence[NetResult[Gradients]]) -> Table:
    header = [
        "net", "moment", "seeds", "norm of g, first / last", "times norm of w, first / last", "growth per layer",
        "largest norm of w", "signal to noise", "without the classifier",
    ]  # fmt: skip
    rows = []
    for net in nets:
        rises = [decades(net, lambda r: r.rise("norm")), decades(net, lambda r: r.rise("product"))]
        ratios = [f"{float(net.mean(ratio)):.2g}" for ratio in SNRS]
        measured = [net.label, net.moment, str(len(net.runs))]
        rows.append([*measured, *rises, _per_layer(net), _largest(net), *ratios])
    return header, rows
