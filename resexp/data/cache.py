"""The folder for downloads and caches; caches that are whole or absent."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from resexp.errors import UserError
from resexp.utils.files import locked, write_atomic
from resexp.utils.paths import expanded
from resexp.utils.untrusted import Count, JsonRecord, read_record

META = "meta.json"


class CacheMeta(JsonRecord):
    """meta.json: what a cache holds."""

    bytes: dict[str, Count]
    """The size of each file."""


MetaT = TypeVar("MetaT", bound=CacheMeta)


def data_home() -> Path:
    """Where downloads and decoded caches live: $RESEXP_DATA, or ~/.cache/resexp."""
    return expanded(os.environ.get("RESEXP_DATA") or "~/.cache/resexp")


def caches() -> Path:
    """The folder of caches in the data folder."""
    return data_home() / "cache"


def lock_of(cache: Path, what: str, *, wait: bool = False) -> AbstractContextManager[None]:
    """Hold the lock of a cache; see `locked`."""
    return locked(cache.with_name(f".{cache.name}.lock"), what, wait=wait)


@contextlib.contextmanager
def building(cache: Path) -> Iterator[Path]:
    """A temporary folder, which replaces `cache` at the end of the block, or is removed by an exception.

    The caller holds a lock.
    """
    temporary = cache.with_name(f".building-{cache.name}")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed
    shutil.rmtree(cache, ignore_errors=True)  # damaged
    temporary.mkdir()
    try:
        yield temporary
        temporary.rename(cache)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def sizes(folder: Path) -> dict[str, int]:
    """The size of each file in a cache that is being built."""
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir())}


def read_meta(cache: Path, kind: type[MetaT]) -> MetaT | None:
    """What a cache holds; None if it is absent or damaged."""
    try:
        meta = read_record(cache / META, kind)
        whole = meta and all((cache / name).stat().st_size == size for name, size in meta.bytes.items())
    except (OSError, UserError):
        return None
    return meta if whole else None


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Replace `path` by these arrays."""
    content = io.BytesIO()
    np.savez(content, **arrays)  # type: ignore[arg-type]  # numpy 1.26 has no other keyword
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, content.getvalue())


def read_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """The arrays in `path`; None if there is no file, or a damaged one."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile):
        return None
