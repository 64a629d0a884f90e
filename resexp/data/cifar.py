"""CIFAR-10 and CIFAR-100: the official archives, or the folders that they unpack to."""

from __future__ import annotations

import io
import pickle
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resexp.data.images import ImageSet
from resexp.data.naming import few
from resexp.data.official import CIFAR10_ARCHIVE, CIFAR100_ARCHIVE, OfficialFile, OfficialSet, md5
from resexp.data.pixels import Pixels
from resexp.errors import UserError
from resexp.utils.untrusted import read_file

FINGERPRINT = "d5153d88b81d5639"
"""ImageSet.fingerprint() of CIFAR-10, by which a folder or archive of its images is recognised."""


@dataclass(frozen=True)
class Cifar(OfficialSet):
    """One of the two sets, which differ in names and labels."""

    folder: str
    """The folder that the archive unpacks to."""
    batches: dict[str, str]
    """The md5 of each file in it that is read."""
    kind: str = ""
    """The beginning of a key in the files, such as ``coarse_`` for ``coarse_labels``."""
    classes: tuple[str, ...] = ()
    """The names of the classes, where they are not read from the file ``meta``."""

    @property
    def archive(self) -> OfficialFile:
        """The only file."""
        return self.files[0]

    def within(self, folder: Path) -> Path:
        """The archive, or without one the folder that it unpacks to."""
        archive = folder / self.archive.name
        places = (folder, folder / self.folder)
        unpacked = [place for place in places if any((place / batch).is_file() for batch in self.batches)]
        return archive if archive.is_file() or not unpacked else unpacked[0]

    def decode(self, path: Path) -> ImageSet:
        """Read the archive, or the folder that it unpacks to; see OfficialSet."""
        classes = list(self.classes)
        images: dict[str, list[Pixels]] = {"train": [], "test": []}
        labels: dict[str, list[int]] = {"train": [], "test": []}
        for batch, content in self._unpacked(path) if path.is_dir() else self._packed(path):
            found = pickle.loads(content, encoding="latin1")
            if batch == "meta":
                classes = list(found[f"{self.kind}label_names"])
                continue
            split = "test" if batch.startswith("test") else "train"
            # Each row is a (3, 32, 32) image.
            images[split].extend(found["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
            labels[split].extend(found[f"{self.kind}labels"])
        return ImageSet(classes, images, {split: np.array(values) for split, values in labels.items()})

    def _packed(self, path: Path) -> Iterator[tuple[str, bytes]]:
        with tarfile.open(fileobj=io.BytesIO(self.archive.verify(path))) as archive:
            for batch in self.batches:
                member = archive.extractfile(f"{self.folder}/{batch}")
                assert member is not None, "the md5 vouches for the archive's members"
                yield batch, member.read()

    def _unpacked(self, folder: Path) -> Iterator[tuple[str, bytes]]:
        again = f"unpack {self.archive.name} again"
        if not any((folder / batch).is_file() for batch in self.batches):
            raise UserError(f"{folder}: a folder without {self.archive.title}'s files in it; name another in data.path")
        if missing := [batch for batch in self.batches if not (folder / batch).is_file()]:
            raise UserError(f"{folder}: without {few(missing)}, though other batches are here; {again}")
        found = {batch: read_file(folder / batch, self.archive.size) for batch in self.batches}
        if odd := [f"{batch} (md5 {md5(found[batch])})" for batch in found if md5(found[batch]) != self.batches[batch]]:
            raise UserError(f"{folder}: damaged or other files, {few(odd)}; {again}")
        yield from found.items()


CIFAR10 = Cifar(
    "cifar10", (CIFAR10_ARCHIVE,), "cifar-10-batches-py",
    {
        "data_batch_1": "c99cafc152244af753f735de768cd75f",
        "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
        "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
        "data_batch_4": "634d18415352ddfa80567beed471001a",
        "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        "test_batch": "40351d587109b95175f43aff81a1287e",
    },
    classes=("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"),
)  # fmt: skip
CIFAR100 = Cifar(
    "cifar100", (CIFAR100_ARCHIVE,), "cifar-100-python",
    {
        "train": "16019d7e3df5f24257cddd939b257f8d",
        "test": "f0ef6b0ae62326f3e7ffdfab6717acfc",
        "meta": "7973b15100ade9c7d40fb424638fde48",
    },
    kind="fine_",
)  # fmt: skip
"""With its 100 classes."""
