"""Images in `train/<class>/` and `test/<class>/`: a folder, or an archive, which is not unpacked."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from resexp.data.archive import contents, members
from resexp.data.cache import caches
from resexp.data.images import ImageSet, Seen, resized, seen
from resexp.data.layout import Entry, Layout, find_layout
from resexp.data.pixels import Pixels, read_image
from resexp.errors import UnreadableImageError, UserError, sanitize
from resexp.utils.files import write_atomic
from resexp.utils.machine import cores, memory
from resexp.utils.parallel import prefetch
from resexp.utils.text import counted, few
from resexp.utils.untrusted import Count, JsonRecord, read_record


class _Image(NamedTuple):
    """What is kept of an image."""

    pixels: Pixels
    seen: Seen
    transparent: bool
    frames: bool
    """See `Decoded`."""


class Survey(JsonRecord):
    """What is known of a set without decoding it."""

    content: str = ""
    """A digest of the files' bytes."""
    left_out: dict[str, Count] = Field(default_factory=dict)
    """See `Layout.left_out`."""
    remarks: list[str] = Field(default_factory=list)


def survey(path: Path) -> Survey:
    """Look at a set, and remember what was found for as long as names, sizes and times stay the same."""
    layout = _layout(path) if _check_path(path).is_dir() else None
    found, faults = _plain(path, [*layout.entries, *filter(None, [layout.table])] if layout else ["."])
    if faults:
        raise _unreadable(path, [f"{name} ({why})" for name, why in sorted(faults.items())])
    files = {os.fsencode(file.relative_to(path)): file for file in sorted(found)}
    stamp = hashlib.sha256(os.fsencode(path.resolve()) + f"{layout and layout.remarks}".encode())
    for name, file in files.items():
        stamp.update(name + f"\0{found[file].st_size}\0{found[file].st_mtime_ns}\0".encode())
    known = caches() / f".survey-{stamp.hexdigest()[:32]}"
    try:
        if before := read_record(known, Survey):
            return before
    except UserError:  # damaged, and written again
        pass
    layout = layout or _layout(path)
    content = hashlib.sha256()
    for name, file in files.items():
        with file.open("rb") as stream:
            content.update(name + b"\0" + hashlib.file_digest(stream, "sha256").digest())
    survey = Survey(content=content.hexdigest()[:16], left_out=layout.left_out, remarks=layout.remarks)
    known.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(known, survey.model_dump_json())
    return survey


def _check_path(path: Path) -> Path:
    """The path. Raises UserError where there is neither a folder nor a plain file."""
    if not path.exists():
        raise UserError(f"{path}: no such folder or archive (data.path is relative to where the command is run)")
    if not (path.is_dir() or path.is_file()):
        raise UserError(f"{path}: not a plain file; name a folder or an archive in data.path")
    return path


def _plain(path: Path, names: Iterable[str]) -> tuple[dict[Path, os.stat_result], dict[str, str]]:
    """The status of each plain file of a folder; for each other name, such as a link to nothing, why it is none."""
    found: dict[Path, os.stat_result] = {}
    faults: dict[str, str] = {}
    for name in names:
        try:
            status = (path / name).stat()
        except OSError as error:
            faults[name] = f"{error.strerror}"
            continue
        if stat.S_ISREG(status.st_mode):
            found[path / name] = status
        else:
            faults[name] = "not a plain file"
    return found, faults


def _unreadable(path: Path, faults: list[str]) -> UserError:
    images, it = counted(len(faults), "image"), "it" if len(faults) == 1 else "them"
    return UserError(
        f"{path}: {images} can't be read: {sanitize(few(faults))}; restore {it}, or move {it} out of the set"
    )


def _layout(path: Path) -> Layout:
    return find_layout(path, members(path), lambda name: next(contents(path, [name]))[1])


def decode(path: Path, size: int | None = None) -> ImageSet:
    """Decode every image to RGB, and resize it to `size` pixels a side if given.

    The order is by split, class and file name, whatever the archive's order. Raises UserError if images can't be
    read, or take more memory than there is.
    """
    images: dict[Entry, _Image] = {}
    faults: list[str] = []
    left = memory()
    for entry, image in _decoded(path, _layout(path).entries, size):
        if isinstance(image, UnreadableImageError):
            faults.append(f"{'/'.join(entry)} ({image})")
            continue
        images[entry] = image
        left -= image.pixels.nbytes
        if left < 0:
            raise UserError(
                f"{path}: more pixels than fit in this machine's memory; set data.resize, or leave some images out"
            )
    if faults:
        raise _unreadable(path, faults)
    classes = sorted({name for split, name, _ in images if split == "train"})
    number = {name: label for label, name in enumerate(classes)}
    order = {split: sorted(entry for entry in images if entry[0] == split) for split in ("train", "test")}
    return ImageSet(
        classes,
        {split: [images[entry].pixels for entry in entries] for split, entries in order.items()},
        {split: np.array([number[name] for _, name, _ in entries]) for split, entries in order.items()},
        list(_remarks([images[entry] for entry in sorted(images)])),
        [images[entry].seen for entries in order.values() for entry in entries],
    )


def check(path: Path, progress: Callable[[int, int], None]) -> list[str]:
    """A line for each image that can't be read. `progress(done, total)` is called after each image."""
    entries = _layout(_check_path(path)).entries
    gone = _plain(path, entries)[1] if path.is_dir() else {}
    faults = [sanitize(f"{path}: {name}: {why}") for name, why in gone.items()]
    entries = {name: entry for name, entry in entries.items() if name not in gone}
    for done, (entry, image) in enumerate(_decoded(path, entries, None), 1):
        progress(done, len(entries))
        if isinstance(image, UnreadableImageError):
            faults.append(sanitize(f"{path}: {'/'.join(entry)}: {image}"))
    return sorted(faults)


def _decoded(
    path: Path, entries: dict[str, Entry], size: int | None
) -> Iterator[tuple[Entry, _Image | UnreadableImageError]]:
    """Every image of the set, by several threads: of large ones Pillow decodes as many at once as there are cores."""

    def work(member: tuple[str, bytes]) -> tuple[Entry, _Image | UnreadableImageError]:
        entry = entries[member[0]]
        try:
            pixels, transparent, frames = read_image(member[1])
        except UnreadableImageError as error:
            return entry, error
        kept = pixels if size is None else resized(pixels, size)
        return entry, _Image(kept, seen(entry[0], entry[1], "/".join(entry), pixels), transparent, frames)

    return prefetch(work, contents(path, entries), cores())


def _remarks(images: list[_Image]) -> Iterator[str]:
    """Such as ``3 images have several frames; the first is used: train/a/1.gif, ...``."""
    several = [image.seen.name for image in images if image.frames]
    transparent = [image.seen.name for image in images if image.transparent]
    for names, what in (
        (several, "several frames; the first is used"),
        (transparent, "transparent pixels, whose colours are used"),
    ):
        if names:
            yield f"{counted(len(names), 'image has', 'images have')} {what}: {sanitize(few(names))}"
