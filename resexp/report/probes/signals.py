"""Signals: the variance of each layer's output."""

from __future__ import annotations

from resexp.report.probes.panels import by_moment, decades, deepest, profiles, seeds
from resexp.report.probes.results import LayerRecord, Layerwise, Number, PageSection, ProbeResults


class _Layer(LayerRecord):
    variance: Number


Signals = Layerwise[_Layer]
"""See `resexp.probes.signals`."""


def signals(results: ProbeResults) -> PageSection | None:
    """Variance by layer."""
    nets = results.of("signals", Signals)
    if not nets:
        return None
    deep = deepest(nets)
    rows = [
        [net.label, net.moment, str(len(net.runs)), decades(net, _smallest), decades(net, _largest)] for net in nets
    ]
    return PageSection(
        "Signals",
        f"The largest variance of a layer's output is {by_moment(deep, lambda net: decades(net, _largest))} "
        f"({seeds(deep)}).",
        "Variance of the output of each convolution and of the last layer, before BN, in train mode, over 1,000 "
        "images, all positions and channels. BN divides it out. A large variance comes from large weights or a "
        "large input. Means over seeds are geometric.",
        {"probe-signals": profiles("Variance of each layer's output", "variance", nets, "variance")},
        (["net", "moment", "seeds", "smallest variance", "largest variance"], rows),
    )


def _smallest(record: Signals) -> float:
    return min(record.each("variance"))


def _largest(record: Signals) -> float:
    return max(record.each("variance"))
