"""Images that are in a set more than once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from resexp.data.images import ImageSet
from resexp.data.naming import few
from resexp.errors import sanitize


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


def of_set(images: ImageSet) -> Iterator[Seen]:
    """The images of a decoded set."""
    for split, found in images.digests.items():
        names = images.names.get(split) or [f"{split} image {i}" for i in range(len(found))]
        for digest, label, name in zip(found, images.labels[split].tolist(), names, strict=True):
            yield Seen(digest.pixels, split == "train", label, name)


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
    found.test_in_train = sum(not image.train for group in both for image in group)
    if found.test_in_train:
        one = found.test_in_train == 1
        found.remarks.append(
            f"{found.test_in_train:,} test image{' is a' if one else 's are'} training image{'' if one else 's'} too: "
            f"{_few(both, 'train')}"
        )
    unclear = [group for group in groups if len({image.label for image in group}) > 1]
    found.conflicting_labels = sum(map(len, unclear))
    if found.conflicting_labels:
        found.remarks.append(
            f"{found.conflicting_labels:,} images have another label elsewhere: {_few(unclear, 'label')}"
        )
    return found


def _few(groups: list[list[Seen]], by: str) -> str:
    """One pair per group, as text."""
    pairs = [(group[0], next(i for i in group if getattr(i, by) != getattr(group[0], by))) for group in groups]
    return few([sanitize(f"{one.name} = {other.name}") for one, other in pairs])
