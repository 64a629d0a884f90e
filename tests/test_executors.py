"""Jobs in real processes: packs, processes that die, and what is told of them."""

from __future__ import annotations

import os
import re
import shutil
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from resexp.cli import app
from resexp.config import ExecutorConfig
from resexp.config.study import load
from resexp.errors import UserError
from resexp.executors import SweepLoop, local
from resexp.executors import slurm as slurm_executor
from resexp.executors.base import Job
from resexp.executors.local import Local, visible_gpus
from resexp.runs.records import Submission
from resexp.runs.store import Run
from resexp.sweeping import run_folders
from resexp.training.train import train
from resexp.training.trainer import Trainer
from resexp.utils.interrupts import Stop
from resexp.utils.logs import logged_to
from tests.test_pack import MODELS, alone, make
from tests.test_sweep import break_run
from tests.test_training import after, assert_same


class Given(Local):
    """The engine of this machine, with jobs made by the test."""

    def __init__(self, jobs: list[Job], capacity: int) -> None:
        super().__init__(ExecutorConfig(), set())
        self.jobs, self.capacity = jobs, capacity

    def make_jobs(self, todo: Sequence[tuple[Run, float]]) -> tuple[list[Job], int]:
        return list(self.jobs), self.capacity


class Sweep:
    """Does jobs and keeps what it hears."""

    def __init__(self, jobs: list[Job], capacity: int = 1, kills: int = 0, **config: Any) -> None:
        self.ended: dict[str, str] = {}
        self.said: list[str] = []
        self.most = 0
        self.kills = kills
        self.killed: set[int] = set()
        with logged_to(self.said.append):
            SweepLoop(
                Given(jobs, capacity), ExecutorConfig(**config), stop=Stop(), tick=self._tick, on_ended=self._ended
            ).train([])

    def _ended(self, run: Run, said: str) -> bool:
        assert run.title not in self.ended, "each run is over once"
        self.ended[run.title] = said
        return run.status().state == "finished"

    def _tick(self, running: list[Run]) -> None:
        self.most = max(self.most, len(running))
        written = [run for run in running if run.status().step and run.is_held()]
        if self.kills and len(running) == len(written) == 2:
            pid = int(written[0].lock_path.read_text().split()[1])
            if pid not in self.killed:
                self.kills -= 1
                self.killed.add(pid)
                os.kill(pid, signal.SIGKILL)


def test_one_process_trains_a_queue_of_runs_side_by_side(tmp_path: Path) -> None:
    runs = make(tmp_path / "packed")
    sweep = Sweep([Job(tuple(runs), 1, 1, None, concurrent_runs=2)])
    assert sweep.ended == {run.title: "" for run in runs}
    manifests = [run.manifest() for run in runs]
    assert all(manifest is not None and manifest.attempts[0].state == "finished" for manifest in manifests)
    for run, other in zip(runs, alone(tmp_path / "alone"), strict=True):
        assert_same(run, other)


LONG = {"train": {"steps": 300, "log_every": 1, "eval_every": 300, "milestones": []}}


@pytest.mark.slow
def test_a_run_whose_process_was_killed_is_tried_again(tmp_path: Path) -> None:
    runs = make(tmp_path / "killed", **LONG)
    sweep = Sweep([Job(tuple(runs), 1, 1, None, concurrent_runs=2)], kills=2)
    assert sweep.ended == {run.title: "" for run in runs}
    assert len([line for line in sweep.said if "killed by signal 9; tried again (1 of 2)" in line]) == 2
    assert len([line for line in sweep.said if "killed by signal 9; tried again (2 of 2)" in line]) == 2
    for run, other in zip(runs, alone(tmp_path / "alone", **LONG), strict=True):
        assert_same(run, other)


@pytest.mark.slow
def test_a_run_whose_processes_are_killed_again_and_again_is_given_up(tmp_path: Path) -> None:
    runs = make(tmp_path, **LONG)
    sweep = Sweep([Job(tuple(runs), 1, 1, None, concurrent_runs=2)], kills=1, retries=0)
    words = "its process was killed by signal 9"
    assert sweep.ended == {runs[0].title: words, runs[1].title: words, runs[2].title: ""}
    assert [run.status().state for run in runs] == ["interrupted", "interrupted", "finished"]


@pytest.mark.slow
def test_a_worker_that_gives_no_sign_of_life_is_replaced(tmp_path: Path) -> None:
    longer = {**LONG["train"], "steps": 600, "eval_every": 600}  # several looks of the sweep, on any machine
    runs = make(tmp_path / "silent", train=longer)[:1]

    class Freezing(Sweep):
        def _tick(self, running: list[Run]) -> None:
            if running and running[0].status().step and not self.killed:
                pid = int(running[0].lock_path.read_text().split()[1])
                self.killed.add(pid)
                os.kill(pid, signal.SIGSTOP)

    sweep = Freezing([Job((runs[0],), 1, 1)], heartbeat_timeout=12.0)
    assert sweep.ended == {runs[0].title: ""}
    silent, again = sweep.said[-2:]
    assert re.fullmatch(rf"{runs[0].title}: no heartbeat for 1\d s; its job is killed", silent)
    assert again.endswith("its process was killed by signal 9; tried again (1 of 2)")
    assert_same(runs[0], alone(tmp_path / "alone", train=longer)[0])


def test_a_process_starts_although_the_server_has_just_died() -> None:
    """`multiprocessing` starts another server as soon as it notices."""
    answers: list[Exception | None] = [EOFError(), BrokenPipeError(), None]

    def start() -> None:
        if answer := answers.pop(0):
            raise answer

    local._start(SimpleNamespace(start=start))  # type: ignore[arg-type]
    assert not answers
    answers += [EOFError()] * local._STARTS
    with pytest.raises(UserError, match="no process can be started, for their server dies"):
        local._start(SimpleNamespace(start=start))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("named", "count", "found"),
    [
        (None, 2, ["0", "1"]),
        ("3, 5", 2, ["3", "5"]),
        ("3,-1,5", 1, ["3"]),
        ("MIG-a,MIG-b", 1, ["MIG-a", "MIG-b"]),  # CUDA lets a process use one MIG instance
        ("MIG-a,MIG-b", 0, []),
    ],
)
def test_gpus_are_named_as_their_processes_are_told(
    monkeypatch: pytest.MonkeyPatch, named: str | None, count: int, found: list[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if named:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", named)
    assert visible_gpus() == found


def test_jobs_begin_as_there_are_cores(tmp_path: Path) -> None:
    runs = make(tmp_path, train={"steps": 60})
    sweep = Sweep([Job((run,), 2, 1) for run in runs], capacity=2)
    assert [run.status().state for run in runs] == ["finished"] * len(MODELS)
    assert sweep.most <= 1


def test_the_debug_executor_trains_in_this_process_what_others_train(
    write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a breakpoint in a step is met, and the results are those of any other executor."""
    study = write_study(grid={"model.depth": [8, 14]}, executor={"name": "debug"})
    met, update = Counter[int](), Trainer._update

    def breakpoint_here(trainer: Trainer) -> None:
        met[trainer.config.model.depth] += 1
        update(trainer)

    monkeypatch.setattr(Trainer, "_update", breakpoint_here)
    assert CliRunner().invoke(app, ["sweep", "--config", str(study)]).exit_code == 0
    assert met == {8: 12, 14: 12}
    again = CliRunner().invoke(app, ["sweep", "--config", str(study), "--results", "l", "--executor", "local"])
    assert again.exit_code == 0
    cells = load(str(study))[1]
    for cell in cells:
        assert_same(*(Run(Path(results, "tiny", cell.config.folder)) for results in ("results", "l")))


def test_a_run_resumed_on_two_threads_leaves_the_next_one_its_own(write_study: Callable[..., Path]) -> None:
    study = write_study(grid={"model.depth": [8, 14]}, executor={"name": "debug"})
    runs = [Run(Path("results", "tiny", cell.config.folder)) for cell in load(str(study))[1]]
    runs[0].create(load(str(study))[1][0].config)
    assert train(runs[0], threads=2, stop=after(5)).state == "interrupted"
    assert CliRunner().invoke(app, ["sweep", "--config", str(study)]).exit_code == 0
    manifests = [run.manifest() for run in runs]
    assert [[attempt.threads for attempt in each.attempts] for each in manifests if each] == [[2, 2], [1]]


def test_the_debug_executor_ends_a_failing_run_and_goes_to_the_next(write_study: Callable[..., Path]) -> None:
    study = write_study(grid={"model.depth": [8, 14]}, executor={"name": "debug"})
    broken = run_folders(*load(str(study)), Path("results"))
    break_run(*broken[0])
    done = CliRunner().invoke(app, ["sweep", "--config", str(study)])
    assert done.exit_code == 1
    assert [run.status().state for _, run in broken] == ["failed", "finished"]


def test_remarks_of_squeue_are_no_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    squeue = tmp_path / "squeue"
    job = f"{'12_0':64}{'RUNNING':32}{'0':16}"  # squeue fills the last column, too
    squeue.write_text(f"#!/bin/sh\necho CLUSTER: one\necho '{job}'\necho slurm_load_jobs: hello\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert {job: state.name for job, state in slurm_executor._squeue({"1"}).items()} == {"12_0": "RUNNING"}


def test_a_long_tmpdir_is_named(tmp_path: Path, write_study: Callable[..., Path], resexp: Callable[..., Any]) -> None:
    long = tmp_path / ("d" * 120)
    long.mkdir()
    done = resexp("sweep", write_study(), TMPDIR=str(long))
    assert done.returncode == 2
    assert done.stderr == (
        f"resexp: {long}: no place for the sockets of workers (AF_UNIX path too long); set TMPDIR to a short path\n"
    )


def test_the_copy_of_a_study_is_not_what_the_jobs_of_the_original_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "bin/squeue"
    squeue.parent.mkdir()
    squeue.write_text("#!/bin/sh\necho '7 PENDING 0'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{squeue.parent}:{os.environ['PATH']}")
    run = Run(tmp_path / "study/plain-20-00000000/seed0")
    run.folder.mkdir(parents=True)
    folder = f"{run.folder.resolve()}"
    run.write_submission(Submission(engine="slurm", job="7", user="1", submitted="now", attempt=0, folder=folder))
    shutil.copytree(tmp_path / "study", tmp_path / "copy")
    (tmp_path / "link").symlink_to(tmp_path / "study")
    runs = [Run(tmp_path / name / "plain-20-00000000/seed0") for name in ("study", "copy", "link")]
    assert slurm_executor.queued(runs) == {runs[0].folder: "7", runs[2].folder: "7"}
