"""Where data lie on this machine."""

from __future__ import annotations

import os
from pathlib import Path


def data_home() -> Path:
    """Where downloads and decoded caches live: $RESEXP_DATA, or ~/.cache/resexp."""
    return Path(os.environ.get("RESEXP_DATA") or Path.home() / ".cache" / "resexp")
