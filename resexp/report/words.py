"""Lists that stay readable however long they are."""

from __future__ import annotations

from collections.abc import Sequence

MOST = 20
"""Names in a sentence, families in a figure."""


def listed(names: Sequence[str], most: int = MOST) -> str:
    """``a, b, c``, or the first `most` of them ``and 7 more``."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")
