"""Carrying out probes from outside a training run: of which runs, and what is trained for it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from resexp import yamlfile
from resexp.config import ExecutorConfig, RunConfig, Study, TrainConfig
from resexp.display import Display
from resexp.errors import UserError
from resexp.files import write_atomic
from resexp.signals import Stop
from resexp.store import Run, StudyFolder
from resexp.study import Cell, load, load_run, validated
from resexp.sweep import create, sweep
from resexp.training.handed import check


@dataclass(frozen=True)
class Target:
    """A run to look at, and in which state."""

    run: Run
    initial: bool
    """Before training, rather than as its last checkpoint has it."""


def targets(
    names: list[str], *, initial: bool, settings: list[str], results: Path, say: Callable[[str], None]
) -> list[Target]:
    """The runs that the user named: run folders, study folders, or study files, whose nets are not trained for it.

    Raises UserError for anything else.
    """
    found = []
    for name in names:
        path = Path(name)
        if (path / "config.yaml").exists():
            found.append(Target(Run(path), initial))
        elif (path / "study.json").exists():
            runs = StudyFolder(path).runs()
            begun = runs if initial else [run for run in runs if run.checkpoint_path.exists()]
            if not begun:
                raise UserError(f"{path}: no run has a checkpoint yet; train some, or add --at-init for untrained nets")
            found += [Target(run, initial) for run in begun]
        elif path.is_dir():
            raise UserError(f"{path}: neither a run folder (config.yaml) nor a study folder (study.json)")
        else:
            study, cells = load(name, settings)
            found += [Target(create(study, cell, results, say), True) for cell in cells]
            continue
        if settings:
            raise UserError(f"{path}: --set goes with a study file; a run has its configuration in config.yaml")
    return found


def finished_runs(names: list[str]) -> list[Run]:
    """The runs in the run and study folders that the user named; of a study, those that have finished."""
    found = []
    for name in names:
        path = Path(name)
        if (path / "config.yaml").exists():
            found.append(Run(path))
        elif (path / "study.json").exists():
            found += [run for run in StudyFolder(path).runs() if run.status().state == "finished"]
        else:
            raise UserError(f"{path}: neither a run folder (config.yaml) nor a study folder (study.json)")
    return found


def hand_on(
    start: Run, depth: int, settings: list[str], results: Path, *, jobs: int | None, stop: Stop, display: Display
) -> tuple[Path, dict[str, Any] | None]:
    """Train a deeper net that begins as the finished run `start` with identity blocks inserted, and one that begins
    anew, by the same recipe: a study of two runs (He et al. 2015, section 1).

    Returns the study's folder, and what came of it; None where the runs did not both finish. Raises UserError where it
    can't be done.
    """
    shallow = load_run(start.config_path)
    recipe = shallow.model_dump(mode="json")
    recipe["train"]["init_from"] = None
    if shallow.train.milestones == TrainConfig(steps=shallow.train.steps).milestones:
        del recipe["train"]["milestones"]  # they follow from the steps, which --set may change
    overrides = yamlfile.overrides([*settings, f"model.depth={depth}"])
    fresh = validated(RunConfig, yamlfile.merge(yamlfile.Document(recipe), overrides))
    continued = fresh.model_copy(update={"train": fresh.train.model_copy(update={"init_from": str(start.folder)})})
    check(start, fresh)
    net = f"{fresh.model.kind}-{depth}"
    study = Study(
        name=f"identity-{start.folder.absolute().parent.name}-seed{shallow.seed}-to-{fresh.folder.parent.name}",
        description=f"{start.name}, and nets of {depth} layers: handed what it learnt, and fresh.",
        seeds=(fresh.seed,),
        executor=ExecutorConfig(jobs=jobs),
    )
    cells = [Cell(f"{net}-continued", continued), Cell(f"{net}-fresh", fresh)]
    sweep(
        study, cells, cells, results,
        retry_failed=False, fail_fast=False, stop=stop, display=display,
    )  # fmt: skip
    folder = StudyFolder(results / study.name)
    runs = [Run(folder.folder / cell.config.folder, cell.label) for cell in cells]
    if any(run.status().state != "finished" for run in runs):
        return folder.folder, None
    record = {**runs[0].probes("identity")[0], "kind": fresh.model.kind, "depth": depth, "from": start.name}
    for part, run in zip(("continued", "fresh"), runs, strict=True):
        record[part] = {
            "run": str(run.folder.relative_to(folder.folder)),
            "label": run.label,
            "clean_train_error": run.status().clean_train_error,
            "test_error": run.status().test_error,
        }
    path = folder.folder / "probes" / "identity.json"
    path.parent.mkdir(exist_ok=True)
    write_atomic(path, json.dumps(record))
    return folder.folder, record
