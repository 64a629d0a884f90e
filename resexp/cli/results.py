"""`resexp list`, `status` and `rm`: the studies in the results folder."""

from __future__ import annotations

import shutil
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from itertools import starmap
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.text import Text, TextType

from resexp.cli.console import MIB, fit, make_table, out, print_json, print_line, print_table, warn
from resexp.cli.options import RESULTS, AsJson, Results, names
from resexp.display import clock, percent, speed, state_counts, state_text
from resexp.errors import UserError, sanitize
from resexp.utils.files import locked
from resexp.utils.interrupts import held_back
from resexp.utils.text import counted, listed

if TYPE_CHECKING:
    from rich.table import Table

    from resexp.runs.names import Selection
    from resexp.runs.records import Status
    from resexp.runs.store import Run, StudyFolder

    Rows = list[tuple[Run, Status]]

REFRESH_S, REFRESH_QUEUE_S = 2.0, 5.0
"""Seconds between refreshes: as a rule, and where each one queries Slurm's queue."""
COLUMNS = ("run", "state", "step", "train", "clean", "test", "speed", "left")
SPARED = ("speed", "clean", "test", "step")
"""Columns that are left out while a narrow terminal is redrawn, in this order."""
FIRST = ("running", "failed", "diverged", "interrupted", "queued", "pending", "finished")
"""Which runs a low terminal is shown."""
NAMED = 5
"""Runs that a line names."""


def list_studies(as_json: AsJson = False, results: Results = RESULTS) -> None:
    """List the studies of the package, and those in the results folder with the states of their runs."""
    from resexp.config.study import SHIPPED, find_study, load, shipped_names
    from resexp.config.yaml_file import read
    from resexp.runs.store import study_folders

    shipped: list[dict[str, Any]] = []
    for name in shipped_names():
        raw = read(SHIPPED / f"{name}.yaml", find_study).data
        needs = raw.get("plugins", [])  # their code is not run to list them
        runs = None if needs else len(load(name)[1])
        shipped.append({"study": name, "runs": runs, "description": raw.get("description", ""), "plugins": needs})
    kept = []
    for study in study_folders(results):
        try:
            kept.append(_kept(study))
        except UserError as error:
            warn(error)
        except OSError as error:
            warn(f"{error.filename}: {error.strerror}")
    if as_json:
        print_json({"shipped": shipped, "results": kept})
        return
    rows: list[tuple[TextType, ...]] = []
    for row in shipped:
        needs = f" Needs --plugin {' '.join(row['plugins'])}." if row["plugins"] else ""
        rows.append((row["study"], "" if row["runs"] is None else f"{row['runs']:,}", row["description"] + needs))
    print_table(make_table("shipped", ("study", "runs", "what it trains"), rows, left=("study", "what it trains")))
    if not kept:
        print_line(f"{results}: no study here yet; run `resexp sweep STUDY`")
        return
    rows = []
    for row in kept:
        changed = datetime.fromisoformat(row["changed"]).astimezone()
        rows.append((sanitize(row["study"]), state_counts(row["states"]), f"{changed:%Y-%m-%d %H:%M}"))
    print_table(make_table(f"{results}", ("study", "runs", "last change"), rows))


def _kept(study: StudyFolder) -> dict[str, Any]:
    """A study of the results folder: the states of its runs, and when one of them last changed, in UTC."""
    runs = study.runs()
    paths = [study.plan_path, *(run.status_path for run in runs)]
    changed = min(time.time(), max(path.stat().st_mtime for path in paths if path.exists()))
    return {
        "study": study.folder.name,
        "folder": str(study.folder),
        "runs": len(runs),
        "states": dict(Counter(run.status().state for run in runs)),
        "changed": datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds"),
    }


def status(
    name: Annotated[
        str | None, names("STUDY", "STUDY, STUDY:NET or STUDY:NET/SEED. Default: the newest study.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Redraw until all runs have ended, or Ctrl-C.")] = False,
    as_json: AsJson = False,
    results: Results = RESULTS,
) -> None:
    """Show the runs of a study: state, step, errors, speed and time left.

    train: training error of the last logged steps (augmented, train mode), and of a finished run the running training
    error. clean: training error in eval mode, without augmentation.
    """
    from resexp.runs.names import open_study, select_runs

    chosen = select_runs(str(open_study(None, results).folder) if name is None else name, results)
    chosen = replace(chosen, runs=list(filter(_is_readable, chosen.runs)))
    if watch:
        if as_json or not out.is_terminal or out.is_dumb_terminal:
            raise UserError("status: --watch redraws a terminal, and this is none or JSON; leave it out")
        _watch(chosen)
        return
    rows = _rows(chosen)
    if as_json:
        records = []
        for run, state in rows:
            stored = state.model_dump(exclude={"traceback"})
            records.append({"run": run.title, "folder": str(run.folder), **stored, "eta": state.eta})
        print_json(records)
    else:
        _print(chosen, rows)


def _is_readable(run: Run) -> bool:
    try:
        run.status()
    except OSError as error:  # such as a colleague's run that only he may read
        warn(f"{run.title}: {error.filename}: {error.strerror}")
        return False
    return True


def _print(chosen: Selection, rows: Rows) -> None:
    print_table(_table(chosen, rows, COLUMNS))
    if chosen.is_study and (line := chosen.study.strays_line()):
        print_line(line)


def _watch(chosen: Selection) -> None:
    """Redraw the table in place until no run is left to train. At the end all of it is printed."""
    rows = _rows(chosen)
    try:
        with Live(console=out, auto_refresh=False, transient=True) as live:
            while any(state.state not in ("finished", "diverged", "failed") for _, state in rows):
                with held_back():  # Rich would write a frame again that it was interrupted in
                    live.update(_frame(chosen, rows), refresh=True)
                time.sleep(REFRESH_QUEUE_S if any(state.state == "queued" for _, state in rows) else REFRESH_S)
                rows = _rows(chosen)
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    finally:
        _print(chosen, rows)


def _frame(chosen: Selection, rows: Rows) -> Group:
    """What fits the terminal of the table, and how many runs are in which state."""
    room = max(1, out.height - 7)
    kept = sorted(sorted(range(len(rows)), key=lambda i: FIRST.index(rows[i][1].state))[:room])
    for spared in range(len(SPARED) + 1):
        columns = [column for column in COLUMNS if column not in SPARED[:spared]]
        table = _table(chosen, [rows[i] for i in kept], columns)
        if fit(table) <= out.width:
            break
    counts = state_counts(Counter(state.state for _, state in rows))
    more = [Text(counted(len(rows) - room, "more run"))] if len(rows) > room else []
    return Group(table, *more, counts)


def _rows(chosen: Selection) -> Rows:
    """The runs with their states; Slurm's queue knows the runs that are not at work."""
    from resexp.executors.slurm import queued

    rows = [(run, run.status()) for run in chosen.runs]
    jobs = queued(run for run, state in rows if state.state in ("pending", "interrupted"))
    for run, state in rows:
        if run.folder in jobs:
            state.state, state.message = "queued", f"Slurm job {jobs[run.folder]}"
    return rows


def _table(chosen: Selection, rows: Rows, columns: Sequence[str]) -> Table:
    def cells(run: Run, state: Status) -> list[TextType]:
        by_column: dict[str, TextType] = {
            "run": run.title,
            "state": state_text(state.state, f"queued ({state.message})" if state.state == "queued" else ""),
            "step": f"{state.step:,}/{state.steps:,}" if state.steps else "",
            "train": percent(state.train_error if state.running_train_error is None else state.running_train_error),
            "clean": percent(state.clean_train_error),
            "test": percent(state.test_error),
            "speed": speed(state) if state.state == "running" else "",
            "left": clock(state.eta),
        }
        return [by_column[column] for column in columns]

    return make_table(str(chosen.study.folder), columns, starmap(cells, rows), left=("run", "state"))


def remove(
    name: Annotated[str, names("STUDY")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Don't ask.")] = False,
    results: Results = RESULTS,
) -> None:
    """Delete the runs of a study, of a net, or one run. A study without runs is deleted, too.

    Runs in progress are kept, as are reports. Whatever lies in the folder of a run is deleted with it.
    """
    from resexp.runs.earlier import size
    from resexp.runs.names import select_runs

    chosen = select_runs(name, results)
    runs, refused = _removable(chosen)
    if refused and not runs:
        raise UserError(*refused)
    mib = sum(size(run.folder) for run in runs) / MIB
    what = f"{counted(len(runs), 'run')} of {chosen.study.folder}, {mib:,.1f} MiB: {_names(runs)}"
    if runs and not yes:
        try:
            typer.confirm(f"{what}\ndelete?", abort=True, err=True)
        except typer.Abort:
            if sys.stdin.isatty():
                raise
            raise UserError("rm: nothing was deleted, for nobody said yes; without a terminal, add --yes") from None
    with locked(chosen.study.lock_path, f"the study in {chosen.study.folder}"):
        if held := [run for run in runs if run.is_held()]:
            raise UserError(f"{_names(held)}: still running, so nothing was deleted; stop first")
        for run in runs:
            run.remove()
        for half in chosen.study.folder.glob("*/.seed*.deleted"):  # of a deletion that was interrupted
            shutil.rmtree(half, ignore_errors=True)
            with suppress(OSError):  # other seeds are there
                half.parent.rmdir()
        chosen.study.drop([run for run in chosen.runs if not run.folder.exists()])
    if chosen.is_study and not chosen.study.runs():
        chosen.study.plan_path.unlink(missing_ok=True)
        for lock in chosen.study.folder.glob(".*lock"):
            lock.unlink()
    with suppress(OSError):  # not empty
        chosen.study.folder.rmdir()
    print_line(f"deleted {what}")
    if chosen.is_study and chosen.study.folder.exists():
        left = sanitize(", ".join(sorted(path.name for path in chosen.study.folder.iterdir())))
        print_line(f"left as they are in {chosen.study.folder}: {left}")
    if refused:
        raise UserError(*refused)


def _removable(chosen: Selection) -> tuple[list[Run], list[str]]:
    """The runs whose folder is one of a run, and a line for each other folder."""
    from resexp.config.study import load_run

    runs: list[Run] = []
    refused: list[str] = []
    for run in [*chosen.runs, *(chosen.study.strays() if chosen.is_study else [])]:
        try:
            if run.folder.is_symlink():
                raise UserError(f"{run.folder}: a link")
            if not run.folder.exists():
                continue  # it was never begun, or somebody deleted it
            if not run.config_path.exists():
                raise UserError(f"{run.folder}: no config.yaml, so it may be no run")
            load_run(run.config_path)
        except UserError as error:
            refused.append(f"{error}; not deleted: delete it by hand")
        else:
            runs.append(run)
    return runs, refused


def _names(runs: list[Run]) -> str:
    return listed([run.title for run in runs], NAMED)
