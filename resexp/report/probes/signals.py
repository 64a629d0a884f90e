"""Signals: the variance of each layer's output."""

from __future__ import annotations

from pydantic import Field

from resexp.report.probes.material import MAX_LAYERS, Material, Number, Part, Record, Section
from resexp.report.probes.panels import decades, deepest, profiles, seeds


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
    largest = [
        f"{moment} {', '.join(f'{decades(net, _largest)} in {net.label}' for net in deepest(nets))}"
        for moment, nets in found.items()
    ]
    return Section(
        "Signals",
        f"The largest variance of a layer's output is {'; '.join(largest)} "
        f"({seeds(net for nets in found.values() for net in deepest(nets))}).",
        "Variance of the output of each convolution and of the last layer, before BN, in train mode, over 1,000 "
        "images, all positions and channels. It grows with the layer's weights, and BN divides it out: where it is "
        "huge, the first steps have blown up the weights (see Gradients). Means over seeds are geometric.",
        {"probe-signals": profiles("Variance of each layer's output", "variance", found, lambda r: r.variances)},
        (
            ["net", "moment", "seeds", "smallest variance", "largest variance"],
            [
                [net.label, moment, str(len(net.seeds)), decades(net, _smallest), decades(net, _largest)]
                for moment, nets in found.items()
                for net in nets
            ],
        ),
    )


def _smallest(record: Signals) -> float:
    return min(record.variances)


def _largest(record: Signals) -> float:
    return max(record.variances)
