"""What a net looks like from outside: its layers in order, and which of its blocks are alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

LayerKind = Literal["conv", "pool", "fc"]


@dataclass(frozen=True)
class Layer:
    """A convolution, a pooling or a fully connected layer; all counts are for one image."""

    name: str
    """Where it stands in the net: stages.1.0.conv1."""
    kind: LayerKind
    what: str
    """In the words of the paper's Fig. 3: "3x3 conv, 32, /2"."""
    block: str | None
    """The block it belongs to: stages.1.0."""
    on_shortcut: bool
    output: tuple[int, int, int]
    """Channels, height, width."""
    parameters: int
    """Its own, and those of what stands between it and the next layer: BN, or scalars."""
    multiply_adds: int
    """As the paper counts FLOPs (Table 1): of convolutions and fully connected layers, without BN and biases."""
    receptive_field: int | None
    """Pixels a side of the image that one of its outputs sees on the longest way; None: all of them."""


@dataclass(frozen=True)
class Part:
    """A layer that belongs to no block, or a row of blocks that are alike."""

    first: tuple[Layer, ...]
    """The layers of the first block."""
    last: tuple[Layer, ...]
    """The layers of the last block."""
    blocks: int


def parts(layers: Sequence[Layer], *, every_block: bool = False) -> list[Part]:
    """The parts of a net: successive blocks that differ in name and receptive field alone are one, or
    each is one for `every_block`."""
    blocks = [tuple(block) for _, block in groupby(layers, key=lambda layer: layer.block or layer.name)]
    rows = [[block] for block in blocks] if every_block else [list(row) for _, row in groupby(blocks, key=_likeness)]
    return [Part(row[0], row[-1], len(row)) for row in rows]


def _likeness(block: tuple[Layer, ...]) -> object:
    if block[0].block is None:
        return block[0].name
    return [(layer.what, layer.on_shortcut, layer.output, layer.parameters, layer.multiply_adds) for layer in block]


def short(count: float) -> str:
    """A large number as the paper writes it: ``0.27 M``, ``253 M``, ``3.64 G``; a smaller one as ``17.3 k``."""
    count = float(f"{count:.3g}")  # else 999.6 M would be 1e+03 M
    large = (1e12, "T") if count >= 1e12 else (1e9, "G")
    unit, letter = large if count >= 1e9 else (1e6, "M") if count >= 1e5 else (1e3, "k")
    return f"{count / unit:.3g} {letter}"
