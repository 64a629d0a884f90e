"""ImageNet as it is found: `val/` unsorted with a devkit, and files that are no RGB JPEG or can't be read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.io
from PIL import Image

from resexp.data.imagenet.labels import DEVKITS, META, TRUTH
from resexp.data.pixels import decode


def add_odd(folder: Path) -> None:
    """Add a CMYK, a grey and a PNG file, one that is cut off and one that is empty, to the images of a class."""
    wnid = folder.name
    content = (folder / f"{wnid}_0.JPEG").read_bytes()
    first = Image.fromarray(decode(content))
    first.convert("CMYK").save(folder / f"{wnid}_cmyk.JPEG", "JPEG")
    first.convert("L").save(folder / f"{wnid}_grey.JPEG", "JPEG")
    first.save(folder / f"{wnid}_png.JPEG", "PNG")
    (folder / f"{wnid}_truncated.JPEG").write_bytes(content[: len(content) // 2])
    (folder / f"{wnid}_empty.JPEG").write_bytes(b"")


def flatten(root: Path) -> None:
    """Move the images of `val/` into one folder, in any order, and say their labels as the devkit does: by numbers,
    which are not in the order of the names."""
    rng = np.random.default_rng(0)
    wnids = sorted(path.name for path in (root / "val").iterdir())
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
