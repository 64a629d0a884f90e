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
from resexp.utils.text import few


class Digests(NamedTuple):
    """What is kept of an image's pixels where the image itself is not."""

    in_set: bytes
    """Digest of split, class and pixels; the set's fingerprint is made of these."""
    pixels: bytes
    """Digest of the pixels alone."""


class Seen(NamedTuple):
    """A digest of an image, with its name."""

    digest: bytes
    train: bool
    label: int
    name: str


@dataclass
class Duplicates:
    """How many images are duplicates that distort a result, and a line for each kind of them."""

    test_in_train: int = 0
    conflicting_labels: int = 0
    remarks: list[str] = field(default_factory=list)


def digests(split: str, class_name: str, image: Pixels) -> Digests:
    """The digests of an image (H, W, 3) in a set."""
    content = np.ascontiguousarray(image).data
    in_set = hashlib.sha256(f"{split}/{class_name}/{image.shape}".encode())
    pixels = hashlib.sha256(f"{image.shape}".encode())
    in_set.update(content)
    pixels.update(content)
    return Digests(in_set.digest(), pixels.digest()[:16])


@dataclass(frozen=True)
class ImageSet:
    """A decoded image set: for each split, images as uint8 (H, W, 3) and labels as indices into `classes`."""

    classes: list[str]
    images: dict[str, list[Pixels]]
    labels: dict[str, NDArray[np.int64]]
    names: dict[str, list[str]] = field(default_factory=dict)
    """What people know the images by, where they have more than numbers."""
    known: dict[str, list[Digests]] = field(default_factory=dict)
    """Digests of the images before they were resized, where that was done while decoding."""
    remarks: list[str] = field(default_factory=list)
    """A line for everything that is not in the pixels."""

    @cached_property
    def digests(self) -> dict[str, list[Digests]]:
        """Those of every image."""
        return self.known or {
            split: [
                digests(split, self.classes[label], image)
                for image, label in zip(images, self.labels[split].tolist(), strict=True)
            ]
            for split, images in self.images.items()
        }

    def fingerprint(self) -> str:
        """Hash of the set's (split, class name, pixels), independent of order and file format."""
        found = sorted(digest.in_set for of_split in self.digests.values() for digest in of_split)
        return hashlib.sha256(b"".join(found)).hexdigest()[:16]

    def duplicates(self) -> Duplicates:
        """See `find_duplicates`."""
        seen: list[Seen] = []
        for split, found in self.digests.items():
            names = self.names.get(split) or [f"{split} image {i}" for i in range(len(found))]
            for digest, label, name in zip(found, self.labels[split].tolist(), names, strict=True):
                seen.append(Seen(digest.pixels, split == "train", label, name))
        return find_duplicates(seen)

    def stacked(self, split: str, size: int | None) -> Pixels:
        """The images of a split as one (N, H, W, 3) array, resized to `size` pixels a side if given."""
        images = self.images[split]
        if size is not None:
            # Resizing is antialiased; a picture that is not square keeps its central square.
            return np.stack([image if image.shape[:2] == (size, size) else resized(image, size) for image in images])
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            sizes = ", ".join(sorted(f"{w}x{h}" for h, w, _ in shapes)[:3])
            raise UserError(
                f"data: the images have different sizes ({sizes}, ...); set data.resize to bring them to one"
            )
        return np.stack(images)


def resized(image: Pixels, size: int) -> Pixels:
    """The central square of an image, made `size` pixels a side."""
    height, width = image.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box))


def find_duplicates(images: Iterable[Seen]) -> Duplicates:
    """Look for test images among the training images, and for the same image in several classes."""
    first: dict[bytes, Seen] = {}
    repeated: dict[bytes, list[Seen]] = {}
    for image in images:
        if (before := first.setdefault(image.digest, image)) is not image:
            repeated.setdefault(image.digest, [before]).append(image)
    groups = list(repeated.values())
    found = Duplicates()
    both = [group for group in groups if len({image.train for image in group}) > 1]
    if count := sum(not image.train for group in both for image in group):
        found.test_in_train = count
        are = "image is a training image" if count == 1 else "images are training images"
        found.remarks.append(f"{count:,} test {are} too: {_few(both, 'train')}")
    unclear = [group for group in groups if len({image.label for image in group}) > 1]
    if count := sum(map(len, unclear)):
        found.conflicting_labels = count
        found.remarks.append(f"{count:,} images have another label elsewhere: {_few(unclear, 'label')}")
    return found


def _few(groups: list[list[Seen]], by: str) -> str:
    """One pair per group, as text."""
    pairs = [(group[0], next(i for i in group if getattr(i, by) != getattr(group[0], by))) for group in groups]
    return few([sanitize(f"{one.name} = {other.name}") for one, other in pairs])
