"""Images in `train/<class>/` and `test/<class>/`: a folder, or a .tar, .tar.gz or .zip, which is not unpacked."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import itertools
import multiprocessing
import os
import stat
import tarfile
import warnings
import zipfile
from collections import defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

import numpy as np
from PIL import Image

from resexp.data.images import ImageSet, Pixels
from resexp.errors import UserError, visible
from resexp.files import write_atomic
from resexp.machine import cores, memory
from resexp.outside import read_file

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp"})
FORMATS = ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
"""What is decoded, whatever a file is called; Pillow knows others, one of which is a language."""
MAX_PIXELS = 4096 * 4096
MAX_IMAGES = 2_000_000
MAX_BYTES = 1 << 27
"""Of one file, packed or not."""
RATIO, ROOM = 100, 1 << 30
"""How many times its own size an archive may be unpacked, beyond so many bytes: images can't be packed so well."""
BATCH = 500
"""Images that are decoded in one go."""

Entry = tuple[str, str, str]
"""(split, class, file name)"""


def content_key(path: Path, memory: Path) -> str:
    """A digest of the files' bytes, remembered in `memory` for as long as their sizes and times stay the same."""
    if not path.exists():
        raise UserError(f"{path}: no such folder or archive (data.path is relative to where the command is run)")
    files = _files(path) if path.is_dir() else [path]
    stamp = hashlib.sha256(os.fsencode(path.resolve()))
    for file in files:
        status = file.stat()
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{file}: not a plain file; remove it")
        stamp.update(os.fsencode(file.relative_to(path)))
        stamp.update(f"\0{status.st_size}\0{status.st_mtime_ns}\0".encode())
    known = memory / f".content-{stamp.hexdigest()[:32]}"
    if known.exists() and (key := known.read_text()):
        return key
    content = hashlib.sha256()
    for file in files:
        content.update(os.fsencode(file.relative_to(path)) + b"\0")
        with file.open("rb") as stream:
            content.update(hashlib.file_digest(stream, "sha256").digest())
    key = content.hexdigest()[:16]
    memory.mkdir(parents=True, exist_ok=True)
    write_atomic(known, key)
    return key


def decode(path: Path) -> ImageSet:
    """Decode every image to RGB. The order is by split, class and file name, whatever the archive's order."""
    decoded: dict[str, dict[Entry, Pixels]] = {"train": {}, "test": {}}
    left = memory()
    for entry, pixels in _decode_all(path):
        if visible(entry[1]) != entry[1]:
            raise UserError(f"{path}: the name of the class {entry[1]!r} can't be shown; rename it")
        if entry in decoded[entry[0]]:
            raise UserError(f"{path}: holds {'/'.join(entry)} twice, below different folders; keep one set of images")
        decoded[entry[0]][entry] = pixels
        left -= pixels.nbytes
        if left < 0 or sum(map(len, decoded.values())) > MAX_IMAGES:
            raise _too_many(path)
    classes = _classes(path, decoded)
    images = {split: [entries[entry] for entry in sorted(entries)] for split, entries in decoded.items()}
    labels = {split: np.array([classes.index(entry[1]) for entry in sorted(e)]) for split, e in decoded.items()}
    return ImageSet(classes, images, labels)


def _too_many(path: Path) -> UserError:
    return UserError(
        f"{path}: over {MAX_IMAGES:,} images, or more pixels than fit in this machine's memory; make it smaller"
    )


def _classes(path: Path, decoded: dict[str, dict[Entry, Pixels]]) -> list[str]:
    found: dict[str, set[str]] = defaultdict(set)
    for split, entries in decoded.items():
        if not entries:
            raise UserError(f"{path}: no images in {split}/<class>/; expected train/<class>/* and test/<class>/*")
        found[split] = {entry[1] for entry in entries}
    if odd := found["train"] ^ found["test"]:
        name = min(odd)
        where, missing = ("train", "test") if name in found["train"] else ("test", "train")
        raise UserError(f"{path}: class {name} is in {where}/ but not in {missing}/; both need the same classes")
    if len(found["train"]) < 2:
        raise UserError(f"{path}: only one class, {min(found['train'])}; a classifier needs at least two")
    return sorted(found["train"])


def _decode_all(path: Path) -> Iterator[tuple[Entry, Pixels]]:
    """Every image of the set, decoded by all cores; the first batches here, for most sets end before helpers begin."""
    entries = _entries(path)
    batches = iter(lambda: list(itertools.islice(entries, BATCH)), [])
    for batch in itertools.islice(batches, 8):
        yield from _decode_batch(path, batch, memory())
    helpers = cores()
    with ProcessPoolExecutor(helpers, multiprocessing.get_context("spawn")) as pool:
        ahead: deque[Future[list[tuple[Entry, Pixels]]]] = deque()
        for batch in batches:
            ahead.append(pool.submit(_decode_batch, path, batch, memory() // 8))
            if len(ahead) > 2 * helpers:  # no more of the set in memory than keeps them busy
                yield from ahead.popleft().result()
        for future in ahead:
            yield from future.result()


def _decode_batch(path: Path, batch: list[tuple[Entry, bytes]], room: int) -> list[tuple[Entry, Pixels]]:
    """The images of a batch, which have `room` bytes: an eighth of the memory, where eight batches went before."""
    decoded = []
    for entry, data in batch:
        decoded.append((entry, _decode_image(f"{path}: {'/'.join(entry)}", data)))
        room -= decoded[-1][1].nbytes
        if room < 0:
            raise _too_many(path)
    return decoded


def _decode_image(where: str, data: bytes) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=FORMATS) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(f"{where}: {image.width}x{image.height} pixels is over the limit of {MAX_PIXELS:,}")
                return np.asarray(image.convert("RGB"))
    except UserError:
        raise
    except Exception as error:  # decoders raise what they like at files that were made to break them
        raise UserError(f"{where}: unreadable image ({error}); restore or remove it") from None


def _files(folder: Path) -> list[Path]:
    return sorted(p for split in ("train", "test") for p in (folder / split).glob("*/*") if _is_image(p.name))


def _is_image(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")


def _entry(name: str) -> Entry | None:
    """The entry that an archive member stands for; folders above train/ and test/ are allowed."""
    parts = PurePosixPath(name).parts
    if len(parts) >= 3 and parts[-3] in ("train", "test") and _is_image(parts[-1]):
        return (parts[-3], parts[-2], parts[-1])
    return None


def _entries(path: Path) -> Iterator[tuple[Entry, bytes]]:
    if path.is_dir():
        for file in _files(path):
            yield (file.parts[-3], file.parts[-2], file.name), read_file(file, MAX_BYTES)
    elif zipfile.is_zipfile(path):
        yield from _zip_entries(path)
    else:
        yield from _tar_entries(path)


def _zip_entries(path: Path) -> Iterator[tuple[Entry, bytes]]:
    with _reading(path), zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > _limit(path):
            raise _bomb(path)
        for info in archive.infolist():
            entry = _entry(_inside(path, info.filename))
            if entry and not info.is_dir():
                if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise _damaged(path, f"{info.filename} is packed in an unusual way")
                _check_size(path, info.filename, info.file_size)
                with archive.open(info) as stream:
                    yield entry, stream.read(info.file_size)


def _tar_entries(path: Path) -> Iterator[tuple[Entry, bytes]]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    with (
        _reading(path),
        gzip.open(path) if packed else path.open("rb") as stream,
        tarfile.open(fileobj=cast(BinaryIO, _Limited(path, cast(BinaryIO, stream))), mode="r:") as archive,
    ):
        while member := archive.next():
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
            entry = _entry(_inside(path, member.name))
            if entry and not (member.isfile() or member.isdir()):
                raise UserError(f"{path}: {member.name} is a link; an image archive holds plain files only")
            if entry and member.isfile():
                _check_size(path, member.name, member.size)
                content = archive.extractfile(member)
                assert content is not None, "a plain file has a stream"
                data = content.read()
                if len(data) != member.size:
                    raise _damaged(path, f"{member.name} is cut short")
                yield entry, data
        # Iteration ends quietly where the file does; only a block of zeros says that this is the archive's end.
        assert archive.fileobj is not None, "an open archive has a file"
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise _damaged(path, "it has no end")


class _Limited:
    """An unpacked archive of which no more is read than `_limit` allows, and no more than MAX_BYTES at once: tarfile
    reads names and extended headers whole, as long as they say they are."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.path, self.stream, self.limit = path, stream, _limit(path)

    def read(self, size: int) -> bytes:
        if not 0 <= size <= MAX_BYTES or self.tell() + size > self.limit:
            raise _bomb(self.path)
        return self.stream.read(size)

    def seek(self, position: int) -> int:
        if position > self.limit:
            raise _bomb(self.path)
        return self.stream.seek(position)

    def tell(self) -> int:
        return self.stream.tell()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Say of whatever an archive's reader raises that the archive is damaged; but the file system speaks for itself."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # readers raise what they like at archives that were made to break them
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _damaged(path, error) from None


def _limit(path: Path) -> int:
    return ROOM + RATIO * path.stat().st_size


def _bomb(path: Path) -> UserError:
    return UserError(f"{path}: unpacks to over {RATIO} times its size; unpack it into a folder if it is well meant")


def _check_size(path: Path, name: str, size: int) -> None:
    if size > MAX_BYTES:
        raise UserError(f"{path}: {name} is over {MAX_BYTES:,} bytes; make it smaller, or remove it")


def _inside(path: Path, name: str) -> str:
    """`name`, unless it would lead out of the archive's folder; nothing is unpacked, but such an archive is no data."""
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or os.path.splitdrive(name)[0]:
        raise UserError(f"{path}: member {name!r} would leave its folder; this is not a well-meant archive")
    return name


def _damaged(path: Path, error: object) -> UserError:
    return UserError(f"{path}: truncated or damaged archive, or not a .tar, .tar.gz or .zip ({error}); fetch it again")
