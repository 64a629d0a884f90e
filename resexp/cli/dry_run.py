"""`--dry-run`: the runs of a study, their time and disk estimated from earlier runs, and whether inputs are missing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from resexp.cli.console import MIB, make_table, print_line, print_table
from resexp.display import clock, state_text
from resexp.errors import UserError
from resexp.utils.machine import cores
from resexp.utils.text import counted

if TYPE_CHECKING:
    from resexp.config import Study
    from resexp.config.study import RunSpec
    from resexp.runs.earlier import Earlier


FoundT = TypeVar("FoundT")


def show(
    study: Study, cells: Sequence[RunSpec], results: Path, *, rerun: Sequence[RunSpec] = (), retry_failed: bool
) -> None:
    """Show the runs with their estimated time, then the sums, then what is wrong with data and weights."""
    from resexp.data import open_dataset
    from resexp.runs.earlier import cost_key, earlier_runs
    from resexp.runs.records import Status
    from resexp.runs.store import Run

    rows = []
    known = earlier_runs(results)
    found: list[tuple[Earlier, float]] = []
    unknown = 0
    for cell in cells:
        status = Status() if cell in rerun else Run(results / study.name / cell.config.folder).status()
        time = ""
        seed, steps = str(cell.config.seed), f"{cell.config.train.steps:,}"
        if status.is_due(retry_failed):
            if earlier := known.get(cost_key(cell.config)):
                seconds = earlier.seconds_per_step * (cell.config.train.steps - status.step)
                found.append((earlier, seconds))
                time = clock(seconds)
            else:
                unknown, time = unknown + 1, "unknown"
        rows.append((cell.label, seed, steps, state_text(status.state), time, str(cell.config.folder)))
    columns = ("net", "seed", "steps", "state", "time", "folder")
    title = f"{study.name}: {counted(len(cells), 'run')}"
    print_table(make_table(title, columns, rows, left=("net", "state", "folder")))
    if found:
        _print_sums(study, found, unknown, results)
    elif unknown:
        print_line("time and disk: unknown, for no run of these nets has finished here")
    for data in dict.fromkeys(cell.config.data for cell in cells):
        if (dataset := _try("data", partial(open_dataset, data))) is None:
            continue
        for cell in (cell for cell in cells if cell.config.data == data):
            if cell not in rerun:
                run = Run(results / study.name / cell.config.folder)
                _try(cell.label, partial(run.check_data, dataset.fingerprint))
            if cell.config.train.init_from:
                from resexp.training.warm_start import check_start  # imports torch

                _try("train.init_from", partial(check_start, cell.config, dataset.fingerprint))


def _print_sums(study: Study, found: list[tuple[Earlier, float]], unknown: int, results: Path) -> None:
    """Print time and disk of the runs with an earlier one of their kind, and the number of those without."""
    devices = sorted({earlier.device for earlier, _ in found})
    total = sum(seconds for _, seconds in found)
    parts = [f"time: {clock(total)} for {counted(len(found), 'run')}, as earlier ones took on {', '.join(devices)}"]
    if study.executor.name == "local" and all(device.endswith(" cpu") for device in devices):
        processes = min(study.executor.jobs or cores(), len(found))
        longest = max(seconds for _, seconds in found)
        parts.append(f"about {clock(max(total / processes, longest))} in all with {processes} at a time")
    if unknown:
        parts.append(f"unknown for {counted(unknown, 'run')}")
    print_line("; ".join(parts))
    there = next(folder for folder in (results.absolute(), *results.absolute().parents) if folder.exists())
    needed, free = sum(earlier.size for earlier, _ in found), shutil.disk_usage(there).free
    print_line(f"disk: {needed / MIB:,.1f} MiB for {counted(len(found), 'run')}; {free / MIB:,.0f} MiB are free")


def _try(key: str, check: Callable[[], FoundT]) -> FoundT | None:
    """What `check` returns. If it finds something wrong with a key of the study, say that training would stop there."""
    try:
        return check()
    except UserError as error:
        print_line(f"{key}: {error}; training would stop there")
        return None
