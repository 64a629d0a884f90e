"""Lists that stay readable however long they are, and tables without columns that say nothing."""

from __future__ import annotations

from collections.abc import Sequence

NOTHING = "–"
"""In a cell of a table that has no number."""
MOST = 20
"""Names in a sentence, families in a figure."""


def listed(names: Sequence[str], most: int = MOST) -> str:
    """``a, b, c``, or the first `most` of them ``and 7 more``."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def filled(header: list[str], rows: list[list[str]]) -> tuple[list[str], list[list[str]]]:
    """A table without the columns that have NOTHING in every row."""
    kept = [column for column in range(len(header)) if any(row[column] != NOTHING for row in rows)]
    return [header[column] for column in kept], [[row[column] for column in kept] for row in rows]


def duration(seconds: float) -> str:
    """``90 s``, ``14.4 min`` or ``2.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
