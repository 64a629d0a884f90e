"""A run dies at every single thing it does to its files, and half-way through every write."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resexp.config import ProbesConfig
from resexp.store import Run
from resexp.training.train import train
from tests.faults.operations import in_a_process, killed_at, operations_of
from tests.test_training import after, assert_same, tiny

Survived = Callable[..., None]

ALL_THERE_IS = {
    "data": {"split": "holdout"},
    "train": {
        "warmup_lr": 0.02, "warmup_until": 0.95, "bn_images": 100, "log_every": 2, "checkpoint_steps": 4,
        "checkpoint_seconds": 1000.0,
    },
}  # fmt: skip
"""A run that keeps all that a run can keep; what it does, and in which order, does not depend on the clock."""


def make(folder: Path) -> Run:
    config = tiny(**ALL_THERE_IS).model_copy(update={"probes": ProbesConfig(signals=(0, 6, -1))})
    run = Run(folder / config.folder)
    run.create(config)
    return run


def begun(run: Run) -> None:
    """A run that is to begin."""


def stopped(run: Run) -> None:
    """A run that is to go on, behind its last checkpoint."""
    train(run, stop=after(6))
    with run.metrics_path.open("ab") as metrics:
        metrics.write(b'{"event": "train", "step": 7')


def damaged(run: Run) -> None:
    """A run that is to go on, from the checkpoint before the last, which is damaged."""
    train(run, stop=after(6))
    train(run, stop=after(3))
    run.checkpoint_path.write_bytes(run.checkpoint_path.read_bytes()[:1000])


def assert_nothing_lost(run: Run, whole: Run) -> None:
    assert_same(run, whole)
    assert [without_clock(run, step) for step in (0, 6, 12)] == [without_clock(whole, step) for step in (0, 6, 12)]
    assert run.status().state == "finished"
    assert what_lies_in(run) == what_lies_in(whole)
    manifest = run.manifest()
    assert manifest is not None
    begins = [attempt.from_step for attempt in manifest.attempts]
    assert begins == sorted(begins)
    assert manifest.attempts[-1].to_step == 12


def without_clock(run: Run, step: int) -> dict[str, Any]:
    return run.probes("signals")[step] | {"seconds": 0}


def what_lies_in(run: Run) -> set[str]:
    """All but the folder of the attempt, whose number tells how many there were."""
    assert len(list(run.folder.glob(".attempt-*"))) == 1
    assert not any(any(path.iterdir()) for path in run.folder.glob(".attempt-*"))
    return {path.name for path in run.folder.rglob("*") if not path.name.startswith(".attempt-")}


def assert_readable(run: Run) -> None:
    """Whatever was killed when, status and report can read what is there."""
    run.status()
    run.manifest()
    steps = [(record["event"], record["step"]) for record in run.metrics()]
    assert len(steps) == len(set(steps))


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.faults), 29])
@pytest.mark.parametrize("before", [begun, stopped, damaged])
def test_a_run_that_dies_at_any_operation_equals_an_undisturbed_one(
    tmp_path: Path, before: Callable[[Run], None], every: int, survived: Survived
) -> None:
    whole, origin = make(tmp_path / "whole"), make(tmp_path / "origin")
    assert in_a_process(lambda: train(whole)) == 0
    assert in_a_process(lambda: before(origin)) == 0
    copies = iter(tmp_path / f"copy{number}" for number in range(10_000))

    def another() -> Run:
        run = Run(next(copies) / origin.folder.relative_to(tmp_path / "origin"))
        shutil.copytree(origin.folder, run.folder)
        return run

    undisturbed = another()
    operations = operations_of(lambda: train(undisturbed), undisturbed.folder, tmp_path / "operations")
    fatal = range(1, len(operations) + 1, every)
    for number in fatal:
        run = another()
        killed_at(lambda run=run: train(run), run.folder, number)
        assert_readable(run)
        assert in_a_process(lambda run=run: train(run)) == 0, operations[number - 1]
        assert_nothing_lost(run, whole)
        shutil.rmtree(run.folder)
    survived(f"SIGKILL at each operation of a run {before.__name__}", len(fatal))
