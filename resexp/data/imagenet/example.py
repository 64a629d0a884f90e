"""A small folder laid out as ImageNet is, of drawn shapes in JPEG files of many sizes: to try things on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from resexp.data import shapes
from resexp.data.imagenet.labels import DEVKITS, META, TRUTH
from resexp.data.pixels import Pixels, decode
from resexp.errors import UserError

LONGER, RATIO = (120, 260), 0.75
"""Pixels of the longer side, and how many times as long the shorter one is at least."""
_SIDE = 128
"""Pixels a side of the shapes, before they are resized."""


def make_example(root: Path, classes: int, train: int, val: int, seed: int, *, flat_val: bool, odd: bool) -> None:
    """Write `train` and `val` images of each class. Raises UserError if `root` holds something.

    With `flat_val`, those of `val/` are not sorted, and a devkit says their labels. With `odd` the first class has some
    files more, as they are found in ImageNet, and two that can't be read.
    """
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root}: exists, and is left as it is; name a new folder")
    wnids = [f"n{i + 1:08}" for i in range(classes)]
    rng = np.random.default_rng(seed)
    for part, count in (("train", train), ("val", val)):
        for label, wnid in enumerate(wnids):
            (root / part / wnid).mkdir(parents=True)
            for number, image in enumerate(shapes.draw(np.full(count, label), _SIDE, rng)):
                shaped = _shaped(image, rng)
                quality = int(rng.integers(75, 96))
                content = simplejpeg.encode_jpeg(np.ascontiguousarray(shaped), quality, colorsubsampling="420")
                (root / part / wnid / f"{wnid}_{number}.JPEG").write_bytes(content)
    if odd:
        _add_odd(root / "train" / wnids[0])
    if flat_val:
        _flatten(root, wnids, rng)


def _shaped(image: Pixels, rng: np.random.Generator) -> Pixels:
    """A square image as a part of it, portrait or landscape, in another size."""
    longer = int(rng.integers(*LONGER, endpoint=True))
    shorter = int(longer * rng.uniform(RATIO, 1))
    height, width = (longer, shorter) if rng.random() < 0.5 else (shorter, longer)
    whole = Image.fromarray(image).resize((longer, longer), Image.Resampling.BILINEAR)
    left, top = (longer - width) // 2, (longer - height) // 2
    return np.asarray(whole.crop((left, top, left + width, top + height)))


def _add_odd(folder: Path) -> None:
    wnid = folder.name
    content = (folder / f"{wnid}_0.JPEG").read_bytes()
    first = Image.fromarray(decode(content))
    first.convert("CMYK").save(folder / f"{wnid}_cmyk.JPEG", "JPEG")
    first.convert("L").save(folder / f"{wnid}_grey.JPEG", "JPEG")
    first.save(folder / f"{wnid}_png.JPEG", "PNG")
    (folder / f"{wnid}_truncated.JPEG").write_bytes(content[: len(content) // 2])
    (folder / f"{wnid}_empty.JPEG").write_bytes(b"")


def _flatten(root: Path, wnids: list[str], rng: np.random.Generator) -> None:
    """Move the images of `val/` into one folder, in any order, and say their labels as the devkit does: by numbers,
    which are not in the order of the names."""
    import scipy.io  # slow to load, and needed only here

    numbers = rng.permutation(len(wnids)) + 1
    files = sorted((root / "val").glob("*/*"))
    truth = []
    for place, i in enumerate(rng.permutation(len(files)), start=1):
        truth.append(numbers[wnids.index(files[i].parent.name)])
        files[i].rename(root / "val" / f"ILSVRC2012_val_{place:08}.JPEG")
    for wnid in wnids:
        (root / "val" / wnid).rmdir()
    devkit = root / DEVKITS[0]
    devkit.mkdir(parents=True)
    (devkit / TRUTH).write_text("".join(f"{number}\n" for number in truth))
    # As in the devkit's, a row for each class and one for what they all are.
    rows = sorted([*zip(numbers, wnids, [0] * len(wnids), strict=True), (len(wnids) + 1, "n99999999", len(wnids))])
    kinds = [("ILSVRC2012_ID", object), ("WNID", object), ("num_children", object)]
    scipy.io.savemat(devkit / META, {"synsets": np.array(rows, dtype=kinds)[:, None]})
