"""Carrying out a study: lock its folder, decide what is missing, train it, and say how each run ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from resexp.config import DataConfig, Study
from resexp.data import open_dataset
from resexp.display import Display
from resexp.errors import UserError
from resexp.executors import local, schedule
from resexp.executors.schedule import Job
from resexp.files import locked
from resexp.machine import cores
from resexp.records import Plan, PlannedRun
from resexp.signals import Stop
from resexp.store import Run, StudyFolder
from resexp.study import Cell
from resexp.training import hardware


@dataclass
class Outcome:
    """How a sweep went."""

    folder: Path
    finished: int = 0
    skipped: int = 0
    not_started: int = 0
    problems: list[tuple[Run, str]] = field(default_factory=list)
    """The runs that were begun and did not finish, and why."""


def plan(study: Study, cells: list[Cell], results: Path) -> list[tuple[Cell, Run]]:
    """Each cell with its run folder, there or not."""
    return [(cell, Run(results / study.name / cell.config.folder, cell.label)) for cell in cells]


def prepare(chosen: Sequence[tuple[Cell, Run]], say: Callable[[str], None]) -> set[torch.device]:
    """Open the data of the chosen runs and find their devices, before a folder is made.

    Raises UserError where this machine has not what a run asks for, or has other data than the run was begun on.
    """
    devices = {hardware.choose_device(cell.config.train) for cell, _ in chosen}
    fingerprints: dict[DataConfig, str] = {}
    sides: dict[DataConfig, int] = {}
    for cell, run in chosen:
        data = cell.config.data
        if data not in fingerprints:
            dataset = open_dataset(data, say)
            fingerprints[data] = dataset.fingerprint
            sides[data] = min(dataset.train()[0].shape[1:3])
        if sides[data] < cell.config.model.smallest_side:
            raise UserError(
                f"{cell.label}: images of {sides[data]} pixels a side, and it needs {cell.config.model.smallest_side}; "
                f"set data.resize"
            )
        before = run.manifest()
        if before and before.data.fingerprint != fingerprints[data]:
            raise UserError(
                f"{run.folder}: begun on other data (fingerprint {before.data.fingerprint}, now {fingerprints[data]}); "
                f"give the study another name, or delete the folder"
            )
    return devices


def create(study: Study, cell: Cell, results: Path, say: Callable[[str], None]) -> Run:
    """The run folder of one cell, recorded in its study."""
    ((_, run),) = chosen = plan(study, [cell], results)
    prepare(chosen, say)
    run.create(cell.config)
    StudyFolder(results / study.name).add_to_plan(study.name, study.description, _planned(cell))
    return run


def sweep(
    study: Study,
    cells: list[Cell],
    chosen: list[Cell],
    results: Path,
    *,
    jobs: int | None,
    pack: int | None,
    retry_failed: bool,
    fail_fast: bool,
    stop: Stop,
    display: Display,
) -> Outcome:
    """Train what is missing of the `chosen` cells of a study.

    Finished and diverged runs are left alone, failed ones too unless `retry_failed`; the others are begun or continued.
    Raises UserError before a run folder is made if the study can't be run here, or is being swept by another process.
    """
    folder = StudyFolder(results / study.name)
    with locked(folder.lock_path, f"the study in {folder.folder}"):
        devices = prepare(plan(study, chosen, results), display.say)
        outcome = Outcome(folder.folder)
        for cell, run in plan(study, cells, results):
            run.create(cell.config)
        runs = [_planned(cell) for cell in cells]
        folder.write_plan(Plan(name=study.name, description=study.description, runs=runs))
        todo: list[tuple[Run, float]] = []
        for cell, run in plan(study, chosen, results):
            state = run.status().state
            if state == "finished":
                outcome.skipped += 1
            elif state == "diverged" or (state == "failed" and not retry_failed):
                outcome.problems.append((run, describe(run)))
            else:
                todo.append((run, cell.config.cost))
        ran = 0

        def ended(run: Run, code: int, said: str) -> bool:
            nonlocal ran
            ran += 1
            problem = describe(run, code, said)
            if problem:
                outcome.problems.append((run, problem))
            else:
                outcome.finished += 1
            display.ended(run, problem)
            return not problem

        with display.sweep(todo, outcome.skipped):
            if pack and all(device.type == "cpu" for device in devices):
                display.say("--pack is for GPUs; on CPU cores every run has a process of its own")
            plan_of_jobs, capacity = _jobs(todo, devices, jobs, pack)
            local.train_all(
                plan_of_jobs,
                capacity=capacity,
                fail_fast=fail_fast,
                stop=stop,
                say=display.say,
                tick=display.update,
                ended=ended,
            )
        outcome.not_started = len(todo) - ran
    return outcome


def _jobs(
    todo: list[tuple[Run, float]], devices: set[torch.device], jobs: int | None, pack: int | None
) -> tuple[list[Job], int]:
    """The processes to start, and how many cores (or processes with a device) there are room for."""
    left = [(run, cost * (1 - run.status().share)) for run, cost in todo]
    if all(device.type == "cpu" for device in devices):
        return schedule.on_cores(left, cores(), jobs), jobs or cores()
    # A device that was named is not shared out, and only CUDA has a stream for every run.
    named = any(device.index is not None or device.type == "mps" for device in devices)
    gpus = [None] if named else local.visible_gpus()
    processes = jobs or len(gpus)
    pack = 1 if any(device.type == "mps" for device in devices) else pack
    return schedule.on_gpus(left, gpus, processes, pack), processes


def _planned(cell: Cell) -> PlannedRun:
    return PlannedRun(folder=str(cell.config.folder), label=cell.label)


def describe(run: Run, code: int = 0, said: str = "") -> str:
    """Why the run is not finished, in one line; empty if it is.

    `code` is what its process exited with, `said` what it said went wrong, should the folder not hold it.
    """
    status = run.status()
    if status.state == "finished":
        return ""
    if code < 0:
        return f"its process was killed by signal {-code} at step {status.step}; the same command continues"
    return f"{status.state} at step {status.step}: {status.message or said}"
