"""The index of a folder of images: what lies in `train/` and `val/`, looked at once and remembered."""

from __future__ import annotations

import dataclasses
import hashlib
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from resexp.data.imagenet.arrays import read_arrays, write_arrays
from resexp.data.imagenet.labels import label_files, val_wnids
from resexp.errors import UserError, visible
from resexp.files import locked
from resexp.study import hint

Part = Literal["train", "val"]
PARTS: tuple[Part, Part] = ("train", "val")
SUFFIXES = (b".jpeg", b".jpg", b".png")
_VERSION = 1
_SCANNERS = 16
"""Class folders that are read at once: on a network's file system each is waited for."""

File = tuple[bytes, int]
"""A file's name and size in bytes."""


@dataclass(frozen=True)
class Files:
    """The images of `train/` or `val/`, sorted by class and name."""

    labels: NDArray[np.int64]
    """(n,)"""
    names: NDArray[np.uint8]
    """The bytes of all file names; the i-th one from starts[i] to ends[i]."""
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    sizes: NDArray[np.int64]
    """Bytes of each file."""
    digests: NDArray[np.uint8]
    """(classes, 32): SHA-256 of the names and sizes of each class's files."""
    flat: NDArray[np.bool_]
    """Whether they lie in one folder, not in one for each class; a scalar."""

    def of(self, classes: NDArray[np.int64]) -> Files:
        """Those of these classes, given as sorted labels; the first of them becomes label 0."""
        kept = np.isin(self.labels, classes)
        labels = np.searchsorted(classes, self.labels[kept])
        index = (self.starts[kept], self.ends[kept], self.sizes[kept])
        return Files(labels, self.names, *index, self.digests[classes], self.flat)


@dataclass(frozen=True)
class Tree:
    """The images below a folder."""

    root: Path
    classes: list[str]
    """Names of the class folders (ImageNet's wnids), sorted; labels are places in this list."""
    files: dict[Part, Files]

    def images(self, part: Part) -> int:
        """How many images there are."""
        return len(self.files[part].labels)

    def file(self, part: Part, index: int) -> Path:
        """Where an image lies."""
        files = self.files[part]
        name = os.fsdecode(files.names[files.starts[index] : files.ends[index]].tobytes())
        folder = self.root / part
        return folder / name if files.flat else folder / self.classes[files.labels[index]] / name

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the part, class, name and size of every file, however `val/` is sorted."""
        digest = hashlib.sha256()
        for part in PARTS:
            for wnid, of_class in zip(self.classes, self.files[part].digests, strict=True):
                digest.update(f"{part}/{wnid}\0".encode() + of_class.tobytes())
        return digest.hexdigest()[:16]

    def subset(self, asked: int | Sequence[str] | None) -> Tree:
        """The tree of so many classes, or of these. Raises UserError where they are not there."""
        if asked is None:
            return self
        if isinstance(asked, int):
            if asked > len(self.classes):
                raise UserError(f"{self.root}: {len(self.classes):,} classes, and data.classes asks for {asked:,}")
            asked = self.classes[:asked]
        place = {wnid: label for label, wnid in enumerate(self.classes)}
        for wnid in asked:
            if wnid not in place:
                raise UserError(f"{self.root / 'train'}: no class {wnid} (data.classes){hint(wnid, self.classes)}")
        kept = np.array(sorted(place[wnid] for wnid in asked))
        return Tree(self.root, [self.classes[i] for i in kept], {part: self.files[part].of(kept) for part in PARTS})


def few(names: Sequence[str]) -> str:
    """The first three, and how many more there are."""
    return ", ".join(names[:3]) + (f" and {len(names) - 3:,} more" if len(names) > 3 else "")


def open_tree(root: Path, memory: Path, say: Callable[[str], None]) -> Tree:
    """The tree below `root`, from its index in the folder `memory`, where no folder has changed since.

    Raises UserError where it is not laid out as ImageNet is. `say` hears of slow work.
    """
    for part in PARTS:
        if not (root / part).is_dir():
            raise UserError(f"{root / part}: no such folder; data.path is to hold train/<class>/* and val/")
    folders = {part: _class_folders(root / part) for part in PARTS}
    stamp = _stamp(root, folders)
    index = memory / f"imagenet-index-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.npz"
    with locked(index.with_name(f".{index.name}.lock"), "the index", wait=True):
        tree = _read(index, root, folders["train"], stamp)
        if tree is None:
            say(f"{root}: listing all images, once")
            tree = _scan(root, folders)
            _write(index, tree, stamp)
    return tree


def _class_folders(folder: Path) -> list[str]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    for name in names:
        if visible(name) != name:
            raise UserError(f"{folder}: the name of the class {name!r} can't be shown; rename it")
    return names


def _stamp(root: Path, folders: dict[Part, list[str]]) -> str:
    """What changes when a file is added, removed or renamed: the times of all folders, and of the labels' files."""
    stamp = hashlib.sha256(f"v{_VERSION}".encode())
    places = [root / part / name for part in PARTS for name in ("", *folders[part])]
    for place in [*places, *filter(Path.exists, label_files(root))]:
        stamp.update(os.fsencode(place.relative_to(root)) + f"\0{place.stat().st_mtime_ns}\0".encode())
    return stamp.hexdigest()


def _read(index: Path, root: Path, classes: list[str], stamp: str) -> Tree | None:
    """The tree in an index; None where there is none, or one of other times, or a damaged one."""
    arrays = read_arrays(index)
    if arrays is None or str(arrays["stamp"]) != stamp:
        return None
    fields = [field.name for field in dataclasses.fields(Files)]
    return Tree(root, classes, {part: Files(*(arrays[f"{part}_{name}"] for name in fields)) for part in PARTS})


def _write(index: Path, tree: Tree, stamp: str) -> None:
    arrays = {f"{part}_{name}": array for part in PARTS for name, array in vars(tree.files[part]).items()}
    write_arrays(index, {"stamp": np.array(stamp), **arrays})


def _scan(root: Path, folders: dict[Part, list[str]]) -> Tree:
    classes = folders["train"]
    if not classes:
        raise UserError(f"{root / 'train'}: no class folders; expected train/<class>/*.JPEG")
    if len(classes) < 2:
        raise UserError(f"{root / 'train'}: only one class, {classes[0]}; a classifier needs at least two")
    flat = not folders["val"]
    if not flat:
        _same_classes(root, classes, folders["val"])
    val = _flat_files(root, classes) if flat else _sorted_files(root / "val", classes)
    return Tree(
        root, classes, {"train": _files(_sorted_files(root / "train", classes), False), "val": _files(val, flat)}
    )


def _same_classes(root: Path, train: list[str], val: list[str]) -> None:
    for where, missing, odd in (("train", "val", set(train) - set(val)), ("val", "train", set(val) - set(train))):
        if odd:
            raise UserError(f"{root}: {few(sorted(odd))} in {where}/ but not in {missing}/; both need the same classes")


def _sorted_files(folder: Path, classes: list[str]) -> list[list[File]]:
    with ThreadPoolExecutor(_SCANNERS) as pool:
        found = list(pool.map(lambda wnid: _images(folder / wnid), classes))
    for wnid, files in zip(classes, found, strict=True):
        if not files:
            raise UserError(f"{folder / wnid}: no images (.JPEG, .jpg, .png); fill the folder, or remove it")
    return found


def _flat_files(root: Path, classes: list[str]) -> list[list[File]]:
    files = _images(root / "val")
    if not files:
        raise UserError(f"{root / 'val'}: no images (.JPEG, .jpg, .png) and no class folders")
    wnids = val_wnids(root, [os.fsdecode(name) for name, _ in files])
    known = set(classes)
    if odd := sorted(set(wnids) - known):
        raise UserError(
            f"{label_files(root)[0]}: class {odd[0]} is not in train/ ({len(odd):,} of {len(set(wnids)):,} are not); "
            f"the labels are of other images"
        )
    found: dict[str, list[File]] = {wnid: [] for wnid in classes}
    for file, wnid in zip(files, wnids, strict=True):
        found[wnid].append(file)
    if empty := [wnid for wnid, of_class in found.items() if not of_class]:
        raise UserError(
            f"{label_files(root)[0]}: no image of {empty[0]}, which is in train/; both need the same classes"
        )
    return list(found.values())


def _images(folder: Path) -> list[File]:
    """The images in a folder, sorted by name."""
    with os.scandir(os.fsencode(folder)) as entries:
        return sorted((entry.name, entry.stat().st_size) for entry in entries if _is_image(entry))


def _is_image(entry: os.DirEntry[bytes]) -> bool:
    return entry.name.lower().endswith(SUFFIXES) and not entry.name.startswith(b".") and entry.is_file()


def _files(by_class: list[list[File]], flat: bool) -> Files:
    names = [name for files in by_class for name, _ in files]
    ends = np.cumsum([len(name) for name in names], dtype=np.int64)
    digests = [hashlib.sha256(b"".join(b"%b\0%d\0" % file for file in files)).digest() for files in by_class]
    return Files(
        labels=np.repeat(np.arange(len(by_class)), [len(files) for files in by_class]),
        names=np.frombuffer(b"".join(names), dtype=np.uint8),
        starts=np.concatenate([[0], ends[:-1]]).astype(np.int64),
        ends=ends,
        sizes=np.array([size for files in by_class for _, size in files], dtype=np.int64),
        digests=np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32),
        flat=np.array(flat),
    )
