"""A small folder laid out as ImageNet is, of drawn shapes in JPEG files of many sizes: to try things on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import simplejpeg
from PIL import Image

from resexp.data import shapes
from resexp.data.pixels import Pixels
from resexp.errors import UserError

LONGER, RATIO = (120, 260), 0.75
"""Pixels of the longer side, and how many times as long the shorter one is at least."""
_SIDE = 128
"""Pixels a side of the shapes, before they are resized."""


def make_example(root: Path, classes: int, train: int, val: int, seed: int) -> None:
    """Write `train` and `val` images of each class. Raises UserError if `root` holds something."""
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


def _shaped(image: Pixels, rng: np.random.Generator) -> Pixels:
    """A square image as a part of it, portrait or landscape, in another size."""
    longer = int(rng.integers(*LONGER, endpoint=True))
    shorter = int(longer * rng.uniform(RATIO, 1))
    height, width = (longer, shorter) if rng.random() < 0.5 else (shorter, longer)
    whole = Image.fromarray(image).resize((longer, longer), Image.Resampling.BILINEAR)
    left, top = (longer - width) // 2, (longer - height) // 2
    return np.asarray(whole.crop((left, top, left + width, top + height)))
