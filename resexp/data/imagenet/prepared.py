"""A cache of prepared images: one file of data, an index, and what they are (see `prepare`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resexp.config import PreparedConfig
from resexp.data.imagenet.arrays import read_arrays
from resexp.data.imagenet.tree import PARTS, Part, Tree
from resexp.errors import UnreadableImageError, UserError
from resexp.utils.untrusted import Count, Record, read_record

DATA, INDEX, META = "images.bin", "index.npz", "meta.json"
VERSION = 2
"""Version of decoding and resizing."""
COMMAND = "`resexp data prepare STUDY`"


class PreparedMeta(Record):
    """meta.json: what a cache holds."""

    bytes: dict[str, Count]
    """The size of each file."""
    unreadable: list[str]
    """Images that could not be read; their entries are empty."""


@dataclass(frozen=True)
class Prepared:
    """Prepared images, memory-mapped."""

    folder: Path
    data: NDArray[np.uint8]
    ends: dict[Part, NDArray[np.int64]]
    """Where the first image begins in `data`, and where each one ends: (n + 1,)."""
    sizes: dict[Part, NDArray[np.int64]]
    """Height and width of each image, (n, 2)."""
    raw: bool
    """Whether pixels are kept, not the bytes of files."""

    def read(self, part: Part, index: int) -> NDArray[np.uint8]:
        """An image: pixels (H, W, 3), or the bytes of a file (n,).

        Raises UnreadableImageError for an image that could not be read when the cache was prepared.
        """
        start, end = self.ends[part][index : index + 2]
        if start == end:
            raise UnreadableImageError("could not be read when it was prepared")
        stored = self.data[start:end]
        return stored.reshape(*self.sizes[part][index], 3) if self.raw else stored


def prepared_folder(memory: Path, tree: Tree, config: PreparedConfig) -> Path:
    """Where the images of `tree` prepared in this way lie, there or not."""
    kind = f"jpeg{config.quality}" if config.format == "jpeg" else "raw"
    return memory / f"imagenet-{tree.fingerprint}-{config.side}-{kind}-v{VERSION}"


def read_meta(folder: Path) -> PreparedMeta | None:
    """What a cache holds; None if there is none. Raises UserError if it is damaged."""
    meta = read_record(folder / META, PreparedMeta)
    if meta is not None:
        for name, size in meta.bytes.items():
            there = (folder / name).stat().st_size if (folder / name).exists() else 0
            if there != size:
                raise UserError(f"{folder / name}: damaged, {there:,} of {size:,} bytes; run {COMMAND} again")
    return meta


def open_prepared(memory: Path, tree: Tree, config: PreparedConfig) -> Prepared:
    """The images of `tree` prepared in this way. Raises UserError if they are not, or if they are damaged."""
    folder = prepared_folder(memory, tree, config)
    if read_meta(folder) is None:
        raise UserError(f"{folder}: not there, and data.cache asks for it; run {COMMAND} first")
    arrays = read_arrays(folder / INDEX)
    if arrays is None:
        raise UserError(f"{folder / INDEX}: damaged; delete the folder, and run {COMMAND} again")
    ends, sizes = ({part: arrays[f"{part}_{name}"] for part in PARTS} for name in ("ends", "sizes"))
    return Prepared(folder, np.asarray(np.memmap(folder / DATA, mode="c")), ends, sizes, config.format == "raw")
