"""Lists, tables and numbers as people read them, however long, empty or large they are."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

NOTHING = "–"
"""In a cell of a table that has no number."""

Table = tuple[list[str], list[list[str]]]
"""Header and rows."""


def filled(header: list[str], rows: list[list[str]]) -> Table:
    """A table without the columns that have NOTHING in every row."""
    kept = [column for column in range(len(header)) if any(row[column] != NOTHING for row in rows)]
    return [header[column] for column in kept], [[row[column] for column in kept] for row in rows]


def slug(text: str) -> str:
    """A text as part of an id: ``Layer responses`` becomes ``layer-responses``."""
    return re.sub(r"[^\w.=-]+", "-", text).strip("-").lower()


def curves_of(family: str) -> str:
    """The name of the figure with the training curves of a family."""
    return f"curves-{family.replace(' ', '-')}"


def in_cell(error: float | None) -> str:
    """An error, percent, in a cell of a table: ``1.27``."""
    return NOTHING if error is None else f"{error:.2f}"


def duration(seconds: float) -> str:
    """``90 s``, ``14.4 min`` or ``2.5 h``."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def number(value: float) -> str:
    """To two digits, or to the last before the point: ``0.012``, ``1,230``."""
    return f"{value:,.0f}" if math.isfinite(value) and abs(value) >= 99.5 else f"{value:.2g}"


def digits(value: float) -> str:
    """To two digits, however large or small: ``0.53``, ``4.0``, ``1,600``, ``3.8e7``."""
    mantissa, _, exponent = f"{value:.1e}".partition("e")
    if not exponent:  # NaN or infinite
        return mantissa
    power = int(exponent)
    if -4 < power < 4:
        return f"{float(f'{value:.1e}'):,.{max(0, 1 - power)}f}"
    return f"{mantissa}e{power}"


def course(values: Sequence[float]) -> str:
    """The first and the last, or the one that they are: ``0.9 to 1.3``."""
    return " to ".join(dict.fromkeys(number(end) for end in (values[0], values[-1])))


def span(values: Iterable[float]) -> str:
    """The least and the largest, or the one that they are."""
    return course(sorted(values))
