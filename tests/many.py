"""A study of any number of finished runs, as a sweep leaves it: one is really trained, and its folder multiplied."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import yaml

from resexp.config.study import RunSpec, load
from resexp.runs import logits
from resexp.runs.logits import Logits
from resexp.runs.records import Manifest, PlannedRun, Status, StudyPlan, running_error
from resexp.runs.store import Run, StudyFolder
from resexp.training.train import train
from tests.conftest import TINY

DEPTHS = [8, 14, 20, 26, 32]


def write_study(folder: Path, rates: int, seeds: int, lines: int) -> Path:
    """A study file for plain and residual nets of five depths, at so many learning rates and from so many seeds, whose
    metrics have `lines` lines of running errors."""
    train: dict[str, Any] = dict(TINY["train"])  # type: ignore[call-overload]
    study = {
        **TINY,
        "name": "many",
        "train": {**train, "steps": 100 * lines, "log_every": 100, "eval_every": 4000},
        "grid": {
            "model.kind": ["plain", "residual"],
            "model.depth": DEPTHS,
            "train.lr": [0.1 / (1 + i) for i in range(rates)],
        },
        "seeds": list(range(seeds)),
    }
    return write_yaml(folder / "many.yaml", study)


def write_yaml(path: Path, study: dict[str, Any]) -> Path:
    """A study file."""
    path.write_text(yaml.safe_dump(study))
    return path


def finish_study(study: Path, results: Path) -> StudyFolder:
    """The folder of a study file as it is when every run has finished."""
    trained = _trained(results.parent)
    config, cells = load(str(study))
    folder = StudyFolder(results / config.name)
    with mock.patch("os.fsync"):  # a disk takes minutes to sync so many files
        for cell in cells:
            _finish(Run(folder.folder / cell.config.folder), cell, trained)
    runs = [PlannedRun(folder=str(cell.config.folder), label=cell.label) for cell in cells]
    folder.write_plan(StudyPlan(name=config.name, description=config.description, runs=runs))
    return folder


def _trained(folder: Path) -> Run:
    """A run of a few steps."""
    config = load(str(write_yaml(folder / "one.yaml", TINY)))[1][0].config
    run = Run(folder / config.folder)
    run.create(config)
    train(run)
    run.log_path.touch()  # as the process of a sweep does
    return run


def _finish(run: Run, cell: RunSpec, trained: Run) -> None:
    """A run folder as it is at the end, with the weights of another run."""
    manifest, steps = trained.manifest(), cell.config.train.steps
    assert manifest is not None
    said = _logits(cell, logits.read(trained.logits_path))
    lines = _measurements(cell)
    end = {"test_error": said.error, "running_train_error": running_error(lines, cell.config.train.final_from)}
    records = [*lines, {"event": "test", "step": steps, **end, "train_seconds": 3600.0}]
    last: dict[str, Any] = {key: value for record in records for key, value in record.items()}
    run.create(cell.config)
    run.metrics_path.write_text("".join(json.dumps(record) + "\n" for record in records))
    run.write_manifest(Manifest.model_validate({**manifest.model_dump(), "signature": cell.config.signature}))
    run.write_status(Status.model_validate({**last, "state": "finished", "step": steps, "steps": steps}))
    run.logits_path.write_bytes(said.pack())
    for name in ("checkpoint.pt", "checkpoint.prev.pt", "log.txt", ".lock"):
        os.link(trained.folder / name, run.folder / name)


def _measurements(cell: RunSpec) -> list[dict[str, Any]]:
    """Lines of metrics such as a run writes: errors that fall, and rise with the depth of plain nets."""
    train, model = cell.config.train, cell.config.model
    chance = _chance(cell)
    end = 0.1 + (0.005 * model.depth if model.kind == "plain" else 0.0) + chance.normal(0, 0.01)
    steps = range(train.log_every, train.steps + 1, train.log_every)
    errors = end + np.exp(-np.linspace(0, 5, len(steps))) * 0.5 + chance.normal(0, 0.01, len(steps))
    records: list[dict[str, Any]] = []
    for step, error in zip(steps, errors.tolist(), strict=True):
        epoch = step * train.batch_size / 200
        record = {"event": "train", "step": step, "epoch": epoch, "lr": train.lr, "train_loss": 2 * error}
        records.append(record | {"train_error": error, "images_per_second": 6935.1})
        if step % train.eval_every == 0 or step == train.steps:
            records.append({"event": "eval", "step": step, "clean_train_error": error, "clean_train_loss": 2 * error})
    return records


def _logits(cell: RunSpec, like: Logits) -> Logits:
    """Guesses, half of them right, on the images of another run."""
    values = _chance(cell).normal(size=like.values.shape).astype(np.float32)
    values[np.arange(len(values)), like.labels] += 1.3
    return Logits(values, like.labels, like.fingerprint)


def _chance(cell: RunSpec) -> np.random.Generator:
    return np.random.default_rng([cell.config.model.depth, cell.config.seed, round(1e9 * cell.config.train.lr)])
