"""Consoles, and options that several commands have."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from resexp.paths import expanded

# Paths and messages are shown as they are; where nobody looks at a terminal, tables need not fit one.
out = Console(markup=False, highlight=False, width=None if sys.stdout.isatty() else 160)
err = Console(markup=False, highlight=False, stderr=True)

Config = Annotated[str | None, typer.Option("--config", "-c", help="Study file, or a shipped study: cifar10/figure6.")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="Override a value: --set train.lr=0.05. Repeatable.")]
NoGraphs = Annotated[
    bool, typer.Option("--no-cuda-graphs", help="On a GPU: launch every kernel from Python; replay no CUDA graph.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show what would be trained, and train nothing.")]
PATH: Any = {"parser": expanded, "metavar": "PATH"}
"""For options and arguments that are paths: `~` and `$NAME` are replaced, which a shell does not do in --option=~/x."""
Results = Annotated[Path, typer.Option("--results", envvar="RESEXP_RESULTS", help="Where study folders lie.", **PATH)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

RESULTS = Path("results")


def print_json(value: Any, indent: int = 1) -> None:
    """Print `value` for scripts; a number that is NaN or infinite is null."""
    from resexp.records import json_text

    print(json_text(value, indent))


def all_settings(settings: list[str] | None, no_graphs: bool, **flags: object) -> list[str]:
    """What --set and the flags that stand for settings say; `flags` by key, with `__` for the dot, None: not given."""
    given = [f"{key.replace('__', '.')}={value}" for key, value in flags.items() if value is not None]
    return [*(settings or []), *(["train.cuda_graphs=false"] if no_graphs else []), *given]
