"""Files of several arrays, whole or absent."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resexp.utils.files import write_atomic


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
