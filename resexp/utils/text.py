"""Lists and counts as people read them."""

from __future__ import annotations

from collections.abc import Sequence

MAX_NAMES = 20
"""Names in a sentence of a report, families in a figure."""


def listed(names: Sequence[str], most: int = MAX_NAMES) -> str:
    """``a, b, c``, or the first `most` of them ``and 7 more``."""
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more:,} more" if more > 0 else "")


def few(names: Sequence[str]) -> str:
    """The first three names, and how many more there are."""
    return listed(names, 3)


def counted(count: int, one: str, several: str = "") -> str:
    """``1 run`` or ``1,234 runs``; `several` is the plural of `one` where it needs more than an s."""
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"
