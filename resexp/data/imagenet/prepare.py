"""Passes over all images of a set: writing a cache of resized images, and finding unreadable ones."""

from __future__ import annotations

import functools
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import simplejpeg

from resexp.config import CacheConfig
from resexp.data.cache import META, building, lock_of, sizes, write_arrays
from resexp.data.imagenet.dataset import DATA, INDEX, ImageNet, ImagesMeta, cache_folder, open_cache
from resexp.data.imagenet.loader import resize
from resexp.data.imagenet.tree import SPLITS, Split
from resexp.data.images import Seen, find_duplicates, seen
from resexp.data.pixels import decode
from resexp.errors import UnreadableImageError, UserError
from resexp.utils.files import with_filename, write_atomic
from resexp.utils.logs import log
from resexp.utils.parallel import prefetch
from resexp.utils.text import few

ResultT = TypeVar("ResultT")

_SAMPLE = 200
"""Images that are prepared to estimate how large the cache will be."""


def check(dataset: ImageNet, progress: Callable[[int, int], None], threads: int) -> tuple[list[str], list[str]]:
    """Read every image once; a line for each that can't be read, and one for each kind of duplicates.

    `progress` hears (images done, images in all).
    """

    def look(part: Split, image: int) -> str | Seen:
        shown, label = dataset.shown(part, image), dataset.labels(part)[image]
        try:
            return seen(part, dataset.classes[label], shown, dataset.pixels(part, image))
        except (UnreadableImageError, UserError, OSError) as error:
            return f"{dataset.root}/{shown}: {' '.join(str(error).split())}"

    looked = list(_each(dataset, look, progress, threads))
    _, remarks = find_duplicates(found for found in looked if isinstance(found, Seen))
    return [line for line in looked if isinstance(line, str)], remarks


def prepare(dataset: ImageNet, config: CacheConfig, progress: Callable[[int, int], None], threads: int) -> Path:
    """Make the cache that `data.cache` asks for, of a set that is read from its files; the cache's folder.

    Raises UserError if the disk is too small, or no image can be read. `progress` hears (images done, images in all).
    """
    folder = cache_folder(dataset, config)
    with lock_of(folder, f"the cache {folder}"):
        if open_cache(dataset, config) is not None:
            log.info(f"{folder}: there already")
            return folder
        with building(folder) as temporary:
            _check_room(dataset, config, folder)
            unreadable = _build(dataset, config, temporary, progress, threads)
            if len(unreadable) == sum(map(dataset.images, SPLITS)):
                raise UserError(f"{dataset.root}: none of its images can be read; `resexp data check STUDY` says why")
    if unreadable:
        log.warning(f"{len(unreadable):,} images can't be read, and are left empty: {few(unreadable)}")
    return folder


def _each(
    dataset: ImageNet, work: Callable[[Split, int], ResultT], progress: Callable[[int, int], None], threads: int
) -> Iterator[ResultT]:
    """What `work` gives for every image, in order."""
    counts = {part: dataset.images(part) for part in SPLITS}
    images = ((part, image) for part, count in counts.items() for image in range(count))
    for done, result in enumerate(prefetch(lambda image: work(*image), images, threads), 1):
        progress(done, sum(counts.values()))
        yield result


def _prepared(dataset: ImageNet, config: CacheConfig, part: Split, image: int) -> tuple[bytes, tuple[int, int]]:
    """What a cache holds of an image: a file's bytes or pixels, and height and width; nothing if it can't be read."""
    try:
        data = dataset.read(part, image)
        pixels = decode(data, config.side)
    except UnreadableImageError:
        return b"", (0, 0)
    height, width = pixels.shape[:2]
    scale = config.side / min(height, width)
    if scale < 1:
        height, width = round(height * scale), round(width * scale)
        pixels = resize(pixels, height, width)
    if config.format == "raw":
        data = pixels.tobytes()
    elif scale < 1:
        data = simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), config.quality, colorsubsampling="420")
    return data, (height, width)


def _check_room(dataset: ImageNet, config: CacheConfig, folder: Path) -> None:
    """Say how large the cache will be. Raises UserError if there is less room."""
    total = needed = 0
    for part in SPLITS:
        count = dataset.images(part)
        sample = np.unique(np.linspace(0, count - 1, min(_SAMPLE, count)).round().astype(int))
        needed += sum(len(_prepared(dataset, config, part, int(i))[0]) for i in sample) * count // len(sample)
        total += count
    free = shutil.disk_usage(folder.parent).free
    log.info(f"{folder}: about {needed / 1e9:,.3g} GB for {total:,} images; {free / 1e9:,.3g} GB are free")
    if needed > free:
        raise UserError(
            f"{folder}: needs about {needed / 1e9:,.3g} GB, and {free / 1e9:,.3g} GB are free; make room, set "
            f"RESEXP_DATA to another disk, or choose a smaller data.cache.side"
        )


def _build(
    dataset: ImageNet, config: CacheConfig, folder: Path, progress: Callable[[int, int], None], threads: int
) -> list[str]:
    """Write a cache; the images that can't be read."""
    entries = _each(dataset, functools.partial(_prepared, dataset, config), progress, threads)
    unreadable: list[str] = []
    index = {}
    with with_filename(folder / DATA), (folder / DATA).open("wb") as file:
        for part in SPLITS:
            ends, shapes = [file.tell()], []
            for image, (data, shape) in enumerate(itertools.islice(entries, dataset.images(part))):
                file.write(data)
                ends.append(file.tell())
                shapes.append(shape)
                if not data:
                    unreadable.append(dataset.shown(part, image))
            index[f"{part}_ends"] = np.array(ends)
            index[f"{part}_sizes"] = np.array(shapes, dtype=np.int32)
        file.flush()
        os.fsync(file.fileno())
    write_arrays(folder / INDEX, index)
    write_atomic(folder / META, ImagesMeta(bytes=sizes(folder), unreadable=unreadable).model_dump_json())
    return unreadable
