"""Options and arguments that several commands have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from resexp.cli import completion
from resexp.errors import UserError
from resexp.utils.paths import expanded

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
StudyName = Annotated[str | None, names("STUDY", "The same as --config.", completion.shipped)]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override a value: --set train.lr=0.05. Add --set name=NEW to keep earlier runs in a report of their own. "
        "Repeatable.",
        autocompletion=completion.settings,
    ),
]


def _load_plugins(files: list[str] | None) -> list[str] | None:
    if files:
        from resexp.config import plugins

        plugins.add_files(files)
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
PATH: Any = {"parser": expanded, "metavar": "PATH"}
"""For options and arguments that are paths: `~` and `$NAME` are replaced, which a shell does not do in --option=~/x."""
Results = Annotated[Path, typer.Option("--results", envvar="RESEXP_RESULTS", help="Folder with all studies.", **PATH)]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]

RESULTS = Path("results")


def numbers(option: str, text: str) -> tuple[int, ...]:
    """The positive whole numbers in `text`, with commas between. Raises UserError for anything else."""
    if not re.fullmatch(r"\s*0*[1-9]\d*\s*(,\s*0*[1-9]\d*\s*)*", text):
        raise UserError(f"{option}: expected positive whole numbers with commas between, got {text!r}")
    return tuple(map(int, text.split(",")))


def overrides(settings: list[str] | None, no_graphs: bool, flags: Mapping[str, object]) -> list[str]:
    """Join --set with flags that are short for settings: dotted keys with values. None: a flag that is not given."""
    given = {"train.cuda_graphs": "false" if no_graphs else None, **flags}
    return [*(settings or []), *(f"{key}={value}" for key, value in given.items() if value is not None)]


def one_study(verb: str, study: str | None, config: str | None) -> str | None:
    """The name of a study, given as an argument or as --config. Raises UserError if it is given as both."""
    if study is not None and config is not None:
        raise UserError(f"{verb}: the study is named twice; name it once")
    return config if study is None else study
