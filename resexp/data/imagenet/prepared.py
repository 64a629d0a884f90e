"""A cache of prepared images: one file of data, an index, and what they are (see `prepare`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resexp.config import PreparedConfig
from resexp.data.imagenet.decode import Unreadable
from resexp.data.imagenet.tree import PARTS, Part, Tree
from resexp.errors import UserError
from resexp.outside import Count, Record, read_record

DATA, INDEX, META = "images.bin", "index.npz", "meta.json"


class PreparedMeta(Record):
    """meta.json: what a cache holds."""

    bytes: dict[str, Count]
    """The size of each file."""
    unreadable: list[str]
    """Images that could not be read; their entries are empty."""


@dataclass(frozen=True)
class Prepared:
    """Prepared images, memory-mapped."""

    data: NDArray[np.uint8]
    ends: dict[Part, NDArray[np.int64]]
    """Where each image ends in `data`, after where the first one begins: (n + 1,)."""
    sizes: dict[Part, NDArray[np.int64]]
    """Height and width of each image, (n, 2), where pixels are kept; (0, 2) where JPEGs are."""

    def read(self, part: Part, index: int) -> NDArray[np.uint8]:
        """An image: pixels (H, W, 3), or the bytes of a file (n,). Raises Unreadable where it was when prepared."""
        start, end = self.ends[part][index : index + 2]
        if start == end:
            raise Unreadable("could not be read when it was prepared")
        stored = self.data[start:end]
        return stored.reshape(*self.sizes[part][index], 3) if len(self.sizes[part]) else stored


def prepared_folder(memory: Path, tree: Tree, config: PreparedConfig) -> Path:
    """Where the images of `tree` prepared in this way lie, there or not."""
    kind = f"jpeg{config.quality}" if config.format == "jpeg" else "raw"
    return memory / f"imagenet-{tree.fingerprint}-{config.side}-{kind}"


def read_meta(folder: Path) -> PreparedMeta | None:
    """What a cache holds; None where there is none. Raises UserError where it is damaged."""
    meta = read_record(folder / META, PreparedMeta)
    if meta is not None:
        for name, size in meta.bytes.items():
            there = (folder / name).stat().st_size if (folder / name).exists() else 0
            if there != size:
                raise UserError(
                    f"{folder / name}: damaged, {there:,} of {size:,} bytes; run `resexp data prepare --config STUDY` again"
                )
    return meta


def open_prepared(memory: Path, tree: Tree, config: PreparedConfig) -> Prepared:
    """The images of `tree` prepared in this way. Raises UserError where they are not, or where they are damaged."""
    folder = prepared_folder(memory, tree, config)
    if read_meta(folder) is None:
        raise UserError(
            f"{folder}: data.prepared asks for images that are not prepared; run `resexp data prepare --config STUDY` first"
        )
    with np.load(folder / INDEX, allow_pickle=False) as arrays:
        ends = {part: arrays[f"{part}_ends"] for part in PARTS}
        sizes = {part: arrays[f"{part}_sizes"] for part in PARTS}
    return Prepared(np.asarray(np.memmap(folder / DATA, mode="r")), ends, sizes)
