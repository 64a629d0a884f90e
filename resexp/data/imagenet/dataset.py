"""An image set whose images have any size and are read when they are needed."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import PIL
import simplejpeg
from numpy.typing import NDArray

from resexp.config import CacheConfig, ImageNetData
from resexp.data.archive import MAX_BYTES
from resexp.data.cache import CacheMeta, caches, read_arrays, read_meta
from resexp.data.imagenet.tree import SPLITS, Split, Tree, open_tree
from resexp.data.pixels import Pixels, decode
from resexp.errors import UnreadableImageError, UserError, sanitize
from resexp.runs.records import Findings
from resexp.utils.paths import expanded
from resexp.utils.untrusted import read_file

IMAGES = {"train": 1_281_167, "val": 50_000}
"""Images per split of ILSVRC 2012."""
DATA, INDEX = "images.bin", "index.npz"
VERSION = 2
"""Version of decoding and resizing."""


class ImagesMeta(CacheMeta):
    """meta.json of a cache of images."""

    unreadable: list[str]
    """Images that could not be read; their entries are empty."""


@dataclass(frozen=True)
class ImageCache:
    """Decoded and resized images, memory-mapped."""

    folder: Path
    data: NDArray[np.uint8]
    ends: dict[Split, NDArray[np.int64]]
    """Where the first image begins in `data`, and where each one ends: (n + 1,)."""
    sizes: dict[Split, NDArray[np.int64]]
    """Height and width of each image, (n, 2)."""
    raw: bool
    """Whether pixels are kept, not the bytes of files."""

    def read(self, part: Split, index: int) -> NDArray[np.uint8]:
        """An image: pixels (H, W, 3), or the bytes of a file (n,).

        Raises UnreadableImageError for an image that could not be read when the cache was prepared.
        """
        start, end = self.ends[part][index : index + 2]
        if start == end:
            raise UnreadableImageError("could not be read when it was prepared")
        stored = self.data[start:end]
        return stored.reshape(*self.sizes[part][index], 3) if self.raw else stored


def cache_folder(tree: Tree, config: CacheConfig) -> Path:
    """The folder of the cache that `config` asks for, there or not."""
    kind = f"jpeg{config.quality}" if config.format == "jpeg" else "raw"
    return caches() / f"imagenet-{tree.fingerprint}-{config.side}-{kind}-v{VERSION}"


@dataclass(frozen=True)
class ImageNet(Tree):
    """A folder of images laid out as ImageNet is, as a run uses it. Nothing is decoded before it is asked for."""

    config: ImageNetData
    cache: ImageCache | None
    """Where images are read from, if not from their files."""
    unreadable: set[str] = field(default_factory=set)
    """The images that could not be read so far, ``train/n01440764/n01440764_18.JPEG``."""

    decoder: ClassVar[str] = f"simplejpeg {simplejpeg.__version__}, Pillow {PIL.__version__}"
    """What decodes the images; see `decode`."""
    resident_bytes: ClassVar[int] = 0
    """Bytes of device memory for the training images."""

    @property
    def name(self) -> str:
        """``imagenet`` where that was asked for and it has as many classes and images, else ``imagenet-10``, by the
        number of classes."""
        whole = len(self.classes) == 1000 and all(self.images(part) == IMAGES[part] for part in SPLITS)
        return "imagenet" if whole and self.config.source == "imagenet" else f"{self.config.source}-{len(self.classes)}"

    @property
    def findings(self) -> Findings:
        """The files that are not among the images; duplicates are looked for by `resexp data check` alone."""
        return Findings(left_out=self.left_out)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of what a net sees."""
        return self.config.crop, self.config.crop

    @cached_property
    def train_index(self) -> NDArray[np.int64]:
        """The images that are trained on: all of `train/`."""
        return np.arange(self.images("train"))

    @property
    def val_index(self) -> NDArray[np.int64]:
        """Training images that are held out: none, there is `val/`."""
        return np.arange(0)

    @property
    def val_images(self) -> int:
        """How many images there are to validate on while a run is trained: those of `val/`, which are also the test."""
        return self.images("val")

    @property
    def test_labels(self) -> NDArray[np.int64]:
        """The labels of the test images, (N,)."""
        return self.labels("val")

    def shown(self, part: Split, index: int) -> str:
        """What people know an image by: where it lies, from the folder with `train/` and `val/`."""
        return sanitize(str(self.file(part, index).relative_to(self.root))).replace("\n", " ")

    def read(self, part: Split, index: int) -> bytes:
        """The bytes of an image's file. Raises OSError, or UserError if it is not the file that was listed."""
        path = self.file(part, index)
        data = read_file(path, MAX_BYTES)
        if len(data) != (listed := self.files[part].sizes[index]):
            raise UserError(
                f"{path}: has {len(data):,} bytes, and had {listed:,} when the images were listed; put the old file "
                f"back, or run `touch {path.parent}` to have them listed anew, which makes them another set"
            )
        return data

    def pixels(self, part: Split, index: int, shorter_side: int | None = None) -> Pixels:
        """An image, uint8 (H, W, 3); for `shorter_side` see `decode`. Raises UnreadableImageError."""
        if self.cache is None:
            return decode(self.read(part, index), shorter_side)
        stored = self.cache.read(part, index)
        try:
            return stored if stored.ndim == 3 else decode(stored.tobytes(), shorter_side)
        except UnreadableImageError:
            remedy = "delete this folder, and run `resexp data prepare` again"
            raise UnreadableImageError(f"damaged in the cache {self.cache.folder}; {remedy}") from None


def open_imagenet(config: ImageNetData) -> ImageNet:
    """Open the image set that `config` names, listing it first if this is the first time.

    Raises UserError if it is missing, or not laid out as ImageNet is, or not prepared as asked. Slow work is
    logged.
    """
    tree = open_tree(expanded(config.path)).subset(config.classes)
    known = {field.name: getattr(tree, field.name) for field in fields(Tree)}
    known["remarks"] = [f"{config.path}: {line}" for line in tree.remarks]
    cache = None
    if config.cache and (cache := open_cache(tree, config.cache)) is None:
        raise UserError(
            f"{cache_folder(tree, config.cache)}: not there or damaged, and data.cache asks for it; run `resexp data "
            f"prepare STUDY` first"
        )
    return ImageNet(**known, config=config, cache=cache)


def open_cache(tree: Tree, config: CacheConfig) -> ImageCache | None:
    """The cache of `tree` that `config` asks for; None if it is missing or damaged."""
    folder = cache_folder(tree, config)
    arrays = read_arrays(folder / INDEX)
    meta = read_meta(folder, ImagesMeta)
    if arrays is None or meta is None or not meta.bytes.get(DATA):  # no byte can't be mapped
        return None
    ends, sizes = ({part: arrays[f"{part}_{name}"] for part in SPLITS} for name in ("ends", "sizes"))
    return ImageCache(folder, np.asarray(np.memmap(folder / DATA, mode="c")), ends, sizes, config.format == "raw")
