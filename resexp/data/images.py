"""A decoded image set: its fingerprint, its resizing, and images that are in it more than once."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resexp.data.pixels import Pixels
from resexp.errors import UserError, sanitize
from resexp.runs.records import Findings
from resexp.utils.text import few


class Seen(NamedTuple):
    """What is kept of an image where its pixels are not."""

    split: str
    class_name: str
    name: str
    """What people know it by."""
    in_set: bytes
    """Digest of split, class and pixels; the set's fingerprint is made of these."""
    pixels: bytes
    """Digest of the pixels alone."""


def seen(split: str, class_name: str, name: str, image: Pixels) -> Seen:
    """What is kept of an image (H, W, 3)."""
    content = np.ascontiguousarray(image).data
    in_set = hashlib.sha256(f"{split}/{class_name}/{image.shape}".encode())
    pixels = hashlib.sha256(f"{image.shape}".encode())
    in_set.update(content)
    pixels.update(content)
    return Seen(split, class_name, name, in_set.digest(), pixels.digest()[:16])


@dataclass(frozen=True)
class ImageSet:
    """A decoded image set: for each split, images as uint8 (H, W, 3) and labels as indices into `classes`."""

    classes: list[str]
    images: dict[str, list[Pixels]]
    labels: dict[str, NDArray[np.int64]]
    remarks: list[str] = field(default_factory=list)
    """A line for everything that is not in the pixels."""
    seen_before: list[Seen] | None = None
    """What was kept of the images before they were resized, where that was done while decoding."""

    @cached_property
    def seen(self) -> list[Seen]:
        """What is kept of every image."""
        return self.seen_before or [
            seen(split, self.classes[label], f"{split} image {i}", image)
            for split, images in self.images.items()
            for i, (label, image) in enumerate(zip(self.labels[split].tolist(), images, strict=True))
        ]

    def fingerprint(self) -> str:
        """Hash of the set's (split, class name, pixels), independent of order and file format."""
        return hashlib.sha256(b"".join(sorted(image.in_set for image in self.seen))).hexdigest()[:16]

    def stacked(self, split: str, size: int | None) -> Pixels:
        """The images of a split as one (N, H, W, 3) array, resized to `size` pixels a side if given."""
        images = self.images[split]
        if size is not None:
            images = [image if image.shape[:2] == (size, size) else resized(image, size) for image in images]
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            sizes = ", ".join(sorted(f"{w}x{h}" for h, w, _ in shapes)[:3])
            raise UserError(
                f"data: the images have different sizes ({sizes}, ...); set data.resize to bring them to one"
            )
        return np.stack(images)


def resized(image: Pixels, size: int) -> Pixels:
    """The central square of an image, made `size` pixels a side, antialiased."""
    height, width = image.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box))


def find_duplicates(images: Iterable[Seen]) -> tuple[Findings, list[str]]:
    """Count test images that are training images too, and images with another label elsewhere; a line for each."""
    first: dict[bytes, Seen] = {}
    repeated: dict[bytes, list[Seen]] = {}
    for image in images:
        if (before := first.setdefault(image.pixels, image)) is not image:
            repeated.setdefault(image.pixels, [before]).append(image)
    groups = list(repeated.values())
    in_both = [group for group in groups if len({image.split for image in group}) > 1]
    unclear = [group for group in groups if len({image.class_name for image in group}) > 1]
    found = Findings(
        test_in_train=sum(image.split != "train" for group in in_both for image in group),
        conflicting_labels=sum(map(len, unclear)),
    )
    remarks = []
    if count := found.test_in_train:
        are = "image is a training image" if count == 1 else "images are training images"
        remarks.append(f"{count:,} test {are} too: {_pairs(in_both, 'split')}")
    if count := found.conflicting_labels:
        remarks.append(f"{count:,} images have another label elsewhere: {_pairs(unclear, 'class_name')}")
    return found, remarks


def _pairs(groups: list[list[Seen]], differ_in: str) -> str:
    """The first groups as text, two images of each that differ."""
    pairs = []
    for one, *others in groups:
        other = next(image for image in others if getattr(image, differ_in) != getattr(one, differ_in))
        pairs.append(sanitize(f"{one.name} = {other.name}"))
    return few(pairs)
