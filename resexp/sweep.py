"""Carrying out a study: lock its folder, decide what is missing, train it, and say how each run ended."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from resexp.config import Study
from resexp.data import open_dataset
from resexp.errors import UserError
from resexp.executors import local
from resexp.signals import Stop
from resexp.store import Run, StudyFolder, locked
from resexp.study import Cell


class Display(Protocol):
    """What shows a sweep while it runs."""

    def sweep(self, runs: Sequence[tuple[Run, float]], skipped: int) -> AbstractContextManager[None]:
        """Show the sweep of these runs, each with its cost, until the context ends."""

    def update(self, running: list[Run]) -> None:
        """Show where these runs are."""

    def ended(self, run: Run, problem: str) -> None:
        """Show that a run has ended, and the problem if there was one."""

    def say(self, line: str) -> None:
        """Show a line."""


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
    return [(cell, Run(results / study.name / cell.folder)) for cell in cells]


def create(study: Study, cell: Cell, results: Path) -> Run:
    """The run folder of one cell, recorded in its study."""
    run = Run.create(results / study.name / cell.folder, cell.config)
    StudyFolder(results / study.name).add_to_plan(study.name, study.description, cell.folder)
    return run


def sweep(
    study: Study,
    cells: list[Cell],
    chosen: list[Cell],
    results: Path,
    *,
    jobs: int | None,
    retry_failed: bool,
    fail_fast: bool,
    stop: Stop,
    display: Display,
) -> Outcome:
    """Train what is missing of the `chosen` cells of a study.

    Finished and diverged runs are left alone, failed ones too unless `retry_failed`; the others are begun or continued.
    Raises UserError before anything is written if the study can't be run here, or is being swept by another process.
    """
    from resexp.training import hardware  # imports torch, which a refused sweep need not wait for

    folder = StudyFolder(results / study.name)
    with locked(folder.lock_path, f"the study in {folder.folder}"):
        for config in {cell.config.train.device: cell.config.train for cell in chosen}.values():
            hardware.choose(config)
        fingerprints = {
            data: open_dataset(data, display.say).fingerprint for data in {cell.config.data: None for cell in chosen}
        }
        todo: list[tuple[Run, float]] = []
        outcome = Outcome(folder.folder)
        for cell, run in plan(study, cells, results):
            Run.create(run.folder, cell.config)
            if cell not in chosen:
                continue
            _check_data(run, fingerprints[cell.config.data])
            state = run.status().state
            if state in ("finished", "diverged") or (state == "failed" and not retry_failed):
                outcome.skipped += state == "finished"
                if state != "finished":
                    outcome.problems.append((run, describe(run, 0)))
            else:
                todo.append((run, cell.cost))
        folder.write_plan(study.name, study.description, [cell.folder for cell in cells])
        todo.sort(key=lambda item: -item[1])  # longest first, so that none is left alone at the end

        ran = 0

        def ended(run: Run, code: int) -> None:
            nonlocal ran
            ran += 1
            problem = describe(run, code)
            if problem:
                outcome.problems.append((run, problem))
            else:
                outcome.finished += 1
            display.ended(run, problem)

        on_gpu = all(cell.config.train.device != "cpu" for cell in chosen)
        gpus = local.visible_gpus() if on_gpu else []
        with display.sweep(todo, outcome.skipped):
            local.train_all(
                [run for run, _ in todo],
                jobs=jobs or (len(gpus) if gpus else local.cores()),
                gpus=gpus,
                fail_fast=fail_fast,
                stop=stop,
                tick=display.update,
                ended=ended,
            )
        outcome.not_started = len(todo) - ran
    return outcome


def describe(run: Run, code: int) -> str:
    """Why the run is not finished, in one line; empty if it is."""
    status = run.status()
    if status.state == "finished":
        return ""
    if status.state in ("failed", "diverged"):
        return f"{status.state} at step {status.step}: {status.message}"
    if code < 0:
        return f"its process was killed by signal {-code} at step {status.step}; sweep again to continue"
    return f"{status.state} at step {status.step}; sweep again to continue"


def _check_data(run: Run, fingerprint: str) -> None:
    data = run.manifest().get("data")
    if data and data["fingerprint"] != fingerprint:
        raise UserError(
            f"{run.folder}: begun on other data (fingerprint {data['fingerprint']}, now {fingerprint}); give the study "
            f"another name, or delete the folder"
        )
