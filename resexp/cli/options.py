"""Consoles, and options that several commands have."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from resexp.cli import completion
from resexp.errors import UserError
from resexp.utils.logs import log_to
from resexp.utils.paths import expanded


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


_open_streams()

# Paths and messages are shown as they are; where nobody looks at a terminal, tables need not fit one.
out = Console(markup=False, highlight=False, emoji=False, width=None if sys.stdout.isatty() else 160)
err = Console(markup=False, highlight=False, emoji=False, stderr=True)


def show_log(console: Console) -> None:
    """Print what resexp logs on this console."""
    log_to(lambda line: console.print(line, soft_wrap=True))


NAMED = "STUDY, STUDY:NET or STUDY:NET/SEED, or a folder."


def names(metavar: str, what: str = NAMED, complete: completion.Complete = completion.named) -> Any:
    """An argument that names studies, nets or runs."""
    return typer.Argument(metavar=metavar, help=what, autocompletion=complete)


Config = Annotated[
    str | None,
    typer.Option(
        "--config", "-c", help="Study file, or a shipped study: cifar10/figure6.", autocompletion=completion.shipped
    ),
]
Study = Annotated[str | None, names("[STUDY]", "The same as --config.", completion.shipped)]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override a value: --set train.lr=0.05. Repeatable.", autocompletion=completion.settings
    ),
]


def _load_plugins(files: list[str] | None) -> list[str] | None:
    if files:
        from resexp.config import plugins

        plugins.name_files(files)
        plugins.load()
    return files


Plugins = Annotated[
    list[str] | None,
    typer.Option(
        "--plugin", callback=_load_plugins, help="Your Python file with blocks, optimisers or other parts. Repeatable."
    ),
]
NoGraphs = Annotated[
    bool,
    typer.Option("--no-cuda-graphs", help="Launch every GPU kernel from Python: slower, for debugging."),
]
Track = Annotated[
    list[str] | None,
    typer.Option("--track", help="Send metrics to tensorboard, trackio, wandb or mlflow. Repeatable."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the runs with their estimated time and disk, and check the data.")
]
PATH: Any = {"parser": expanded, "metavar": "PATH"}
"""For options and arguments that are paths: `~` and `$NAME` are replaced, which a shell does not do in --option=~/x."""
Results = Annotated[Path, typer.Option("--results", envvar="RESEXP_RESULTS", help="Folder with all studies.", **PATH)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

RESULTS = Path("results")
MIB = 1 << 20
TEXT = 32
"""Columns of a terminal that a cell of a table may need before it is folded."""


def print_table(table: Table) -> None:
    """Print a table without cutting words or numbers.

    Long texts are folded. Where the terminal is too narrow for the rest, it breaks the lines itself.
    """
    if (needed := fit(table)) > out.width:
        table.width = needed  # a console never prints wider than it is, and narrow columns would vanish
    out.print(table, crop=False)


def titled(title: str, *columns: str, left: Container[str]) -> Table:
    """A table whose columns are right-aligned, except those `left`, and not folded."""
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column, no_wrap=True, justify="left" if column in left else "right")
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


def numbers(option: str, text: str) -> tuple[int, ...]:
    """The positive whole numbers in `text`, with commas between. Raises UserError for anything else."""
    if not re.fullmatch(r"\s*0*[1-9]\d*\s*(,\s*0*[1-9]\d*\s*)*", text):
        raise UserError(f"{option}: expected positive whole numbers with commas between, got {text!r}")
    return tuple(map(int, text.split(",")))


def counted(count: int, noun: str) -> str:
    """``1 run`` or ``1,234 runs``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def print_json(value: Any, indent: int = 1) -> None:
    """Print `value` for scripts; a number that is NaN or infinite is null."""
    from resexp.runs.records import json_text

    print(json_text(value, indent))


def all_settings(settings: list[str] | None, no_graphs: bool, flags: Mapping[str, object]) -> list[str]:
    """--set, and the flags that stand for settings: dotted keys with values, None for a flag that is not given."""
    given = {"train.cuda_graphs": "false" if no_graphs else None, **flags}
    return [*(settings or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]


def one_study(verb: str, study: str | None, config: str | None) -> str | None:
    """The name of a study, given as an argument or as --config. Raises UserError if it is given as both."""
    if study is not None and config is not None:
        raise UserError(f"{verb}: the study is named twice; name it once")
    return config if study is None else study
