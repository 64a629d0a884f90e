"""Sweeps on a real Slurm of two nodes: what is submitted, followed, queued again and told of what went wrong."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from resexp.executors.node import Training
from resexp.store import Run
from tests import slurm
from tests.conftest import command, wait_until
from tests.slurm import Cluster, cluster, wait_for
from tests.test_sweep import break_run, runs_of
from tests.test_training import assert_same

__all__ = ["cluster"]

Write = Callable[..., Path]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(slurm.MISSING), reason=f"not installed: {', '.join(slurm.MISSING)}"),
]

ON_SLURM = {"name": "slurm", "slurm": {"poll_seconds": 0.5}}
LONG = {"steps": 4000, "log_every": 10, "eval_every": 4000, "checkpoint_seconds": 1.0, "milestones": []}
"""Half a minute, so that there is a middle."""


def states(study: Path) -> list[str]:
    return [run.status().state for run in runs_of(study)]


def jobs_of(study: Path) -> list[str]:
    return [submission.job for run in runs_of(study) if (submission := run.submission())]


def attempts(run: Run) -> list[tuple[int, int | None, str | None]]:
    manifest = run.manifest()
    assert manifest is not None
    return [(attempt.from_step, attempt.to_step, attempt.state) for attempt in manifest.attempts]


def table(results: Path) -> list[dict[str, str]]:
    """summary.csv but for times."""
    with (results / "tiny/report/summary.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


@pytest.fixture
def closed(cluster: Cluster) -> Callable[[bool], None]:
    """Let jobs wait in the queue, or let them in."""

    def close(shut: bool) -> None:
        cluster("scontrol", "update", "PartitionName=debug", f"State={'DOWN' if shut else 'UP'}")

    return close


def test_a_sweep_by_slurm_gives_the_report_of_a_local_one(write_study: Write, resexp: Cli, cluster: Cluster) -> None:
    study = write_study(grid={"model.kind": ["plain", "residual"], "model.depth": [8, 14]})
    assert resexp("sweep", "--config", study, "--results", "local", "--jobs", 2).returncode == 0
    write_study(
        grid={"model.kind": ["plain", "residual"], "model.depth": [8, 14]},
        executor={**ON_SLURM, "jobs": 1, "runs_per_job": 2},
    )
    done = resexp("sweep", "--config", study)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 runs submitted" in done.stdout
    assert "4 trained, 0 finished before, 0 not finished, 0 not started" in done.stdout.replace("\n", " ")
    assert len(set(jobs_of(study))) == 2
    for folder in ("local", "results"):
        assert resexp("report", f"{folder}/tiny").returncode == 0
    assert table(Path("results")) == table(Path("local"))
