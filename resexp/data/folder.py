"""Images in `train/<class>/` and `test/<class>/`: a folder, or a .tar, .tar.gz or .zip, which is not unpacked."""

from __future__ import annotations

import hashlib
import io
import itertools
import multiprocessing
import os
import tarfile
import warnings
import zipfile
import zlib
from collections import defaultdict, deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from resexp.data.images import ImageSet, Pixels
from resexp.errors import UserError
from resexp.files import write_atomic
from resexp.machine import cores

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".ppm", ".tif", ".tiff", ".webp"})
MAX_PIXELS = 4096 * 4096
MAX_IMAGES = 2_000_000
BATCH = 500
"""Images that are decoded in one go."""

Entry = tuple[str, str, str]
"""(split, class, file name)"""


def content_key(path: Path, memory: Path) -> str:
    """A digest of the files' bytes, remembered in `memory` for as long as their sizes and times stay the same."""
    if not path.exists():
        raise UserError(f"{path}: no such folder or archive (data.path is relative to where the command is run)")
    files = _files(path) if path.is_dir() else [path]
    stamp = hashlib.sha256(str(path.resolve()).encode())
    for file in files:
        stat = file.stat()
        stamp.update(f"{file.relative_to(path)}\0{stat.st_size}\0{stat.st_mtime_ns}\0".encode())
    known = memory / f".content-{stamp.hexdigest()[:32]}"
    if known.exists() and (key := known.read_text()):
        return key
    content = hashlib.sha256()
    for file in files:
        content.update(f"{file.relative_to(path)}\0".encode())
        with file.open("rb") as stream:
            content.update(hashlib.file_digest(stream, "sha256").digest())
    key = content.hexdigest()[:16]
    memory.mkdir(parents=True, exist_ok=True)
    write_atomic(known, key)
    return key


def decode(path: Path) -> ImageSet:
    """Decode every image to RGB. The order is by split, class and file name, whatever the archive's order."""
    decoded: dict[str, dict[Entry, Pixels]] = {"train": {}, "test": {}}
    for entry, pixels in _decode_all(path):
        if entry in decoded[entry[0]]:
            raise UserError(f"{path}: holds {'/'.join(entry)} twice, below different folders; keep one set of images")
        decoded[entry[0]][entry] = pixels
        if sum(map(len, decoded.values())) > MAX_IMAGES:
            raise UserError(f"{path}: over {MAX_IMAGES:,} images; this source is for sets that fit in memory")
    classes = _classes(path, decoded)
    images = {split: [entries[entry] for entry in sorted(entries)] for split, entries in decoded.items()}
    labels = {split: np.array([classes.index(entry[1]) for entry in sorted(e)]) for split, e in decoded.items()}
    return ImageSet(classes, images, labels)


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
        yield from _decode_batch(path, batch)
    helpers = cores()
    with ProcessPoolExecutor(helpers, multiprocessing.get_context("spawn")) as pool:
        ahead: deque[Future[list[tuple[Entry, Pixels]]]] = deque()
        for batch in batches:
            ahead.append(pool.submit(_decode_batch, path, batch))
            if len(ahead) > 2 * helpers:  # no more of the set in memory than keeps them busy
                yield from ahead.popleft().result()
        for future in ahead:
            yield from future.result()


def _decode_batch(path: Path, batch: list[tuple[Entry, bytes]]) -> list[tuple[Entry, Pixels]]:
    return [(entry, _decode_image(f"{path}: {'/'.join(entry)}", data)) for entry, data in batch]


def _decode_image(where: str, data: bytes) -> Pixels:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(f"{where}: {image.width}x{image.height} pixels is over the limit of {MAX_PIXELS:,}")
                return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
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
            yield (file.parts[-3], file.parts[-2], file.name), file.read_bytes()
    elif zipfile.is_zipfile(path):
        yield from _zip_entries(path)
    else:
        yield from _tar_entries(path)


def _zip_entries(path: Path) -> Iterator[tuple[Entry, bytes]]:
    try:
        with zipfile.ZipFile(path) as archive:
            for info in archive.infolist():
                entry = _entry(_inside(path, info.filename))
                if entry and not info.is_dir():
                    yield entry, archive.read(info)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise _damaged(path, error) from None


def _tar_entries(path: Path) -> Iterator[tuple[Entry, bytes]]:
    try:
        with tarfile.open(path, "r:*") as archive:
            for member in archive:
                entry = _entry(_inside(path, member.name))
                if entry and not (member.isfile() or member.isdir()):
                    raise UserError(f"{path}: {member.name} is a link; an image archive holds plain files only")
                if entry and member.isfile():
                    stream = archive.extractfile(member)
                    assert stream is not None, "a plain file has a stream"
                    data = stream.read()
                    if len(data) != member.size:
                        raise _damaged(path, f"{member.name} is cut short")
                    yield entry, data
            # Iteration ends quietly where the file does; only a block of zeros says that this is the archive's end.
            assert archive.fileobj is not None, "an open archive has a file"
            archive.fileobj.seek(archive.offset)
            if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
                raise _damaged(path, "it has no end")
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the file system's own error, not the archive's
        raise _damaged(path, error) from None


def _inside(path: Path, name: str) -> str:
    """`name`, unless it would lead out of the archive's folder; nothing is unpacked, but such an archive is no data."""
    if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or os.path.splitdrive(name)[0]:
        raise UserError(f"{path}: member {name!r} would leave its folder; this is not a well-meant archive")
    return name


def _damaged(path: Path, error: object) -> UserError:
    return UserError(f"{path}: truncated or damaged archive, or not a .tar, .tar.gz or .zip ({error}); fetch it again")
