"""Carrying out a study: lock its folder, decide what is missing, train it, and report how each run ended."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import torch

from resexp.config import DataConfig, ExecutorConfig, RunConfig, Study
from resexp.config.study import RunSpec, load_run
from resexp.data import Dataset, ImageNet, open_dataset
from resexp.device.hardware import choose_device
from resexp.display import Display
from resexp.errors import UserError
from resexp.evaluation.tta import check_views, usual
from resexp.executors import SweepLoop, make_executor
from resexp.executors.base import Executor
from resexp.probes import PROBES
from resexp.runs.records import PlannedRun, StudyPlan
from resexp.runs.store import Run, StudyFolder
from resexp.tracking import Follower
from resexp.training.rehearsal import rehearse
from resexp.training.warm_start import check_start
from resexp.utils.files import locked
from resexp.utils.interrupts import Stop
from resexp.utils.logs import log
from resexp.utils.text import counted


@dataclass
class Outcome:
    """How a sweep went."""

    folder: Path
    finished: int = 0
    skipped: int = 0
    not_started: int = 0
    left_to_executor: int = 0
    """The runs that are queued or at work without us."""
    problems: list[tuple[Run, str]] = field(default_factory=list)
    """The runs that were begun and did not finish, and why."""


def run_folders(study: Study, cells: Sequence[RunSpec], results: Path) -> list[tuple[RunSpec, Run]]:
    """Each cell with its run folder, there or not."""
    return [(cell, Run(results / study.name / cell.config.folder, cell.label)) for cell in cells]


def _devices(configs: Iterable[RunConfig]) -> set[torch.device]:
    """The devices that these runs ask for. Raises UserError if this machine lacks one."""
    return {choose_device(config.train) for config in configs}


def _check_data(chosen: Sequence[tuple[RunSpec, Run]], rerun: Sequence[RunSpec] = ()) -> None:
    """Open the data of the chosen runs, and what they start from, before a folder is made. Raises UserError if they are
    not here, don't suit a run, or differ from those of its earlier attempts, which only cells in `rerun` discard."""
    anew = {cell.config.folder for cell in rerun}
    datasets: dict[DataConfig, Dataset | ImageNet] = {}
    rehearsed, remarks = set[str](), {""}
    for cell, run in chosen:
        data, needed = cell.config.data, cell.config.model.smallest_side
        if data not in datasets:
            datasets[data] = open_dataset(data)
            for line in datasets[data].remarks:
                log.info(line)
        dataset = datasets[data]
        if (side := min(dataset.size)) < needed:
            raise UserError(f"{cell.label}: images of {side} pixels a side, and it needs {needed}; set data.resize")
        for name in cell.config.probes.tta:
            check_views(usual(cell.config, name, dataset.size), cell.config.model, f"{cell.label}: probes.tta")
        if cell.config.plugin_refs and cell.config.signature not in rehearsed:
            if (remark := rehearse(cell.config, *dataset.size, len(dataset.classes))) not in remarks:
                log.info(remark)
                remarks.add(remark)
            rehearsed.add(cell.config.signature)
        if cell.config.train.init_from and (cell.config.folder in anew or run.status().step == 0):
            check_start(cell.config, dataset.fingerprint)
        if cell.config.folder not in anew:
            run.check_data(dataset.fingerprint)
            if run.status().state in ("finished", "diverged") and run.config_path.exists():
                load_run(run.config_path)  # not a copy of another run


def create(study: Study, cell: RunSpec, results: Path) -> Run:
    """The run folder of one cell, recorded in its study."""
    _devices([cell.config])
    chosen = run_folders(study, [cell], results)
    _check_data(chosen)
    ((_, run),) = chosen
    run.create(cell.config)
    StudyFolder(results / study.name).add_to_plan(_make_plan(study, [cell]))
    _log_missing_probes(chosen)
    return run


def _log_missing_probes(chosen: Sequence[tuple[RunSpec, Run]]) -> None:
    """Name the probes that finished runs lack, since they were added to the study after the training."""
    lacking: dict[str, set[Path]] = {}
    for cell, run in chosen:
        probes, steps = cell.config.probes, cell.config.train.steps
        wanted = [(name, step) for step, names in probes.due(steps).items() for name in names]
        wanted = [(name, step) for name, step in wanted if not PROBES[name].why_not(cell.config.model)]
        wanted += [(name, steps) for name in probes.tta]
        if wanted and run.status().state == "finished":
            for name, step in wanted:
                if not run.probe_path(name, step).exists():
                    lacking.setdefault(name, set()).add(run.folder)
    if lacking:
        runs = counted(len(set.union(*lacking.values())), "finished run")
        names = ", ".join(lacking)
        log.info(f"{runs} without probes that were added to the study later: {names}; see `resexp probe --help`")


def sweep(
    study: Study,
    cells: list[RunSpec],
    chosen: list[RunSpec],
    results: Path,
    *,
    rerun: Sequence[RunSpec] = (),
    retry_failed: bool = False,
    fail_fast: bool = False,
    stop: Stop,
    display: Display,
    wait: bool = True,
    trackers: Sequence[str] = (),
) -> Outcome:
    """Train what is missing of the `chosen` cells of a study; unless asked to `wait`, leave it to its executor.

    Skips finished and diverged runs and, without `retry_failed`, failed ones.
    Cells in `rerun` restart at step 0; their results are deleted once data and devices have been checked.
    Metrics go to the `trackers` as they are written.
    Raises UserError before a run folder is made if the study can't be run here, or is being swept by another process.
    """
    folder = StudyFolder(results / study.name)
    with locked(folder.lock_path, f"the study in {folder.folder}"):
        chosen_runs = run_folders(study, chosen, results)
        here = study.executor.name in ("local", "debug")
        devices = _devices(cell.config for cell in chosen) if here else set()
        _check_data(chosen_runs, rerun)
        executor = make_executor(study.executor, devices)
        rerun_runs = [run for _, run in run_folders(study, rerun, results)]
        if held := next((run for run in rerun_runs if run.is_held()), None):
            raise UserError(f"{held.title}: is running; stop it first (nothing was deleted)")
        for run in rerun_runs:
            run.clear()
        for cell, run in run_folders(study, cells, results):
            run.create(cell.config)
        folder.write_plan(_make_plan(study, cells))
        if line := folder.strays_line():
            log.info(line)
        _log_missing_probes(chosen_runs)
        return train_all(
            executor, study.executor, folder.folder, [(run, cell.config.cost) for cell, run in chosen_runs],
            retry_failed=retry_failed, fail_fast=fail_fast, stop=stop, display=display, wait=wait, trackers=trackers,
        )  # fmt: skip


def train_runs(runs: Sequence[Run], *, runs_per_gpu: int | None = None, stop: Stop, display: Display) -> Outcome:
    """Train existing run folders on this machine, as far as they are not finished.

    Raises UserError if this machine lacks the device that one of them asks for.
    """
    folder = Path(os.path.commonpath([run.folder.absolute().parents[1] for run in runs]))
    executor_config = ExecutorConfig(runs_per_gpu=runs_per_gpu)
    configs = [load_run(run.config_path) for run in runs]
    executor = make_executor(executor_config, _devices(configs))
    todo = [(run, config.cost) for run, config in zip(runs, configs, strict=True)]
    return train_all(executor, executor_config, folder, todo, retry_failed=True, stop=stop, display=display)


def train_all(
    executor: Executor,
    config: ExecutorConfig,
    folder: Path,
    runs: Sequence[tuple[Run, float]],
    *,
    retry_failed: bool,
    fail_fast: bool = False,
    stop: Stop,
    display: Display,
    wait: bool = True,
    trackers: Sequence[str] = (),
) -> Outcome:
    """Train run folders, each given with its cost, as far as they are not finished; all are in `folder`. See `sweep`
    for the rest."""
    outcome, todo = Outcome(folder), list[tuple[Run, float]]()
    for run, cost in runs:
        status = run.status()
        if status.state == "finished":
            outcome.skipped += 1
        elif status.is_due(retry_failed):
            todo.append((run, cost))
        else:
            outcome.problems.append((run, why_unfinished(run)))
    with display.sweep(todo, outcome.skipped), closing(Follower(folder, trackers)) as follower:

        def on_ended(run: Run, error: str) -> bool:
            problem = why_unfinished(run, error)
            if problem:
                outcome.problems.append((run, problem))
            else:
                outcome.finished += 1
            display.ended(run, problem)
            follower.ended(run)
            return not problem

        def tick(running: list[Run]) -> None:
            display.update(running)
            follower.update(running)

        loop = SweepLoop(executor, config, fail_fast=fail_fast, stop=stop, tick=tick, on_ended=on_ended)
        outcome.left_to_executor = loop.train(todo, wait=wait)
    settled = outcome.skipped + outcome.finished + len(outcome.problems)
    outcome.not_started = len(runs) - settled - outcome.left_to_executor
    return outcome


def _make_plan(study: Study, cells: list[RunSpec]) -> StudyPlan:
    runs = [PlannedRun(folder=str(cell.config.folder), label=cell.label) for cell in cells]
    return StudyPlan(name=study.name, description=study.description, margin=study.report.margin, runs=runs)


def why_unfinished(run: Run, error: str = "") -> str:
    """Why the run is not finished, in one line; empty if it is. `error` is used where the folder does not have one."""
    status = run.status()
    if status.state == "finished":
        return ""
    what = status.message or "the worker exited without an error message; see log.txt"
    if error and status.state != "failed" and " ".join(error.split()) != status.message:
        what = f"{error}; the same command continues"
    return f"{status.state} at step {status.step}: {what}"
