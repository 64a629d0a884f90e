"""Residual branches: the size of F(x) compared with x."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from resexp.report.probes.material import MAX_LAYERS, Found, Material, Number, Part, Record, Section
from resexp.report.probes.panels import by_family, number, profiles


class _Block(Part):
    block: str
    ratio: Number


class Branches(Record):
    """See `resexp.probes.signals.branches`."""

    blocks: list[_Block] = Field(min_length=1, max_length=MAX_LAYERS)

    @property
    def places(self) -> list[str]:
        """Blocks."""
        return [block.block for block in self.blocks]

    @property
    def ratios(self) -> list[float]:
        """By block."""
        return [block.ratio for block in self.blocks]


def branches(material: Material) -> Section | None:
    """|F(x)| / |x| by block."""
    found = material.found("branches", Branches)
    if not found:
        return None
    medians = [
        f"{', '.join(map(_median, alike))} in {family} nets, {moment}"
        for moment, nets in found.items()
        for family, alike in by_family(nets).items()
    ]
    return Section(
        "Residual branches",
        f"The median over blocks of |F(x)| / |x| is {'; '.join(medians)}.",
        "Norms of what a block adds, F(x), and of what its shortcut passes on, root mean square over 1,000 training "
        "images, in eval mode. Means over seeds are geometric.",
        {
            "probe-branches": profiles(
                "Size of F(x) compared with x", "|F(x)| / |x|", found, lambda r: r.ratios, "block"
            )
        },
    )


def _median(net: Found[Branches]) -> str:
    return f"{number(float(np.median(net.geometric(lambda r: r.ratios))))} at depth {net.depth}"
