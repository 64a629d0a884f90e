"""A run dies at every single thing it does to its files, and half-way through every write."""

from __future__ import annotations

import fcntl
import functools
import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from resexp.config import ProbesConfig
from resexp.runs.store import Run
from resexp.training.train import train
from tests.faults.operations import frozen_at, in_a_process, killed_at, operations_of, thaw
from tests.test_training import after, assert_same, tiny

Survived = Callable[..., None]

ALL_THERE_IS = {
    "data": {"split": "holdout"},
    "train": {
        "warmup_lr": 0.02, "warmup_until_error": 0.95, "precise_bn_images": 100, "log_every": 2, "checkpoint_steps": 4,
        "checkpoint_seconds": 1000.0,
    },
}  # fmt: skip
"""A run that keeps all that a run can keep; the clock has little to say in what it does, and when."""


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


def prepare(folder: Path, before: Callable[[Run], None]) -> tuple[Run, list[str], Iterator[Run]]:
    """A run that nothing disturbed, what one that is as `before` left it does to its files, and copies of that one."""
    whole, origin = make(folder / "whole"), make(folder / "origin")
    assert in_a_process(lambda: train(whole)) == 0
    assert in_a_process(lambda: before(origin)) == 0

    def copy(number: int) -> Run:
        run = Run(folder / f"copy{number}" / origin.folder.relative_to(folder / "origin"))
        shutil.copytree(origin.folder, run.folder)
        return run

    first, *others = (functools.partial(copy, number) for number in range(1000))
    run = first()
    operations = operations_of(lambda: train(run), run.folder, folder / "operations")
    return whole, operations, (other() for other in others)


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.faults), 29])
@pytest.mark.parametrize("before", [begun, stopped, damaged])
def test_a_run_that_dies_at_any_operation_equals_an_undisturbed_one(
    tmp_path: Path, before: Callable[[Run], None], every: int, survived: Survived
) -> None:
    whole, operations, copies = prepare(tmp_path, before)
    kills, run = 0, next(copies)
    while killed_at(lambda run=run: train(run), run.folder, 1 + kills * every):
        kills += 1
        assert_readable(run)
        assert in_a_process(lambda run=run: train(run)) == 0
        assert_nothing_lost(run, whole)
        shutil.rmtree(run.folder)
        run = next(copies)
    assert kills > 0.9 * len(operations) / every  # on a busy machine a run tells more often how far it is
    survived(f"SIGKILL at each operation of a run {before.__name__}", kills)


def on_host(name: str, run: Run) -> None:
    """Train on a machine of that name, whose locks hold nothing for other machines."""
    fcntl.flock = lambda *_: None
    os.uname = lambda: os.uname_result(("Linux", name, "", "", "x86_64"))
    train(run)


def content(run: Run) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


def newest_claim(run: Run) -> str:
    return max((path.name for path in run.folder.glob(".attempt-*")), default="")


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.faults), 59])
@pytest.mark.parametrize("before", [begun, stopped, damaged])
def test_an_attempt_frozen_anywhere_can_not_write_when_another_has_taken_over(
    tmp_path: Path, before: Callable[[Run], None], every: int, survived: Survived
) -> None:
    """On a file system without flock. The other one is in the midst of its work when the frozen one comes back."""
    whole, operations, copies = prepare(tmp_path, before)
    chance, fatal = random.Random(0), range(1, len(operations) + 1, every)
    for number, run in zip(fatal, copies, strict=False):
        lease = newest_claim(run)
        frozen = frozen_at(lambda run=run: on_host("here", run), run.folder, number)
        has_claim = newest_claim(run) > lease
        for folder in run.folder.glob(".attempt-*"):
            os.utime(folder, (0, 0))  # it is frozen for longer than an attempt elsewhere is waited for
        other = frozen_at(
            lambda run=run: on_host("there", run), run.folder, chance.randint(len(operations) // 2, len(operations))
        )
        seen = content(run)
        thaw(frozen)
        assert not has_claim or content(run) == seen, operations[number - 1]
        thaw(other)
        if run.status().state != "finished":  # frozen before it had a lease, it has taken over from the other
            assert not has_claim, operations[number - 1]
            assert in_a_process(lambda run=run: train(run)) == 0
        assert_nothing_lost(run, whole)
        shutil.rmtree(run.folder)
    survived("SIGSTOP at each operation, taken over, SIGCONT", len(fatal))
