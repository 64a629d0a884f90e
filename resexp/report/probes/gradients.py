"""Gradients: their norm by layer, their signal-to-noise ratio, and how those of neighbouring images agree."""

from __future__ import annotations

import math
from typing import Annotated, Any

from pydantic import Field, model_validator

from resexp.report.plots import MARKERS, PALETTE, Plot, styled
from resexp.report.probes.material import INITIAL, MAX_LAYERS, Found, Material, Moments, Number, Part, Record, Section
from resexp.report.probes.panels import by_family, course, each, panels, places, profiles, span

NEAR = 0.1
"""The distance that the sentence is about, as a share of the image's norm."""


class _Layer(Part):
    layer: str
    norm: Number


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
        """By layer."""
        return [layer.norm for layer in self.layers]

    @property
    def near(self) -> float:
        """The agreement at the distance nearest to NEAR."""
        return min(zip(self.distances, self.agreement, strict=True), key=lambda pair: abs(math.log(pair[0] / NEAR)))[1]


def gradients(material: Material) -> Section | None:
    """Norm by layer, SNR against depth, agreement against distance."""
    found = material.found("gradients", Gradients)
    if not found:
        return None
    moment, nets = next(iter(found.items()))
    return Section(
        "Gradients",
        _sentence(moment, nets),
        "Norm: of the loss gradient with respect to a layer's weights, root mean square over 16 batches of 128 images, "
        "in train mode. Signal-to-noise: squared norm of the gradient's mean over that of its deviations. Agreement: "
        "cosine between the gradients with respect to an image and to the same image with noise added, after Balduzzi "
        "et al. 2017. Means over seeds.",
        {
            "probe-gradients-norm": profiles("Norm of the loss gradient", "norm", found, lambda r: r.norms),
            "probe-gradients-snr": _snr(found),
            "probe-gradients-agreement": _agreement({moment: nets}),
        },
    )


@styled
def _snr(found: Moments[Gradients]) -> Plot:
    plot = Plot("Signal-to-noise ratio of the gradient", "depth (layers)", "ratio", (6.0, 4.2))
    plot.axes.set_yscale("symlog", linthresh=0.01)  # the estimate may come out just below zero
    depths = sorted({net.depth for nets in found.values() for net in nets})
    names = list(dict.fromkeys(net.family for nets in found.values() for net in nets))
    for moment, nets in found.items():
        for family, alike in by_family(nets).items():
            number = names.index(family)
            look: dict[str, Any] = {"color": PALETTE[number], "marker": MARKERS[number]}
            look |= {"linestyle": "--", "markerfacecolor": "none"} if moment == INITIAL else {}
            ratios = [float(net.mean(lambda r: r.snr)) for net in alike]
            plot.axes.plot([net.depth for net in alike], ratios, label=f"{family}, {moment}", **look)
    plot.axes.set_xticks(depths, [str(depth) for depth in depths])
    plot.figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return plot


@styled
def _agreement(found: Moments[Gradients]) -> Plot:
    plot = panels("Agreement of neighbours' gradients", "distance (share of the image's norm)", "cosine", found)
    for axes, net, look in places(plot, found):
        axes.plot(net.seeds[0].distances, net.mean(lambda r: r.agreement), gid=plot.tip(net.label), **look)
    plot.axes.set_xscale("log")
    return plot


def _rise(record: Gradients) -> float:
    """Of the norm, from the last layer before the classifier to the first."""
    return record.norms[0] / record.norms[-2] if record.norms[-2] else math.nan


def _sentence(moment: str, nets: list[Found[Gradients]]) -> str:
    # The classifier is left out: its gradient has another shape, and no BN behind it.
    norms = each(nets, lambda alike: span(float(net.mean(_rise)) for net in alike))
    cosines = each(nets, lambda alike: course([float(net.mean(lambda r: r.near)) for net in alike]))
    return (
        f"{moment[0].upper()}{moment[1:]}, the gradient's norm at the first layer over that at the last before the "
        f"classifier is {norms}; the cosine between gradients of neighbours at a distance of {NEAR:g} is, from the "
        f"shallowest net to the deepest, {cosines}."
    )
