"""``resexp status``."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text

from resexp.cli.options import RESULTS, AsJson, Results, fit, names, out, print_json, print_table, titled
from resexp.errors import UserError
from resexp.utils.interrupts import held_back

if TYPE_CHECKING:
    from rich.table import Table

    from resexp.runs.names import Named
    from resexp.runs.records import Status
    from resexp.runs.store import Run

    Rows = list[tuple[Run, Status]]

REFRESH_S, REFRESH_QUEUE_S = 2.0, 5.0
"""Seconds between refreshes; with jobs in Slurm's queue, which is queried each time."""
COLUMNS = ("run", "state", "step", "train", "clean", "test", "speed", "left")
SPARED = ("speed", "clean", "test", "step")
"""Columns that a narrow terminal is not shown while it is redrawn, the first one first."""
FIRST = ("running", "failed", "diverged", "interrupted", "queued", "pending", "finished")
"""Which runs a low terminal is shown."""


def status(
    name: Annotated[
        str | None,
        names("STUDY", "STUDY, STUDY:NET or STUDY:NET/SEED. Default: the newest study."),
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Redraw until all runs have ended, or Ctrl-C.")] = False,
    as_json: AsJson = False,
    results: Results = RESULTS,
) -> None:
    """Show the runs of a study: state, step, errors, speed and time left.

    train: training error of the last logged steps (augmented, train mode). clean: training error in eval mode, without
    augmentation.
    """
    from resexp.runs.names import find_named, open_study

    named = find_named(str(open_study(None, results).folder) if name is None else name, results)
    if watch:
        if as_json or not out.is_terminal or out.is_dumb_terminal:
            raise UserError("status: --watch redraws a terminal, and this is none or JSON; leave it out")
        _watch(named)
        return
    rows = _rows(named)
    if as_json:
        records = [
            {"run": run.name, "folder": str(run.folder), **state.model_dump(exclude={"traceback"}), "eta": state.eta}
            for run, state in rows
        ]
        print_json(records)
        return
    _print(named, rows)


def _print(named: Named, rows: Rows) -> None:
    print_table(_table(named, rows, COLUMNS))
    if named.whole and (line := named.study.strays_line()):
        out.print(line, soft_wrap=True)


def _watch(named: Named) -> None:
    """Redraw the table in place until no run is left to train. At the end all of it is printed."""
    rows = _rows(named)
    try:
        with Live(console=out, auto_refresh=False, transient=True) as live:
            while any(state.state not in ("finished", "diverged", "failed") for _, state in rows):
                with held_back():  # Rich would write a frame again that it was interrupted in
                    live.update(_frame(named, rows), refresh=True)
                time.sleep(REFRESH_QUEUE_S if any(state.state == "queued" for _, state in rows) else REFRESH_S)
                rows = _rows(named)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        _print(named, rows)


def _frame(named: Named, rows: Rows) -> Group:
    """What fits the terminal of the table, and how many runs are in which state."""
    from resexp.display import state_counts

    room = max(1, out.height - 7)
    kept = sorted(sorted(range(len(rows)), key=lambda i: FIRST.index(rows[i][1].state))[:room])
    columns = list(COLUMNS)
    for spared in ("", *SPARED):
        columns = [column for column in columns if column != spared]
        table = _table(named, [rows[i] for i in kept], columns)
        if fit(table) <= out.width:
            break
    counts = state_counts(Counter(state.state for _, state in rows))
    more = [Text(f"{len(rows) - room:,} more runs")] if len(rows) > room else []
    return Group(table, *more, counts)


def _rows(named: Named) -> Rows:
    """The runs with their states; Slurm's queue knows the runs that are not at work."""
    from resexp.executors.slurm import queued

    rows = [(run, run.status()) for run in named.runs]
    jobs = queued(run for run, state in rows if state.state in ("pending", "interrupted"))
    for run, state in rows:
        if run.folder in jobs:
            state.state, state.message = "queued", f"Slurm job {jobs[run.folder]}"
    return rows


def _table(named: Named, rows: Rows, columns: tuple[str, ...] | list[str]) -> Table:
    from resexp.display import duration, percent, speed, state_text

    table = titled(str(named.study.folder), *columns, left=("run", "state"))
    for run, state in rows:
        cells: dict[str, str | Text] = {
            "run": run.name,
            "state": state_text(state.state, f"queued ({state.message})" if state.state == "queued" else ""),
            "step": f"{state.step:,}/{state.steps:,}" if state.steps else "",
            "train": percent(state.train_error),
            "clean": percent(state.clean_train_error),
            "test": percent(state.test_error),
            "speed": speed(state) if state.state == "running" else "",
            "left": duration(state.eta),
        }
        table.add_row(*(cells[column] for column in columns))
    return table
