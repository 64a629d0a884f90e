"""``resexp rm``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

import typer

from resexp.cli.options import MIB, RESULTS, Results, counted, err, names, out
from resexp.errors import UserError, sanitize

if TYPE_CHECKING:
    from resexp.runs.names import Named
    from resexp.runs.store import Run

SHOWN = 5
"""Runs that a line names."""


def remove(
    name: Annotated[
        str,
        names("STUDY"),
    ],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    results: Results = RESULTS,
) -> None:
    """Delete the runs of a study, of a net, or one run. A study without runs is deleted, too.

    Runs in progress are kept, as are reports and your own files.
    """
    from resexp.runs.earlier import size
    from resexp.runs.names import find_named
    from resexp.utils.files import locked

    named = find_named(name, results)
    runs = list(_removable(named))
    sizes = {run.folder: size(run.folder) for run in runs}
    what = f"{counted(len(runs), 'run')} of {named.study.folder}, {sum(sizes.values()) / MIB:,.1f} MiB: {_names(runs)}"
    if runs and not yes:
        typer.confirm(f"{what}\ndelete?", abort=True, err=True)
    with locked(named.study.lock_path, f"the study in {named.study.folder}"):
        if held := [run for run in runs if run.is_held()]:
            raise UserError(f"{_names(held)}: at work; stop that first, nothing was deleted")
        for run in runs:
            run.remove()
        named.study.drop([run for run in named.runs if not run.folder.exists()])
    if named.whole and not named.study.runs():
        named.study.plan_path.unlink(missing_ok=True)
        for lock in named.study.folder.glob(".*lock"):
            lock.unlink()
    with suppress(OSError):  # not empty
        named.study.folder.rmdir()
    out.print(f"deleted {what}", soft_wrap=True)
    if named.whole and named.study.folder.exists():
        left = sanitize(", ".join(sorted(path.name for path in named.study.folder.iterdir())))
        out.print(f"left as they are in {named.study.folder}: {left}", soft_wrap=True)


def _removable(named: Named) -> Iterator[Run]:
    """The runs that have a folder which is one of a run, and a line about each folder that is not."""
    from resexp.config.study import load_run

    for run in [*named.runs, *(named.study.strays() if named.whole else [])]:
        try:
            if run.folder.is_symlink():
                raise UserError(f"{run.folder}: a link")
            load_run(run.config_path)
        except FileNotFoundError:
            continue  # it was never begun
        except UserError as error:
            err.print(f"{error}; not deleted", soft_wrap=True)
        else:
            yield run


def _names(runs: list[Run]) -> str:
    more = f" and {len(runs) - SHOWN:,} more" if len(runs) > SHOWN else ""
    return ", ".join(run.name for run in runs[:SHOWN]) + more
