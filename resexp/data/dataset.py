"""Opening an image set: decoded once into a uint8 cache keyed by content, then memory-mapped by every run."""

from __future__ import annotations

import contextlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, overload

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from resexp.config import ArrayData, DataConfig, FolderData, ImageNetData, PluginData, ShapesData
from resexp.config.data import HOLDOUT, MAX_RESIZE
from resexp.data import folder, plugin, shapes
from resexp.data.cache import META, CacheMeta, building, caches, data_home, lock_of, read_meta, sizes
from resexp.data.imagenet import ImageNet, open_imagenet
from resexp.data.images import ImageSet, find_duplicates
from resexp.data.official import official_set
from resexp.data.pixels import Pixels
from resexp.errors import UserError
from resexp.runs.records import Findings
from resexp.utils.files import with_filename, write_atomic
from resexp.utils.interrupts import at_once
from resexp.utils.logs import log
from resexp.utils.paths import expanded
from resexp.utils.untrusted import Count

CIFAR10 = "d5153d88b81d5639"
"""Fingerprint of CIFAR-10, by which a folder or archive of its images is recognised."""
_DAY = 86_400
"""Seconds."""


class ArraysMeta(CacheMeta):
    """meta.json of a cache of arrays."""

    classes: Annotated[list[str], Field(min_length=2)]
    fingerprint: str
    train_images: Count
    size: tuple[Count, Count]
    """Height and width of the images."""
    test_in_train: Count
    conflicting_labels: Count
    remarks: list[str]


@dataclass(frozen=True)
class Dataset:
    """An image set on disk, memory-mapped, with its split. Images are uint8 (N, H, W, 3), labels int64 (N,)."""

    cache: Path
    name: str
    """That of an official set, ``shapes``, or that of the folder; a folder of CIFAR-10 is recognised by content."""
    fingerprint: str
    classes: list[str]
    train_index: NDArray[np.int64]
    """Which of the training images are trained on."""
    val_index: NDArray[np.int64]
    """Which are held out for validation; empty with ``split: full``."""
    findings: Findings
    remarks: tuple[str, ...]
    """A line for everything about the set that a person might not expect."""
    unreadable: ClassVar[frozenset[str]] = frozenset()
    """Always empty: sets with unreadable images are rejected when they are opened."""
    decoder: ClassVar[str] = ""
    """Images are kept as they were decoded."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        images, _ = self.train()
        return images.shape[1], images.shape[2]

    @property
    def val_images(self) -> int:
        """How many images there are to validate on while a run is trained."""
        return len(self.val_index)

    @property
    def resident_bytes(self) -> int:
        """Bytes of device memory for all images, test images included."""
        return self.train()[0].nbytes + self.test()[0].nbytes

    @property
    def test_labels(self) -> NDArray[np.int64]:
        """The labels of the test images, (N,)."""
        return self.test()[1]

    def train(self) -> tuple[Pixels, NDArray[np.int64]]:
        """All training images and labels, including the held-out ones."""
        return self._load("train")

    def test(self) -> tuple[Pixels, NDArray[np.int64]]:
        """The test images and labels: to be read once, when training has ended."""
        return self._load("test")

    def _load(self, split: str) -> tuple[Pixels, NDArray[np.int64]]:
        # Copy-on-write mapping: pages are shared between runs, and torch sees a writable array.
        images = np.load(self.cache / f"{split}_images.npy", mmap_mode="c")
        return images, np.load(self.cache / f"{split}_labels.npy")


@overload
def open_dataset(config: ArrayData) -> Dataset: ...
@overload
def open_dataset(config: DataConfig) -> Dataset | ImageNet: ...
def open_dataset(config: DataConfig) -> Dataset | ImageNet:
    """Open the image set that `config` names, decoding it first if this is the first time.

    Raises UserError if it is missing, damaged, or can't be split as asked. Slow work is logged.
    """
    with at_once():  # whatever is done here can be done again
        return open_imagenet(config) if isinstance(config, ImageNetData) else _open_arrays(config)


def _open_arrays(config: ArrayData) -> Dataset:
    survey = folder.Survey()
    decode: Callable[[], ImageSet]
    if isinstance(config, FolderData):
        path = expanded(config.path)
        survey = folder.survey(path)
        name = f"folder {path.name}"
        content, decode = f"folder-{survey.content}", lambda: folder.decode(path, config.resize)
    elif isinstance(config, PluginData):
        name, content, decode = f"{config.source}", plugin.content_key(config), lambda: plugin.load(config)
    elif isinstance(config, ShapesData):
        name, content, decode = "shapes", shapes.content_key(config), lambda: shapes.generate(config)
    else:
        found = official_set(config)
        name, content, decode = found.name, found.content, lambda: found.decode(found.find(config.path, data_home()))
    cache = caches() / f"{content}-{config.resize or 'native'}"
    meta = read_meta(cache, ArraysMeta)
    if meta is None:
        log.info(f"decoding {name} into {cache}")
        meta = _build(cache, decode, config.resize)
    if meta.fingerprint == CIFAR10:
        name = "cifar10"
    height, width = meta.size
    if height % 4 or width % 4:
        raise UserError(
            f"data: images are {width}x{height}; the nets halve them twice, so each side must be divisible by 4: "
            f"set data.resize to {min(MAX_RESIZE, max(8, height // 4 * 4))}"
        )
    train_index, val_index = _split(meta.train_images, len(meta.classes), config)
    return Dataset(
        cache, name, meta.fingerprint, meta.classes, train_index, val_index,
        Findings(left_out=survey.left_out, **meta.model_dump(include={"test_in_train", "conflicting_labels"})),
        tuple(f"{getattr(config, 'path', None) or name}: {line}" for line in [*survey.remarks, *meta.remarks]),
    )  # fmt: skip


def _split(images: int, classes: int, config: ArrayData) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    if config.split == "full":
        return np.arange(images), np.arange(0)
    held_out = round(images * HOLDOUT)
    if held_out < classes:
        raise UserError(
            f"data.split: holdout keeps 10 % of the training images for validation; 10 % of {images} is {held_out}, "
            f"less than one for each of {classes} classes; use split: full"
        )
    order = np.random.default_rng(config.split_seed).permutation(images)
    return np.sort(order[held_out:]), np.sort(order[:held_out])


def _build(cache: Path, decode: Callable[[], ImageSet], size: int | None) -> ArraysMeta:
    """Decode a set into its cache; one process at a time does it."""
    with lock_of(cache, "the cache", wait=True):
        if (meta := read_meta(cache, ArraysMeta)) is not None:
            return meta  # while we waited
        _remove_left_overs(cache)
        with building(cache) as folder:
            image_set = decode()
            for split in ("train", "test"):
                images = image_set.stacked(split, size)
                _save(folder / f"{split}_images.npy", images)
                _save(folder / f"{split}_labels.npy", image_set.labels[split])
            duplicates, remarks = find_duplicates(image_set.seen)
            meta = ArraysMeta(
                bytes=sizes(folder),
                classes=image_set.classes,
                fingerprint=image_set.fingerprint(),
                train_images=len(image_set.images["train"]),
                size=images.shape[1:3],
                **duplicates.model_dump(exclude={"left_out"}),
                remarks=[*image_set.remarks, *remarks],
            )
            write_atomic(folder / META, meta.model_dump_json())
        return meta


def _remove_left_overs(cache: Path) -> None:
    """Remove temporary folders of other sets that are over a day old: killed processes left them."""
    for left_over in cache.parent.glob(".building-*"):
        other = cache.with_name(left_over.name.removeprefix(".building-"))
        if other != cache and time.time() - left_over.stat().st_mtime > _DAY:
            with contextlib.suppress(UserError), lock_of(other, "the cache"):
                shutil.rmtree(left_over, ignore_errors=True)


def _save(path: Path, array: NDArray[Any]) -> None:
    with with_filename(path), path.open("wb") as file:
        # np.save itself would say of a full disk: "12345 requested and 678 written".
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        file.write(np.ascontiguousarray(array).data)
        file.flush()
        os.fsync(file.fileno())
