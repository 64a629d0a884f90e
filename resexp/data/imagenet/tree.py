"""The index of a folder of images: what lies in `train/` and `val/`, listed at once and remembered."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from resexp.config.messages import hint
from resexp.data.archive import MAX_BYTES, walk
from resexp.data.cache import caches, lock_of, read_arrays, write_arrays
from resexp.data.imagenet.labels import label_files, val_wnids
from resexp.data.layout import (
    READ,
    check_classes,
    is_hidden,
    is_image,
    is_test,
    is_train,
    left_out_line,
    nfc,
    packed,
    suffix,
    tally,
)
from resexp.errors import UserError, sanitize
from resexp.runs.records import json_text
from resexp.utils.files import holds
from resexp.utils.logs import log
from resexp.utils.text import few
from resexp.utils.untrusted import read_file

Split = Literal["train", "val"]
SPLITS: tuple[Split, Split] = ("train", "val")
_VERSION = 5
"""Version of the index."""
_SAMPLES = 64
"""Files of `train/` and of `val/` whose content is part of the fingerprint."""
_DEPTH = 4
"""Levels of folders in which `train/` and `val/` are searched for; Kaggle's are in ILSVRC/Data/CLS-LOC."""
_SCANNERS = 16
"""Class folders that are read at once: on a network's file system each is waited for."""

File = tuple[bytes, int]
"""A file's name and size in bytes."""


@dataclass(frozen=True)
class Files:
    """The images of `train/` or `val/`, sorted by class and name."""

    labels: NDArray[np.int64]
    """(n,)"""
    names: NDArray[np.bytes_]
    """Each file's name, from `train/` or `val/`, (n,)."""
    sizes: NDArray[np.int64]
    """Bytes of each file, (n,)."""
    digests: NDArray[np.uint8]
    """(classes, 32): SHA-256 of the names and sizes of each class's files."""

    def of(self, classes: NDArray[np.int64]) -> Files:
        """Those of these classes, given as sorted labels; the first of them becomes label 0."""
        kept = np.isin(self.labels, classes)
        labels = np.searchsorted(classes, self.labels[kept])
        return Files(labels, self.names[kept], self.sizes[kept], self.digests[classes])


@dataclass(frozen=True)
class Tree:
    """The images below a folder."""

    root: Path
    classes: list[str]
    """Names of the class folders (ImageNet's wnids), sorted; labels are places in this list."""
    files: dict[Split, Files]
    folders: list[str]
    """All folders that were listed into, from `root`."""
    left_out: dict[str, int]
    """How many files are not among the images, by their suffix."""
    remarks: list[str]
    """A line for what a person might not expect."""

    def images(self, part: Split) -> int:
        """How many images there are."""
        return len(self.files[part].labels)

    def labels(self, part: Split) -> NDArray[np.int64]:
        """The label of each image, (n,)."""
        return self.files[part].labels

    def file(self, part: Split, index: int) -> Path:
        """Where an image lies."""
        return self.root / part / os.fsdecode(self.files[part].names[index])

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the part, class, name and size of every file, however `val/` is sorted, and of the content of
        some: to read all would take an hour."""
        digest = hashlib.sha256()
        for part in SPLITS:
            for wnid, of_class in zip(self.classes, self.files[part].digests, strict=True):
                digest.update(f"{part}/{wnid}\0".encode() + of_class.tobytes())
            for image in np.unique(np.linspace(0, self.images(part) - 1, _SAMPLES).round().astype(int)):
                digest.update(_content(self.file(part, int(image))))
        return digest.hexdigest()[:16]

    def subset(self, asked: int | Sequence[str] | None) -> Tree:
        """The tree restricted to a number of classes, or to these. Raises UserError for missing classes."""
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
        files = {part: self.files[part].of(kept) for part in SPLITS}
        return dataclasses.replace(self, classes=[self.classes[i] for i in kept], files=files)


def open_tree(given: Path) -> Tree:
    """The images below `given`, or a folder in it that holds `train/` and `val/`.

    Their index is a cache, and is read where no folder has changed since. Raises UserError if the images are not laid
    out as ImageNet's are. Slow work is logged.
    """
    root = _root(given)
    labels = label_files(root, given)
    index = caches() / f"imagenet-index-v{_VERSION}-{hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]}.npz"
    with lock_of(index, "the index", wait=True):
        tree = _read(index, root, labels)
        if tree is None:
            log.info(f"{root}: listing all images, once")
            began = time.time_ns()
            tree = _scan(root, labels)
            times = _mtimes(root, tree.folders, labels)
            now = time.time_ns()
            if not any(began <= changed <= now for changed in times.values()):  # else a file may be missing
                _write(index, tree, times)
    if root != given:
        tree.remarks.append(f"read from {root}")
    return tree


def _root(given: Path) -> Path:
    """The folder that holds `train/` and `val/`: this, or the only one below it. Raises UserError without one."""
    if not given.is_dir():
        what = "a file; unpack it, and name the folder" if given.exists() else "no such folder"
        raise UserError(f"{given}: {what}: data.path is the folder with train/<class>/* and val/")
    level = [given]
    for _ in range(_DEPTH):
        if found := [folder for folder in level if all((folder / part).is_dir() for part in SPLITS)]:
            if len(found) > 1:
                raise UserError(f"{given}: train/ and val/ are in {few(list(map(str, found)))}; name one in data.path")
            return found[0]
        # Not inside train/ or val/: a folder that has only one of them gets the error below.
        level = [child for folder in level for child in _children(folder) if child.name not in SPLITS]
    missing = next(part for part in SPLITS if not (given / part).is_dir())
    here = [child.name for child in _children(given)]
    near = [name for name in here if name not in SPLITS and (is_train if missing == "train" else is_test)(name)]
    files = [entry.name for entry in _entries(given) if not holds(entry.is_dir) and not is_hidden(entry.name)]
    names = [*(f"{name}/" for name in here), *files]
    inside = f"; it holds {sanitize(few(names))}{packed(files)}" if names else ""
    remedy = f": rename {near[0]}/ to {missing}/, or link it (`ln -s {near[0]} {missing}`)" if near else ""
    raise UserError(f"{given / missing}: no such folder; data.path is to hold train/<class>/* and val/{inside}{remedy}")


def _content(path: Path) -> bytes:
    """The bytes of a file; none if it can't be read."""
    try:
        return read_file(path, MAX_BYTES)
    except (OSError, UserError):
        return b""


def _children(folder: Path) -> list[Path]:
    try:
        return [Path(entry.path) for entry in _entries(folder) if holds(entry.is_dir) and not is_hidden(entry.name)]
    except PermissionError:  # such as lost+found
        return []


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _mtimes(root: Path, folders: Sequence[str], labels: Sequence[Path]) -> dict[str, int]:
    """When each folder and label file last changed, in ns: a file was added, removed or renamed. 0 for what is gone."""
    times = {}
    for name, place in [*((name, root / name) for name in folders), *((path.name, path) for path in labels)]:
        try:
            times[name] = place.stat().st_mtime_ns
        except OSError:
            times[name] = 0
    return times


def _read(index: Path, root: Path, labels: Sequence[Path]) -> Tree | None:
    """The tree in an index; None if there is none, or one of other times, or a damaged one."""
    arrays = read_arrays(index)
    if arrays is None:
        return None
    about = json.loads(str(arrays["about"]))
    if about.pop("times") != _mtimes(root, about["folders"], labels):
        return None
    fields = [field.name for field in dataclasses.fields(Files)]
    files: dict[Split, Files] = {part: Files(*(arrays[f"{part}_{name}"] for name in fields)) for part in SPLITS}
    return Tree(root, files=files, **about)


def _write(index: Path, tree: Tree, times: dict[str, int]) -> None:
    arrays = {f"{part}_{name}": array for part in SPLITS for name, array in vars(tree.files[part]).items()}
    about = {name: getattr(tree, name) for name in ("classes", "folders", "left_out", "remarks")} | {"times": times}
    write_arrays(index, {"about": np.array(json_text(about)), **arrays})


class _Listing(NamedTuple):
    """What lies in a folder and below it, by names from there."""

    files: list[File]
    """The images."""
    folders: list[str]
    others: list[str]
    """Files that are no images."""


def _list(root: Path, place: str) -> _Listing:
    """What lies in a folder of the tree. Links are followed, but not to folders above."""
    found = _Listing([], [], [])
    folder = root / place
    for name, entry in walk(folder, lambda name: is_hidden(*name.split("/")), above=(root, folder.parent)):
        if name.endswith("/"):
            found.folders.append(name.rstrip("/"))
        elif is_image(name) and not is_hidden(entry.name) and holds(entry.is_file):
            found.files.append((os.fsencode(name), entry.stat().st_size))
        else:
            found.others.append(name)
    found.files.sort()
    return found


def _scan(root: Path, labels: Sequence[Path]) -> Tree:
    folders = {part: [child.name for child in _children(root / part)] for part in SPLITS}
    classes, val_classes = folders["train"], folders["val"]
    others = [f"{part}/{e.name}" for part in SPLITS for e in _entries(root / part) if e.name not in folders[part]]
    if len(classes) < 2:
        there = f"only one class, {classes[0]}" if classes else "no class folders"
        instead = _instead([name for name in others if name.startswith("train/")])
        raise UserError(f"{root / 'train'}: {there}; expected train/<class>/*.JPEG of two classes at least{instead}")
    flat = not set(val_classes) & set(classes) and (not val_classes or bool(labels))
    if flat:
        others = [name for name in others if not name.startswith("val/")]  # they are found again
    elif set(val_classes) != set(classes) and set(map(nfc, val_classes)) == set(map(nfc, classes)):
        odd = few(sorted(set(val_classes) - set(classes)))
        raise UserError(
            f"{root}: {odd} in val/: spelt in another Unicode form than in train/; rename them as in train/"
        )
    check_classes(root, classes, classes if flat else val_classes, "train/", "val/")
    places = [f"train/{wnid}" for wnid in classes] + (["val"] if flat else [f"val/{wnid}" for wnid in classes])
    with ThreadPoolExecutor(_SCANNERS) as pool:
        listed = dict(zip(places, pool.map(functools.partial(_list, root), places), strict=True))
    for place, found in listed.items():
        if not found.files:
            raise UserError(
                f"{root / place}: no images{' and no class folders' if place == 'val' else ''} ({READ})"
                f"{_instead(found.others)}; fill the folder, or move it elsewhere"
            )
        others += [f"{place}/{name}" for name in found.others]
    train, val = ([found.files for place, found in listed.items() if place.startswith(part)] for part in SPLITS)
    in_folders = [os.fsencode(f"{wnid}/") for wnid in classes]
    if flat:
        val = _by_labels(root, classes, labels, *val)
    left_out: dict[str, list[str]] = defaultdict(list)
    for name in others:
        if root / name not in labels:
            left_out["hidden" if is_hidden(Path(name).name) else suffix(name)].append(name)
    # ImageNet's test images, which have no labels, may lie next to the others.
    beside = [child.name for child in _children(root) if child.name not in SPLITS and is_test(child.name)]
    remarks = [f"{name}/ next to train/ and val/ is left out" for name in beside]
    return Tree(
        root,
        classes,
        {"train": _files(train, in_folders), "val": _files(val, [b""] * len(classes) if flat else in_folders)},
        [*SPLITS, *listed, *(f"{place}/{name}" for place, found in listed.items() for name in found.folders)],
        {reason: len(names) for reason, names in left_out.items()},
        remarks + list(filter(None, [left_out_line(left_out)])),
    )


def _instead(others: Sequence[str]) -> str:
    """What a folder holds instead of images."""
    return f", but it holds {tally(others)}{packed(others)}" if others else ""


def _by_labels(root: Path, classes: list[str], labels: Sequence[Path], files: list[File]) -> list[list[File]]:
    """The images of a flat `val/`, by class."""
    wnids = val_wnids(labels, root / "val", [os.fsdecode(name) for name, _ in files])
    check_classes(labels[0], classes, set(wnids), "train/", "the labels of val/")
    found: dict[str, list[File]] = {wnid: [] for wnid in classes}
    for file, wnid in zip(files, wnids, strict=True):
        found[wnid].append(file)
    return list(found.values())


def _files(by_class: list[list[File]], folders: list[bytes]) -> Files:
    """The index of the images of each class, and where these lie in `train/` or `val/`."""
    digests = [hashlib.sha256(b"".join(b"%b\0%d\0" % file for file in files)).digest() for files in by_class]
    return Files(
        labels=np.repeat(np.arange(len(by_class)), [len(files) for files in by_class]),
        names=np.array([folder + name for folder, files in zip(folders, by_class, strict=True) for name, _ in files]),
        sizes=np.array([size for files in by_class for _, size in files], dtype=np.int64),
        digests=np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 32),
    )
