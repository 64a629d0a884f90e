"""Jobs in real processes: packs, processes that die, and what is told of them."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from resexp.executors.local import train_all
from resexp.executors.schedule import Job
from resexp.signals import Stop
from resexp.store import Run
from tests.test_pack import MODELS, alone, make
from tests.test_training import assert_same


class Sweep:
    """Does jobs and keeps what it hears."""

    def __init__(self, jobs: list[Job], capacity: int = 1, kill: bool = False) -> None:
        self.ended: list[tuple[Run, int]] = []
        self.most = 0
        self.kill = kill
        train_all(
            jobs,
            capacity=capacity,
            fail_fast=False,
            stop=Stop(),
            say=lambda line: None,
            tick=self._tick,
            ended=self._ended,
        )

    def _ended(self, run: Run, code: int, said: str) -> bool:
        self.ended.append((run, code))
        return run.status().state == "finished"

    def _tick(self, running: list[Run]) -> None:
        self.most = max(self.most, len(running))
        written = [run for run in running if run.metrics_path.exists() and run.metrics_path.stat().st_size]
        if self.kill and len(running) == len(written) == 2:
            self.kill = False
            os.kill(int(written[0].lock_path.read_text().split()[1]), signal.SIGKILL)


def test_one_process_trains_a_queue_of_runs_side_by_side(tmp_path: Path) -> None:
    runs = make(tmp_path / "packed")
    sweep = Sweep([Job(tuple(runs), 1, 1, None, pack=2)])
    assert sorted((run.name, code) for run, code in sweep.ended) == sorted((run.name, 0) for run in runs)
    manifests = [run.manifest() for run in runs]
    assert all(manifest is not None and manifest.attempts[0].state == "finished" for manifest in manifests)
    for run, other in zip(runs, alone(tmp_path / "alone"), strict=True):
        assert_same(run, other)


def test_when_a_process_dies_another_takes_the_runs_it_had_not_begun(tmp_path: Path) -> None:
    long = {"train": {"steps": 300, "log_every": 1, "eval_every": 300, "milestones": []}}
    runs = make(tmp_path, **long)
    sweep = Sweep([Job(tuple(runs), 1, 1, None, pack=2)], kill=True)
    codes = {run.name: code for run, code in sweep.ended}
    assert codes == {runs[0].name: -signal.SIGKILL, runs[1].name: -signal.SIGKILL, runs[2].name: 0}
    assert [run.status().state for run in runs] == ["interrupted", "interrupted", "finished"]


@pytest.mark.parametrize(("cores", "at_once"), [((1, 1, 1), 2), ((2, 1, 1), 2), ((2, 2, 2), 1)])
def test_jobs_begin_as_there_are_cores(tmp_path: Path, cores: tuple[int, ...], at_once: int) -> None:
    runs = make(tmp_path, train={"steps": 60})
    sweep = Sweep([Job((run,), n, 1) for run, n in zip(runs, cores, strict=True)], capacity=2)
    assert [run.status().state for run in runs] == ["finished"] * len(MODELS)
    assert sweep.most <= at_once
