"""Residual branches: the size of F(x) compared with x."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from resexp.report.formatting import number
from resexp.report.probes.panels import profiles
from resexp.report.probes.results import (
    MAX_LAYERS,
    LayerRecord,
    Layerwise,
    NetResult,
    Number,
    PageSection,
    ProbeResults,
)
from resexp.report.stats import grouped


class _Block(LayerRecord):
    layer: str = Field(validation_alias="block")
    ratio: Number


class Branches(Layerwise[_Block]):
    """See `resexp.probes.branches`."""

    layers: list[_Block] = Field(validation_alias="blocks", min_length=1, max_length=MAX_LAYERS)


def branches(results: ProbeResults) -> PageSection | None:
    """|F(x)| / |x| by block."""
    nets = results.of("branches", Branches)
    if not nets:
        return None
    families = grouped(nets, lambda net: (net.family, net.moment))
    medians = [
        f"{', '.join(map(_median, alike))} in {family} nets, {moment}" for (family, moment), alike in families.items()
    ]
    return PageSection(
        "Residual branches",
        f"The median of |F(x)| / |x| over the blocks of a net is {'; '.join(medians)}.",
        "Norms of what a block adds, F(x), and of what its shortcut passes on, root mean square over 1,000 training "
        "images, in eval mode. Means over seeds are geometric.",
        {"probe-branches": profiles("Size of F(x) compared with x", "|F(x)| / |x|", nets, "ratio", "block")},
    )


def _median(net: NetResult[Branches]) -> str:
    median = np.median(net.geometric(lambda record: record.each("ratio")))
    return f"{number(float(median))} at depth {net.depth}"
