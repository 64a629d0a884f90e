"""The folder for downloads and caches; caches that are whole or absent."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resexp.utils.files import write_atomic
from resexp.utils.paths import expanded


def data_home() -> Path:
    """Where downloads and decoded caches live: $RESEXP_DATA, or ~/.cache/resexp."""
    return expanded(os.environ.get("RESEXP_DATA") or "~/.cache/resexp")


def caches() -> Path:
    """The folder of caches in the data folder."""
    return data_home() / "cache"


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
