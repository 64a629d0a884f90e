"""What a large study costs besides its training: each command on a finished one, and the scheduler on an idle one.

`make benchmark-scale`: 10,000 runs whose metrics have 640 lines, as 64,000 steps leave them, on 1.3 GB of disk. Other
numbers: `python -m tests.benchmarks.scale RATES SEEDS LINES`, with ten nets at each of so many learning rates.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from resexp.config import ExecutorConfig
from resexp.config.study import load
from resexp.display import Display
from resexp.executors import schedule
from resexp.executors.base import End, Event, Executor, Handle, Job
from resexp.runs.records import Status
from resexp.runs.store import Run
from resexp.sweeping import run_folders, train_all
from resexp.training.train import train
from resexp.utils.interrupts import Stop
from resexp.utils.machine import cores
from tests.conftest import TINY, command
from tests.many import finish_study, write_study, write_yaml

COMMANDS = {
    "expansion": ("sweep", "--config", "many.yaml", "--dry-run"),
    "status": ("status", "results/many"),
    "status --json": ("status", "results/many", "--json"),
    "report": ("report", "results/many"),
    "sweep again": ("sweep", "--config", "many.yaml"),
}
FEW, MANY = 20, 420
"""Runs of one step, in two sweeps: what the second takes longer, its further runs took."""
_MEASURE = """
import os, resource, subprocess, sys, time
began = time.monotonic()
code = subprocess.run(sys.argv[1:], stdout=subprocess.DEVNULL).returncode
print(code, time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024)
"""
"""In a small process, since the peak of a process is at least what its parent had when it began."""


def cost(*words: str) -> tuple[float, float]:
    """Run a resexp command here to its good end: seconds, and MB of the largest of its processes."""
    done = subprocess.run([sys.executable, "-c", _MEASURE, *command(*words)], stdout=subprocess.PIPE, text=True)
    code, seconds, peak = done.stdout.split()
    assert code == "0", words
    return float(seconds), float(peak)


@dataclass
class _Done(Handle):
    """A job that is done before it is asked."""

    job: Job

    def poll(self) -> tuple[list[Event], End]:
        events = list[Event]()
        for index, run in enumerate(self.job.runs):
            run.write_status(Status(state="finished"))
            events += [Event("run_began", index), Event("run_ended", index)]
        return events, End()

    def stop(self) -> None: ...


class Idle(Executor):
    """An engine of as many cores as this machine has, whose jobs do nothing."""

    def make_jobs(self, todo: Sequence[tuple[Run, float]]) -> tuple[list[Job], int]:
        return schedule.on_cores(todo, cores(), None), cores()

    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        return [_Done(job) for job in jobs]

    def wait(self, handles: Sequence[Handle]) -> None: ...


def scheduler(study: Path, results: Path) -> float:
    """Seconds that a sweep takes for each run, when nothing is trained: folders, schedule, loop and display."""
    study_config, cells = load(str(study))
    runs = [(run, cell.config.cost) for cell, run in run_folders(study_config, cells, results)]
    began = time.monotonic()
    for cell, (run, _) in zip(cells, runs, strict=True):
        run.create(cell.config)
    outcome = train_all(Idle(), ExecutorConfig(), results, runs, retry_failed=True, stop=Stop(), display=Display())
    assert outcome.finished == len(runs)
    return (time.monotonic() - began) / len(runs)


def processes(folder: Path) -> tuple[float, float]:
    """Seconds of a core that a run of one step takes in a sweep, in processes of its own, and in this process."""
    study = {**TINY, "name": "step", "train": {"steps": 1, "batch_size": 32, "device": "cpu"}}
    few, many = (
        write_yaml(folder / f"{seeds}.yaml", {**study, "name": f"step-{seeds}", "seeds": list(range(seeds))})
        for seeds in (FEW, MANY)
    )
    (short, _), (long, _) = cost("sweep", "--config", str(few)), cost("sweep", "--config", str(many))
    config, cells = load(str(few))
    torch.set_num_threads(1)
    seconds = []
    for cell, run in run_folders(config, cells, folder / "here"):
        began = time.monotonic()
        run.create(cell.config)
        train(run, threads=1)
        seconds.append(time.monotonic() - began)
    return (long - short) * cores() / (MANY - FEW), statistics.median(seconds)


@contextlib.contextmanager
def _chdir(folder: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(folder)
    yield
    os.chdir(before)


def main(numbers: list[str]) -> None:
    """Measure, and print a table."""
    rates, seeds, lines = map(int, numbers or ("10", "100", "640"))
    with tempfile.TemporaryDirectory() as scratch, _chdir(Path(scratch)):
        folder = Path(scratch)
        study = write_study(folder, rates, seeds, lines)
        finish_study(study, folder / "results")
        print(f"{10 * rates * seeds:,} runs with {lines} lines of training errors, {cores()} cores")
        for name, words in COMMANDS.items():
            seconds, peak = cost(*words)
            print(f"{name:16} {seconds:6.1f} s, at most {peak:6.0f} MB a process", flush=True)
        page = Path("results/many/report/index.html").stat().st_size
        print(f"{'page':16} {page / 1e6:6.1f} MB")
        print(f"{'scheduler':16} {1000 * scheduler(study, folder / 'idle'):6.1f} ms a run that does nothing")
        swept, here = processes(folder)
        print(
            f"{'a run of a step':16} {1000 * swept:6.1f} ms of a core in a sweep, {1000 * here:.1f} ms in this process"
        )


if __name__ == "__main__":
    main(sys.argv[1:])
