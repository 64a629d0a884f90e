"""Gradients: their norm by layer, their signal-to-noise ratio, and how those of neighbouring images agree."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import Field, model_validator

from resexp.report.figure import MARKERS, Plot, family_colours, styled
from resexp.report.plots import depth_axis
from resexp.report.probes.material import INITIAL, MAX_LAYERS, Found, Material, Moments, Number, Part, Record, Section
from resexp.report.probes.panels import (
    by_family,
    course,
    decades,
    deepest,
    digits,
    each,
    panels,
    places,
    profiles,
    seeds,
)

NEAR = 0.1
"""The distance that the sentence is about, as a share of the image's norm."""


class _Layer(Part):
    layer: str
    norm: Number
    snr: Number
    weight_norm: Number


class Gradients(Record):
    """See `resexp.probes.gradients`."""

    layers: list[_Layer] = Field(min_length=2, max_length=MAX_LAYERS)
    snr: Number
    distances: list[Annotated[float, Field(gt=0)]] = Field(min_length=1, max_length=1000)
    agreement: list[Number]

    @model_validator(mode="after")
    def _one_a_distance(self) -> Gradients:
        if len(self.agreement) != len(self.distances):
            raise ValueError("agreement and distances differ in length")
        return self

    @property
    def places(self) -> list[str]:
        """Layers and distances."""
        return [*(layer.layer for layer in self.layers), *map(str, self.distances)]

    @property
    def norms(self) -> list[float]:
        """|g| by layer."""
        return [layer.norm for layer in self.layers]

    @property
    def weight_norms(self) -> list[float]:
        """|w| by layer."""
        return [layer.weight_norm for layer in self.layers]

    @property
    def products(self) -> list[float]:
        """|g| |w| by layer: the slope of the loss against a relative change of the layer's weights."""
        return [layer.norm * layer.weight_norm for layer in self.layers]

    @property
    def snr_before_classifier(self) -> float:
        """The signal-to-noise ratio of all layers but the last, put together from theirs."""
        squares = [(layer.norm**2, layer.norm**2 / (1 + layer.snr)) for layer in self.layers[:-1] if layer.norm]
        noise = sum(noise for _, noise in squares)
        return (sum(square for square, _ in squares) - noise) / noise if noise else math.nan

    @property
    def near(self) -> float:
        """The agreement at the distance nearest to NEAR."""
        return min(zip(self.distances, self.agreement, strict=True), key=lambda pair: abs(math.log(pair[0] / NEAR)))[1]


def gradients(material: Material) -> Section | None:
    """Norms by layer, SNR against depth, agreement against distance."""
    found = material.found("gradients", Gradients)
    if not found:
        return None
    moment, nets = next(iter(found.items()))
    return Section(
        "Gradients",
        _sentence(found),
        "|g|: norm of the loss gradient with respect to a layer's weights, root mean square over 16 batches of 128 "
        "images, in train mode. |w|: norm of the weights. BN makes a layer's output independent of |w|, so |g| goes as "
        "1/|w|, and |g| alone shows how much the weights have grown: at a rate of 0.1 the first 15 steps of plain-56 "
        "multiply |w| of its first layers by 50 to 180. |g| |w|, the slope of the loss against a relative change of "
        "the weights, has no such scale. Yang et al. 2019 (arXiv 1902.08129) showed that BN makes gradients explode at "
        "initialisation in nets without shortcuts, in wide ones with ReLU by "
        f"sqrt(pi / (pi - 1)) = {EXPLOSION:.2f} per layer. Growth per layer: the factor between |g| |w| of one layer "
        "and of the one before it. Signal-to-noise: squared norm of the gradient's mean over the mean squared norm of "
        "its deviations. "
        "Agreement: cosine between the gradients with respect to an image and to the same image with noise added, "
        "after Balduzzi et al. 2017 (arXiv 1702.08591). Means over seeds, of norms and their ratios geometric.",
        {
            "probe-gradients-product": profiles("Gradient times weights", "|g| |w|", found, lambda r: r.products),
            "probe-gradients-weights": profiles("Norm of the weights", "|w|", found, lambda r: r.weight_norms),
            "probe-gradients-norm": profiles("Norm of the loss gradient", "|g|", found, lambda r: r.norms),
            "probe-gradients-snr": _snr(found),
            "probe-gradients-agreement": _agreement({moment: nets}),
        },
        _table(found),
    )


@styled
def _snr(found: Moments[Gradients]) -> Plot:
    titles = ["all layers", "without the classifier"]
    plot = Plot("Signal-to-noise ratio of the gradient", "depth (layers)", "ratio", (8.0, 4.2), [titles])
    plot.axes.set_yscale("symlog", linthresh=0.01)  # the estimate may come out just below zero
    depths = sorted({net.depth for nets in found.values() for net in nets})
    names = list(dict.fromkeys(net.family for nets in found.values() for net in nets))
    colours = family_colours(names)
    for moment, nets in found.items():
        for family, alike in by_family(nets).items():
            look: dict[str, Any] = {"color": colours[family], "marker": MARKERS[names.index(family)]}
            look |= {"linewidth": 0.8, "markerfacecolor": "none"} if moment == INITIAL else {}
            at, series = [net.depth for net in alike], f"{family}, {moment}"
            whole = [float(net.mean(lambda r: r.snr)) for net in alike]
            rest = [float(net.mean(lambda r: r.snr_before_classifier)) for net in alike]
            for axes, ratios, label in zip(plot.panels[0], (whole, rest), (series, None), strict=True):
                told = [f"{digits(ratio)} at depth {depth}" for depth, ratio in zip(at, ratios, strict=True)]
                axes.plot(at, ratios, label=label, gid=plot.mark(series, f"{series}: {', '.join(told)}"), **look)
    plot.legend(2, "small")
    depth_axis(plot, depths)
    return plot


@styled
def _agreement(found: Moments[Gradients]) -> Plot:
    plot = panels("Agreement of neighbours' gradients", "distance (share of the image's norm)", "cosine", found)
    for axes, net, look in places(plot, found):
        tip = plot.mark(f"{net.depth} layers", net.label)
        axes.plot(net.seeds[0].distances, net.mean(lambda r: r.agreement), gid=tip, **look)
    plot.axes.set_xscale("log")
    return plot


EXPLOSION = math.sqrt(math.pi / (math.pi - 1))
"""Growth per layer of the gradient's norm in wide plain nets with BN and ReLU, at initialisation (Yang et al. 2019)."""


def _rise(values: Sequence[float]) -> float:
    """The ratio of the first layer's number to the number of the last layer before the classifier.

    The classifier is left out: its gradient has another shape, and no BN behind it.
    """
    return values[0] / values[-2] if values[-2] else math.nan


def _product_rise(record: Gradients) -> float:
    return _rise(record.products)


def _largest(record: Gradients) -> float:
    return max(record.weight_norms)


def _a_layer(net: Found[Gradients]) -> str:
    """The factor by which |g| |w| grows from one layer to the one before it."""
    rise = float(net.geometric(_product_rise))
    return f"{rise ** (1 / (net.depth - 2)):.2f}"


def _sentence(found: Moments[Gradients]) -> str:
    rises, weights = [], []
    for moment, nets in found.items():
        deep = deepest(nets)
        growth = [f"{decades(net, _product_rise, f'{_a_layer(net)} per layer')} in {net.label}" for net in deep]
        rises.append(f"{moment} {', '.join(growth)}")
        weights.append(f"{moment} {', '.join(f'{decades(net, _largest)} in {net.label}' for net in deep)}")
    moment, nets = next(iter(found.items()))
    cosines = each(nets, lambda alike: course([float(net.mean(lambda r: r.near)) for net in alike]))
    return (
        f"|g| |w| at the first layer over that at the last before the classifier is {'; '.join(rises)}. The largest "
        f"|w| of a layer is {'; '.join(weights)} ({seeds(net for nets in found.values() for net in deepest(nets))}). "
        f"The cosine between gradients of neighbours at a distance of {NEAR:g} is {moment}, from the shallowest net to "
        f"the deepest, {cosines}."
    )


def _table(found: Moments[Gradients]) -> tuple[list[str], list[list[str]]]:
    header = [
        *("net", "moment", "seeds", "norm of g, first / last", "times norm of w, first / last", "growth per layer"),
        *("largest norm of w", "signal to noise", "without the classifier"),
    ]
    rows = [
        [
            *(net.label, moment, str(len(net.seeds)), decades(net, lambda r: _rise(r.norms))),
            *(decades(net, _product_rise), _a_layer(net), decades(net, _largest)),
            *(f"{float(net.mean(ratio)):.2g}" for ratio in (lambda r: r.snr, lambda r: r.snr_before_classifier)),
        ]
        for moment, nets in found.items()
        for net in nets
    ]
    return header, rows
