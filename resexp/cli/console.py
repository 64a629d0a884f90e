"""What the terminal shows: consoles, tables and JSON."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Container, Iterable
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import TextType

from resexp.utils.logs import log_to

MIB = 1 << 20
TEXT = 32
"""Columns of a terminal that a cell of a table may need before it is folded."""


def _open_streams() -> None:
    """Give the process the three standard streams: cron and daemons close them, and a file that is opened later would
    take their place. A terminal without UTF-8 is shown question marks for what it lacks."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, "r" if number == 0 else "w", closefd=False))
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


class _Console(Console):
    """A console that keeps its command running when its reader is gone: a training must not be lost."""

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


_open_streams()

# Paths and messages are shown as they are; where nobody looks at a terminal, tables need not fit one.
out = _Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 160)
err = _Console(markup=False, highlight=False, emoji=False, stderr=True)


def show_log(console: Console) -> None:
    """Print what resexp logs on this console; nothing more where its disk is full."""

    def show(line: str) -> None:
        try:
            console.print(line, soft_wrap=True)
        except OSError:
            console.on_broken_pipe()

    log_to(show)


def print_line(line: object, style: str | None = None) -> None:
    """Print a line that only the terminal breaks, so that what is copied from it is whole."""
    out.print(f"{line}", style=style, soft_wrap=True)


def warn(line: object) -> None:
    """Print such a line on standard error."""
    err.print(f"{line}", soft_wrap=True)


def print_table(table: Table) -> None:
    """Print a table without cutting words or numbers.

    Long texts are folded. Where the terminal is too narrow for the rest, it breaks the lines itself.
    """
    if (needed := fit(table)) > out.width:
        table.width = needed  # a console never prints wider than it is, and narrow columns would vanish
    out.print(table, crop=False)


def make_table(
    title: TextType, columns: Iterable[str], rows: Iterable[Iterable[TextType]] = (), left: Container[str] | None = None
) -> Table:
    """A table whose columns are right-aligned, except those `left`; None: all are left-aligned."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, justify="left" if left is None or column in left else "right")
    for row in rows:
        table.add_row(*row)
    return table


def fit(table: Table) -> int:
    """Let a table cut no words or numbers, and have no lines where they don't fit. Returns the columns it needs."""
    for column in table.columns:
        lines = [line for cell in (column.header, *column.cells, column.footer) for line in str(cell).split("\n")]
        wide = max(map(cell_len, lines))
        column.min_width = min(wide, TEXT)
        column.no_wrap = wide <= TEXT
        column.overflow = "fold"
    needed = Measurement.get(out, out.options.update(width=10_000), table).minimum
    if needed > out.width:  # without lines it takes less
        table.box, table.padding, table.pad_edge = SIMPLE_HEAD, (0, 1, 0, 0), False
        needed = Measurement.get(out, out.options.update(width=10_000), table).minimum
    return needed


def print_json(value: Any, indent: int = 1) -> None:
    """Print `value` for scripts; a number that is NaN or infinite is null."""
    from resexp.runs.records import json_text

    print(json_text(value, indent))
