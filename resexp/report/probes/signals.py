"""Signals: the variance of each layer's output."""

from __future__ import annotations

from pydantic import Field

from resexp.report.probes.material import MAX_LAYERS, Material, Number, Part, Record, Section
from resexp.report.probes.panels import each, profiles, span


class _Layer(Part):
    layer: str
    variance: Number


class Signals(Record):
    """See `resexp.probes.signals`."""

    layers: list[_Layer] = Field(min_length=1, max_length=MAX_LAYERS)

    @property
    def places(self) -> list[str]:
        """Layers."""
        return [layer.layer for layer in self.layers]

    @property
    def variances(self) -> list[float]:
        """By layer."""
        return [layer.variance for layer in self.layers]


def signals(material: Material) -> Section | None:
    """Variance by layer."""
    found = material.found("signals", Signals)
    if not found:
        return None
    ranges = [
        f"{moment} {each(nets, lambda alike: span(v for net in alike for v in net.mean(lambda r: r.variances)))}"
        for moment, nets in found.items()
    ]
    return Section(
        "Signals",
        f"The variance of a layer's output is {'; '.join(ranges)}.",
        "Of each convolution and of the last layer, before BN, in train mode, over 1,000 images, all positions and "
        "channels. Means over seeds.",
        {"probe-signals": profiles("Variance of each layer's output", "variance", found, lambda r: r.variances)},
    )
