"""Reads untrusted files: bounded size, no blocking on pipes, validated content."""

from __future__ import annotations

import io
import json
import os
import stat
import zipfile
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from resexp.errors import UserError, sanitize

MAX_RECORD, MAX_METRICS, MAX_LINES = 1 << 24, 1 << 28, 2_000_000
"""Bytes of a JSON file; bytes and lines of metrics.jsonl."""

_RECOGNISED: dict[str, bytes | tuple[bytes, ...]] = {
    "a pointer of Git LFS; run `git lfs pull`": b"version https://git-lfs",
    "a web page; open it in a browser to see why the download failed": (b"<!doctype html", b"<html"),
    "an SVG drawing": b"<svg",
    "an XML text": b"<?xml",
    "a PDF": b"%pdf",
    "a Photoshop file": b"8bps",
    "a JPEG XL": (b"\0\0\0\x0cjxl", b"\xff\n"),
    "a JPEG 2000": b"\0\0\0\x0cjp  ",
    "an HDF5 file": b"\x89hdf",
    "a NumPy array": b"\x93numpy",
    "a zip archive": b"pk\x03\x04",
    "a PNG image": b"\x89png",
    "a GIF image": b"gif8",
    "a JPEG image": b"\xff\xd8\xff",
    "a TIFF image": (b"ii*\0", b"mm\0*"),
    "compressed with Zstandard (.zst)": b"\x28\xb5\x2f\xfd",
    "a 7-Zip archive (.7z)": b"7z\xbc\xaf\x27\x1c",
    "a RAR archive (.rar)": b"rar!\x1a\x07",
    "compressed with LZ4 (.lz4)": b"\x04\x22\x4d\x18",
    "compressed with lzip (.lz)": b"lzip",
    "compressed with compress (.Z)": b"\x1f\x9d",
    "a Parquet table": b"par1",
    "an Arrow table": b"arrow1",
    "an SQLite database": b"sqlite format 3",
    "a file of MNIST's format": (b"\0\0\x08\x01", b"\0\0\x08\x03"),
    "a PAM image": b"p7\n",
    "an OpenEXR image": b"v/1\x01",
    "a Radiance HDR image": b"#?radiance",
    "a DDS texture": b"dds ",
    "a GIMP file": b"gimp xcf",
    "an icon": b"\0\0\1\0",
    "a PostScript file": b"%!ps",
    "a PFM image": b"pf\n",
}
"""Kinds of files, with the first bytes of each in lower case."""

Count = Annotated[int, Field(ge=0, lt=1 << 63)]


class JsonRecord(BaseModel):
    """The content of a JSON file: numbers are finite, and text can be shown as it is.

    Unknown keys, such as those of later versions, are ignored.
    """

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

    @field_validator("*")
    @classmethod
    def _visible(cls, value: Any) -> Any:
        return sanitize(value) if isinstance(value, str) else value


RecordT = TypeVar("RecordT", bound=JsonRecord)


def read_file(path: Path, limit: int, last: int | None = None) -> bytes:
    """The content of a plain file, or its `last` bytes.

    Raises OSError, or UserError if it is no plain file or over `limit` bytes.
    """
    if path.is_dir():
        raise UserError(f"{path}: not a plain file; move it elsewhere")
    # A pipe that nobody writes to is not waited for.
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise UserError(f"{path}: not a plain file; move it elsewhere")
        if status.st_size > limit:
            raise UserError(
                f"{path}: {status.st_size:,} bytes, over the limit of {limit:,}; put a smaller file in its place"
            )
        if last is not None and status.st_size > last:
            file.seek(-last, os.SEEK_END)
        return file.read()


def refuse_links(folder: Path) -> None:
    """Raise UserError where a folder that is going to be written to holds links, which may lead elsewhere, or pipes,
    which may be waited for."""
    with os.scandir(folder) as entries:
        for entry in entries:
            if not (entry.is_file(follow_symlinks=False) or entry.is_dir(follow_symlinks=False)):
                raise UserError(f"{entry.path}: a link or a pipe, in a folder of plain files; remove it")


def read_record(path: Path, record: type[RecordT]) -> RecordT | None:
    """The record in a JSON file, or None if there is no file. Raises UserError if it holds anything else."""
    try:
        return record.model_validate_json(read_file(path, MAX_RECORD))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UserError(f"{path}: damaged ({first_mistake(error)}); restore it, or delete it") from None


def first_mistake(error: ValidationError) -> str:
    """The first mistake that pydantic found, such as ``seeds.0: Input should be a valid integer``."""
    first = error.errors(include_url=False)[0]
    return ": ".join(filter(None, (".".join(map(str, first["loc"])), first["msg"])))


def refuse_compressed(archive: bytes) -> None:
    """Raise ValueError for a zip archive that would be larger when it is unpacked: ours are stored as they are."""
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        members = opened.infolist()
    if any(m.compress_type != zipfile.ZIP_STORED for m in members) or sum(m.file_size for m in members) > len(archive):
        raise ValueError("compressed")


def parse_json(content: bytes) -> Any:
    """The value of a JSON text. Raises ValueError if it is none, holds NaN or Infinity, or is nested too deeply."""
    try:
        return json.loads(content, parse_constant=_no_number)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def recognised(head: bytes) -> str:
    """What a file is that should have been another, by its first bytes; empty if they say nothing."""
    start = head[:64].lstrip().lower()
    if start[4:8] == b"ftyp":
        return f"of the kind {start[8:12].decode('ascii', 'replace').upper()}, which is not read"
    return next((kind for kind, starts in _RECOGNISED.items() if start.startswith(starts)), "")
