"""The folder for downloads and caches."""

from __future__ import annotations

import os
from pathlib import Path

from resexp.utils.paths import expanded


def data_home() -> Path:
    """Where downloads and decoded caches live: $RESEXP_DATA, or ~/.cache/resexp."""
    return expanded(os.environ.get("RESEXP_DATA") or "~/.cache/resexp")
