"""Sweeps whose processes are killed at random moments, again and again, until they have finished all the same."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from resexp.config.study import load
from resexp.runs.store import Run
from resexp.sweeping import run_folders
from tests.conftest import TINY
from tests.faults.processes import Sweep, descendants, kill
from tests.test_training import assert_same

KILLS = int(os.environ.get("RESEXP_FAULT_KILLS", "240"))
"""In all, in the long mode."""
ROUNDS = 8

STUDY = TINY | {
    "grid": {"model.kind": ["plain", "residual"], "model.depth": [8, 14]},
    "train": {"steps": 240, "batch_size": 32, "log_every": 1, "eval_every": 40, "device": "cpu", "checkpoint_steps": 8},
    "data": {**TINY["data"], "split": "holdout"},  # type: ignore[dict-item]
    "probes": {"signals": [120, -1]},
}
VICTIMS = ("a worker", "a worker", "all workers", "the sweep", "everything")


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Run]]:
    """The study file, and its runs as they are when nothing goes wrong."""
    folder = tmp_path_factory.mktemp("undisturbed")
    study = folder / "tiny.yaml"
    study.write_text(yaml.safe_dump(STUDY))
    sweep = Sweep(study, folder)
    assert sweep.process.wait() == 0, sweep.said()
    return study, runs_of(study, folder)


def runs_of(study: Path, results: Path) -> list[Run]:
    return [run for _, run in run_folders(*load(str(study)), results)]


class Killer:
    """Kills what it gets hold of, and watches that what is finished is left alone."""

    def __init__(self, study: Path, results: Path, chance: random.Random) -> None:
        self.study, self.results, self.chance = study, results, chance
        self.runs = runs_of(study, results)
        self.kills = 0
        self.finished: dict[str, dict[str, int]] = {}

    def run_to_completion(self, most: int) -> None:
        """Sweep until all is finished, with `most` kills on the way."""
        while True:
            sweep = Sweep(self.study, self.results, "--jobs", 2)
            while self.kills < most and not sweep.ended:
                if self.chance.random() < 0.8:  # else it dies at any time, while it imports torch most likely
                    self._wait_for_progress(sweep)
                if not sweep.ends_within(self.chance.uniform(0, 1.2)):
                    self._strike(sweep)
            said = sweep.said()
            self._look()
            if sweep.process.returncode == 0:
                return
            assert sweep.process.returncode in (-9, 1), said

    def _wait_for_progress(self, sweep: Sweep) -> None:
        before = [lines(run) for run in self.runs]
        while [lines(run) for run in self.runs] == before and not sweep.ends_within(0.01):
            pass

    def _strike(self, sweep: Sweep) -> None:
        workers = sweep.workers(self.runs)
        victim = self.chance.choice(VICTIMS)
        if "worker" in victim and not workers:
            return
        if victim == "a worker":
            kill(self.chance.choice(workers))
        elif victim == "all workers":
            kill(*workers)
        elif victim == "the sweep":
            kill(sweep.process.pid)
        else:
            kill(*descendants(sweep.process.pid), sweep.process.pid)
        self.kills += len(workers) if victim == "all workers" else 1
        if "worker" not in victim:
            sweep.process.wait()

    def _look(self) -> None:
        """What is there can be read at any time, and a run that was seen finished stays as it was."""
        for run in self.runs:
            steps = [(record["event"], record["step"]) for record in run.metrics()]
            assert len(steps) == len(set(steps))
            if run.status().state == "finished":
                written = self.finished.setdefault(run.title, when_written(run))
                assert when_written(run) == written


def lines(run: Run) -> int:
    return run.metrics_path.stat().st_size if run.metrics_path.exists() else 0


def when_written(run: Run) -> dict[str, int]:
    files = (path for path in run.folder.rglob("*") if path.is_file() and path.name not in (".lock", "log.txt"))
    return {path.name: path.stat().st_mtime_ns for path in files}


def assert_done_once(run: Run) -> None:
    """Each attempt went on where one before it was, and when one had finished the run, nothing was left to train."""
    manifest = run.manifest()
    assert manifest is not None
    begins = [attempt.from_step for attempt in manifest.attempts]
    assert begins == sorted(begins)
    states = [attempt.state for attempt in manifest.attempts]
    assert states[-1] == "finished"
    assert all(begin == run.status().steps for begin in begins[states.index("finished") + 1 :])


@pytest.mark.parametrize(
    ("seed", "kills"),
    [
        pytest.param(0, 6, marks=pytest.mark.slow),
        *(pytest.param(seed, KILLS // ROUNDS, marks=pytest.mark.faults) for seed in range(1, ROUNDS + 1)),
    ],
)
def test_a_sweep_killed_again_and_again_equals_an_undisturbed_one(
    tmp_path: Path, undisturbed: tuple[Path, list[Run]], seed: int, kills: int, survived: Callable[..., None]
) -> None:
    study, whole = undisturbed
    chance, done, number = random.Random(seed), 0, 0
    while done < kills:
        killer = Killer(study, tmp_path / f"results{number}", chance)
        killer.run_to_completion(kills - done)
        for run, other in zip(killer.runs, whole, strict=True):
            assert_same(run, other)
            assert_done_once(run)
            assert run.probes("signals").keys() == other.probes("signals").keys()
        done += killer.kills
        number += 1
    survived("SIGKILL at random moments of a sweep", done)
