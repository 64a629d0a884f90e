"""Labels of an unsorted validation set: of ImageNet's devkit, Kaggle's table or Tiny ImageNet's."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from resexp.data.layout import TABLE as TINY
from resexp.data.layout import decoded, is_image, read_table
from resexp.errors import UserError
from resexp.utils.untrusted import read_file

TRUTH, META = "ILSVRC2012_validation_ground_truth.txt", "meta.mat"
DEVKITS = ("ILSVRC2012_devkit_t12/data", "devkit")
TABLE = "LOC_val_solution.csv"
_MAX_BYTES = 1 << 26


def label_files(*roots: Path) -> list[Path]:
    """The label files next to `val/` or in it: the devkit's two, a table, or none."""
    for root in roots:
        for devkit in DEVKITS:
            files = [root / devkit / TRUTH, root / devkit / META]
            if any(file.exists() for file in files):
                return files
        for table in (root / TABLE, root / "val" / TINY):
            if table.exists():
                return [table]
    return []


def val_wnids(files: Sequence[Path], val: Path, names: Sequence[str]) -> list[str]:
    """The class of each image of the flat folder `val`, by its file name.

    `files` are those of `label_files`. Raises UserError if nothing says the labels, or what does is damaged or of
    other images.
    """
    if not files:
        raise UserError(
            f"{val}: images without labels; sort the images into val/<class>/, or put the devkit ({DEVKITS[0]}/) or "
            f"Kaggle's {TABLE} next to val/"
        )
    key = _stem if len(files) == 1 else _number
    labels = _of_table(files[0]) if len(files) == 1 else _of_devkit(files[0], files[1])
    if len(labels) != len(names):
        raise UserError(
            f"{files[0]}: {len(labels):,} labels, but val/ has {len(names):,} images; restore what is missing"
        )
    if missing := [name for name in names if key(name) not in labels]:
        raise UserError(f"{files[0]}: has no label for {missing[0]}; it belongs to other images")
    if twice := [name for name, count in Counter(map(key, names)).items() if count > 1]:
        raise UserError(f"{val}: {twice[0]} names several images, and {files[0]} has one label for them")
    return [labels[key(name)] for name in names]


def _of_devkit(truth: Path, meta: Path) -> dict[str, str]:
    """The class of each image, by the number in its name: the first line is that of ILSVRC2012_val_00000001."""
    try:
        numbers = [int(line) for line in decoded(truth, _read(truth)).split()]
    except ValueError:
        raise UserError(f"{truth}: damaged, expected a number in each line; unpack the devkit again") from None
    wnids = _read_meta(meta)
    if wrong := sorted(set(numbers) - set(wnids)):
        raise UserError(f"{truth}: label {wrong[0]} is not one of the {len(wnids)} in {meta.name}; unpack both again")
    return {str(image): wnids[number] for image, number in enumerate(numbers, 1)}


def _read_meta(path: Path) -> dict[int, str]:
    """The class of each number; ImageNet's classes are the synsets without children, numbers 1 to 1000."""
    import scipy.io  # slow to load, and only a flat val/ needs it

    content = _read(path)
    try:
        synsets = scipy.io.loadmat(io.BytesIO(content), squeeze_me=True)["synsets"]
        fields = zip(synsets["ILSVRC2012_ID"], synsets["WNID"], synsets["num_children"], strict=True)
        return {int(number): str(wnid) for number, wnid, children in fields if int(children) == 0}
    except Exception as error:  # readers raise what they like at files that were made to break them
        raise UserError(f"{path}: not the devkit's ({error}); unpack the devkit again") from None


def _of_table(path: Path) -> dict[str, str]:
    """The class of each image, by the name without its suffix.

    Kaggle's table has lines such as ``ILSVRC2012_val_00048981,n03995372 85 1 499 272``: a class, then boxes.
    """
    if path.name == TINY:
        return {_stem(name): wnid for name, wnid in read_table(path, _read(path)).items()}
    try:
        rows = list(csv.reader(io.StringIO(decoded(path, _read(path)))))[1:]
    except csv.Error as error:
        raise UserError(f"{path}: damaged ({error}); fetch it again") from None
    wnids = {_stem(row[0]): row[1].split()[0] for row in rows if len(row) == 2 and row[1].strip()}
    if not wnids:
        raise UserError(f"{path}: no line is a name, a comma and a class, such as ILSVRC2012_val_00048981,n03995372")
    return wnids


def _stem(name: str) -> str:
    """The name of an image file without folders and suffix; Kaggle's table leaves the suffix out."""
    return Path(name).stem if is_image(name) else Path(name).name


def _number(name: str) -> str:
    """The number at the end of the name of an image file; empty without one."""
    found = re.search(r"([0-9]+)\Z", _stem(name))
    return str(int(found[1])) if found else ""


def _read(path: Path) -> bytes:
    try:
        return read_file(path, _MAX_BYTES)
    except FileNotFoundError:
        raise UserError(f"{path}: not there, though the rest of the devkit is; unpack the devkit again") from None
