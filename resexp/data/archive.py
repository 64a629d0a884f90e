"""The files of a folder, a zip or a tar, which is not unpacked."""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import lzma
import os
import stat
import tarfile
import zipfile
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, cast

from resexp.errors import UserError
from resexp.utils.files import holds
from resexp.utils.untrusted import read_file, recognised

MAX_BYTES = 1 << 27
"""Largest file, packed or unpacked."""
RATIO, ROOM = 100, 1 << 30
"""Largest ratio of unpacked to packed size, for archives over ROOM bytes; images can't be compressed that much."""
READ = ".zip, .tar, .tar.gz, .tar.bz2 or .tar.xz"

_ZIP = b"PK\x03\x04"
_COMPRESSED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}
"""How a tar is read, by its first bytes."""
_ZIP_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)


def members(path: Path) -> Iterator[str]:
    """The names of all files in a folder or archive; those of folders end with a slash.

    Raises UserError if it is no archive that is read, or a damaged one.
    """
    if path.is_dir():
        # A folder at the top that can't be read counts as a file: such as lost+found.
        names = walk(path, lambda name: "/" not in name and not os.access(path / name, os.R_OK | os.X_OK))
        yield from (name for name, _ in names)
        return
    with _reading(path):
        for name, _ in _archived(path):
            # Nothing is unpacked, but an archive that would write outside its folder is no data.
            if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
                raise UserError(
                    f"{path}: member {name!r} would leave its folder; pack the folder again with names relative to it"
                )
            yield name


def contents(path: Path, wanted: Collection[str]) -> Iterator[tuple[str, bytes]]:
    """The name and the bytes of each of the `wanted` files.

    Raises UserError if one is too large, is no plain file, or is damaged.
    """
    if path.is_dir():
        yield from ((name, read_file(path / name, MAX_BYTES)) for name in wanted)
        return
    with _reading(path):
        for name, read in _archived(path):
            if name in wanted:
                yield name, read()


def walk(
    folder: Path, is_skipped: Callable[[str], bool], above: Sequence[Path] = (), within: str = ""
) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """All files below a folder, sorted, by names from there; names of folders end with a slash.

    A folder that `is_skipped`, by its name from there, counts as a file. Links are followed, except to a folder that
    holds them, or is listed in `above`.
    """
    if any(folder.samefile(other) for other in above):
        return
    with os.scandir(folder) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        name = within + entry.name
        if not holds(entry.is_dir) or is_skipped(name):
            yield name, entry
        else:
            yield f"{name}/", entry
            yield from walk(folder / entry.name, is_skipped, (*above, folder), f"{name}/")


def _archived(path: Path) -> Iterator[tuple[str, Callable[[], bytes]]]:
    """The names in a zip or tar, as `members` gives them, each with what reads it until the next one is asked for."""
    with path.open("rb") as file:
        is_zip = file.read(4) == _ZIP or zipfile.is_zipfile(file)
    if not is_zip:
        for member, tar in _tar(path):
            yield member.name + ("/" if member.isdir() else ""), functools.partial(_untarred, path, tar, member)
        return
    with zipfile.ZipFile(path) as archive:
        if sum(info.file_size for info in archive.infolist()) > _limit(path):
            raise _bomb(path)
        for info in archive.infolist():
            yield info.filename, functools.partial(_unzipped, path, archive, info)


def _unzipped(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    if info.flag_bits & 1:
        raise UserError(f"{path}: {info.filename} is encrypted; unpack it with its password, and name the folder")
    if stat.S_ISLNK(info.external_attr >> 16):
        raise UserError(f"{path}: {info.filename} is a link; pack plain files only, without `zip --symlinks`")
    if info.compress_type not in _ZIP_METHODS:
        raise UserError(
            f"{path}: {info.filename} is compressed by method {info.compress_type}, which is not read; unpack it, and "
            f"name the folder"
        )
    _check_size(path, info.filename, info.file_size)
    with archive.open(info) as stream:
        return stream.read(info.file_size)


def _tar(path: Path) -> Iterator[tuple[tarfile.TarInfo, tarfile.TarFile]]:
    with (
        _stream(path) as stream,
        tarfile.open(fileobj=cast(BinaryIO, _Limited(path, stream)), mode="r:") as archive,
    ):
        before = -1
        while member := archive.next():
            if archive.offset <= before:  # a negative size leads back, for ever
                raise _damaged(path, f"{member.name} has a size of {member.size}")
            before = archive.offset
            archive.members = []  # type: ignore[attr-defined]  # tarfile would keep them all
            yield member, archive
        # Iteration ends quietly where the file does; only a block of zeros says that this is the archive's end.
        assert archive.fileobj is not None, "an open archive has a file"
        archive.fileobj.seek(archive.offset)
        if archive.fileobj.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise _damaged(path, "it has no end")
        while rest := archive.fileobj.read(1 << 20):  # up to the checksum of what is compressed
            if rest.strip(tarfile.NUL):
                raise UserError(f"{path}: more follows behind the archive's end; pack all files in one archive")


def _stream(path: Path) -> BinaryIO:
    """A file, unpacked. Raises UserError if it holds something else than a tar."""
    with path.open("rb") as file:
        head = file.read(tarfile.BLOCKSIZE)
    if not head:
        raise UserError(f"{path}: empty; fetch or pack it again")
    unpack = next((unpack for start, unpack in _COMPRESSED.items() if head.startswith(start)), None)
    stream: BinaryIO = unpack(path) if unpack else path.open("rb")
    first = stream.read(tarfile.BLOCKSIZE)
    stream.seek(0)
    if _begins_tar(first):
        return stream
    stream.close()
    what = recognised(first)
    if unpack:
        what = f"a compressed file, with {what or 'no tar archive'} in it"
    elif not what:
        what = f"not a {READ}, or damaged from its beginning"
    raise UserError(f"{path}: {what}{'' if ';' in what else f'; name a folder, or a {READ}'}")


def _begins_tar(block: bytes) -> bool:
    """Whether a tar may begin with this block; one of no files begins with its end, which is zeros."""
    try:
        tarfile.TarInfo.frombuf(block, tarfile.ENCODING, "surrogateescape")
    except tarfile.HeaderError:
        return not block.strip(tarfile.NUL)
    return True


def _untarred(path: Path, archive: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    if not member.isfile():
        raise UserError(
            f"{path}: {member.name} is a link or a device; pack plain files only, with `tar --dereference "
            f"--hard-dereference`"
        )
    _check_size(path, member.name, member.size)
    content = archive.extractfile(member)
    assert content is not None, "a plain file has a stream"
    data = content.read()
    if len(data) != member.size:
        raise _damaged(path, f"{member.name} is cut short")
    return data


class _Limited:
    """An unpacked archive that is read up to `_limit`, and no more than MAX_BYTES at once: tarfile
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
    """Turn errors of an archive's reader into one that calls the archive damaged; those of the file system stay."""
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
    return UserError(f"{path}: unpacks to over {RATIO} times its size; if you trust it, unpack it into a folder")


def _check_size(path: Path, name: str, size: int) -> None:
    if size > MAX_BYTES:
        raise UserError(f"{path}: {name} is over {MAX_BYTES:,} bytes; make it smaller, or leave it out of the archive")


def _damaged(path: Path, error: object) -> UserError:
    return UserError(f"{path}: truncated or damaged archive, or not a {READ} ({error}); fetch or pack it again")
