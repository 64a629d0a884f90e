"""Sweeps on a real Slurm of two nodes: what is submitted, followed, queued again and told of what went wrong."""

from __future__ import annotations

import csv
import getpass
import json
import os
import re
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from shutil import which

import pytest

from resexp.config.study import load
from resexp.executors.node import SlurmJob
from resexp.report import build_report
from resexp.runs.store import Run, StudyFolder
from resexp.sweeping import run_folders
from resexp.training.train import train
from tests import slurm
from tests.conftest import command
from tests.slurm import Cluster, cluster, wait_for
from tests.test_plugins import on_an_executor
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
LONG = {"steps": 600, "log_every": 2, "eval_every": 600, "checkpoint_seconds": 1.0, "milestones": []}
"""Some seconds, so that there is a middle."""


def jobs_of(study: Path) -> list[str]:
    return [submission.job for run in runs_of(study) if (submission := run.submission())]


def attempts(run: Run) -> list[tuple[int, int | None, str | None]]:
    manifest = run.manifest()
    assert manifest is not None
    return [(attempt.from_step, attempt.to_step, attempt.state) for attempt in manifest.attempts]


def table(results: Path) -> list[dict[str, str]]:
    """summary.csv but for times."""
    build_report(StudyFolder(results / "tiny"), results / "report")
    with (results / "report/summary.csv").open() as file:
        return [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]


def alone(study: Path) -> list[Run]:
    """Its runs, trained by this process and never interrupted."""
    runs = runs_of(study, Path("alone"))
    for run, cell in zip(runs, load(str(study))[1], strict=True):
        run.create(cell.config)
        train(run, threads=1)
    return runs


def states(resexp: Cli) -> list[str]:
    """What `resexp status` says of the runs."""
    return [run["state"] for run in json.loads(resexp("status", "results/tiny", "--json").stdout)]


class Waiting:
    """A sweep that waits for its jobs."""

    def __init__(self, study: Path, **environment: str) -> None:
        self.process = subprocess.Popen(
            command("sweep", "--config", study), stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}
        )
        self.said = ""

    def until(self, words: str) -> None:
        assert self.process.stdout
        while words not in self.said:
            line = self.process.stdout.readline()
            assert line, f"ended without saying {words!r}: {self.said}"
            self.said += line

    def end(self) -> tuple[int, str]:
        self.said += self.process.communicate(timeout=200)[0]
        return self.process.returncode, self.said


@pytest.fixture
def gate(cluster: Cluster) -> Iterator[Callable[[str], None]]:
    """Let jobs wait in the queue (DOWN), or let them in (UP)."""
    yield lambda state: print(cluster("scontrol", "update", "PartitionName=debug", f"State={state}"))
    cluster("scancel", "--user", getpass.getuser())
    cluster("scontrol", "update", "PartitionName=debug", "State=UP")


def test_a_sweep_by_slurm_gives_the_report_of_a_local_one(write_study: Write, resexp: Cli, cluster: Cluster) -> None:
    grid = {"model.kind": ["plain", "residual"], "model.depth": [8, 14]}
    assert resexp("sweep", "--config", write_study(grid=grid), "--results", "local", "--jobs", 2).returncode == 0
    study = write_study(grid=grid, executor={**ON_SLURM, "runs_per_job": 2})
    done = resexp("sweep", "--config", study)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "4 runs submitted" in done.stdout
    assert "4 trained, 0 finished before, 0 not finished, 0 not started" in done.stdout.replace("\n", " ")
    assert len(set(jobs_of(study))) == 2
    local, ours = (table(Path(results)) for results in ("local", "results"))
    assert ours == local


def test_jobs_load_the_plugin_that_the_sweep_was_given(write_study: Write, resexp: Cli, cluster: Cluster) -> None:
    def sweep(*words: str) -> tuple[int, str]:
        done = resexp("sweep", *words)
        return done.returncode, done.stdout + done.stderr

    on_an_executor(lambda **keys: write_study(executor=ON_SLURM, **keys), sweep)


def test_of_an_array_with_a_failing_cell_the_others_finish(write_study: Write, resexp: Cli, cluster: Cluster) -> None:
    study = write_study(grid={"model.depth": [8, 14]}, executor=ON_SLURM)
    cell, broken = run_folders(*load(str(study)), Path("results"))[0]
    break_run(cell, broken)
    done = resexp("sweep", "--config", study)
    assert done.returncode == 1, done.stdout + done.stderr
    assert [run.status().state for run in runs_of(study)] == ["failed", "finished"]
    assert "failed at step 0: TypeError: unsupported operand type(s) for +=" in done.stdout
    assert "tried again" not in done.stdout
    # While it waits for another try its folder still says that it failed.
    for path in (broken.checkpoint_path, broken.previous_checkpoint_path):
        path.unlink()
    retried = resexp("sweep", "--config", study, "--retry-failed")
    assert retried.returncode == 0, retried.stdout + retried.stderr
    assert [len(attempts(run)) for run in runs_of(study)] == [3, 1]


def test_what_a_job_refuses_is_said_and_not_tried_again(
    write_study: Write, cluster: Cluster, gate: Callable[[str], None]
) -> None:
    gate("DOWN")
    study = write_study(executor=ON_SLURM)
    waiting = Waiting(study)
    waiting.until("what jobs print")
    run = runs_of(study)[0]
    run.config_path.write_text("train: [")
    gate("UP")
    code, said = waiting.end()
    assert code == 1
    assert re.search(
        rf"pending at step 0: refused in Slurm job \d+(_\d+)?: {run.config_path.absolute()}:1: YAML",
        said.replace("\n", ""),
    )
    assert "tried again" not in said


def test_fail_fast_cancels_the_jobs_that_are_left(write_study: Write, resexp: Cli, cluster: Cluster) -> None:
    study = write_study(grid={"model.depth": [14, 8]}, executor={**ON_SLURM, "jobs": 1})
    break_run(*run_folders(*load(str(study)), Path("results"))[0])  # the longest comes first
    done = resexp("sweep", "--config", study, "--fail-fast")
    assert done.returncode == 1, done.stdout + done.stderr
    assert not {"PENDING", "RUNNING"} & set(cluster.queue().values())
    assert runs_of(study)[1].status().state != "finished"


def test_what_waits_in_the_queue_is_submitted_once_shown_and_left_alone(
    write_study: Write, resexp: Cli, cluster: Cluster, gate: Callable[[str], None]
) -> None:
    gate("DOWN")
    study = write_study(grid={"model.depth": [8, 14]}, executor=ON_SLURM)
    left = resexp("sweep", "--config", study, "--detach")
    assert left.returncode == 0, left.stdout + left.stderr
    assert "2 queued or at work, 0 not finished, 0 not started" in left.stdout.replace("\n", " ")
    first, second = jobs_of(study)
    again = resexp("sweep", "--config", study, "--detach")
    assert again.returncode == 0
    assert "2 of them were submitted before" in again.stdout
    assert cluster.queue() == {first: "PENDING", second: "PENDING"}
    assert states(resexp) == ["queued", "queued"]
    assert f"queued (Slurm job {first})" in resexp("status", "results/tiny").stdout
    # What was cancelled is shown as it is, and the next sweep submits it and nothing else.
    cluster("scancel", first)
    assert states(resexp) == ["pending", "queued"]
    waiting = Waiting(study)
    waiting.until("1 runs submitted")
    waiting.process.send_signal(signal.SIGINT)
    code, said = waiting.end()
    assert code == 130
    assert "2 queued or at work" in said
    assert "scancel --name=resexp-tiny" in said
    third, kept = jobs_of(study)
    assert kept == second
    assert cluster.queue() == {second: "PENDING", third: "PENDING"}
    # A sweep that waits hears that a job was cancelled, and does not submit it again by itself.
    waiting = Waiting(study)
    waiting.until("2 of them were submitted before")
    cluster("scancel", second)
    waiting.until("[0/2]")
    gate("UP")
    code, said = waiting.end()
    assert code == 1
    assert f"pending at step 0: its Slurm job {second} was cancelled; the same command continues" in said
    assert states(resexp) == ["finished", "pending"]


def test_a_login_node_needs_no_gpu(write_study: Write, resexp: Cli, gate: Callable[[str], None]) -> None:
    gate("DOWN")
    study = write_study(train={"device": "cuda:7"}, executor={**ON_SLURM, "slurm": {"gpus": 1}})
    done = resexp("sweep", "--config", study, "--detach")
    assert done.returncode == 0, done.stderr
    assert "1 runs submitted" in done.stdout


def test_what_slurm_refuses_is_one_line(write_study: Write, resexp: Cli, cluster: Cluster) -> None:
    study = write_study(executor={**ON_SLURM, "slurm": {"partition": "gpus"}})
    done = resexp("sweep", "--config", study)
    assert done.returncode == 2
    assert done.stderr == (
        "resexp: executor slurm: sbatch: invalid partition specified: gpus, "
        "Batch job submission failed: Invalid partition name specified\n"
    )


def test_without_slurm_nothing_is_begun(write_study: Write, resexp: Cli) -> None:
    done = resexp("sweep", "--config", write_study(executor=ON_SLURM), PATH="/nowhere")
    assert done.returncode == 2
    assert done.stderr == (
        "resexp: executor slurm: no sbatch on this machine; submit from a login node of the cluster\n"
    )
    assert not runs_of(Path("tiny.yaml"))[0].folder.exists()


def test_a_warned_job_saves_is_queued_again_and_loses_nothing(
    write_study: Write, resexp: Cli, cluster: Cluster, tmp_path: Path
) -> None:
    study = write_study(train=LONG, executor=ON_SLURM)
    run, undisturbed = runs_of(study)[0], alone(study)[0]
    # Meanwhile squeue fails for a moment, which must not be taken for an empty queue.
    silent = tmp_path / "bin/silent"
    silent.parent.mkdir()
    squeue = silent.with_name("squeue")
    squeue.write_text(
        f'[ -e {silent} ] && {{ echo "squeue: error: no answer" >&2; exit 1; }}\nexec {which("squeue")} "$@"'
    )
    squeue.write_text(f"#!/bin/sh\n{squeue.read_text()}\n")
    squeue.chmod(0o755)
    waiting = Waiting(study, PATH=f"{squeue.parent}:{os.environ['PATH']}")
    waiting.until("what jobs print")
    silent.touch()
    waiting.until("squeue: error: no answer; asked again until it answers")
    (job,) = jobs_of(study)
    wait_for(lambda: under_way(run), "the run")
    cluster("scancel", "--signal=USR2", job)
    wait_for(lambda: cluster.queue().get(job) == "PENDING", "the job in the queue")
    assert states(resexp) == ["queued"]
    silent.unlink()
    cluster("scontrol", "update", f"JobId={job}", "StartTime=now")
    code, said = waiting.end()
    assert code == 0, said
    (_, saved, how), last = attempts(run)
    assert (how, last) == ("interrupted", (saved, LONG["steps"], "finished"))
    assert_same(run, undisturbed)


def test_a_job_that_others_preempt_saves_and_is_queued_again(write_study: Write, cluster: Cluster) -> None:
    """Slurm sends SIGTERM, and queues the job again after a time of grace."""
    study = write_study(train=LONG, executor=ON_SLURM)
    run, undisturbed = runs_of(study)[0], alone(study)[0]
    waiting = Waiting(study)
    wait_for(lambda: under_way(run), "the run")
    (job,) = jobs_of(study)
    cluster("sbatch", "--partition=urgent", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    wait_for(lambda: cluster.queue().get(job) == "PENDING", "the job in the queue")
    cluster("scontrol", "update", f"JobId={job}", "StartTime=now")
    code, said = waiting.end()
    assert code == 0, said
    (_, saved, how), last = attempts(run)
    assert (how, last) == ("interrupted", (saved, LONG["steps"], "finished"))
    assert_same(run, undisturbed)


@pytest.mark.parametrize("unseen", ["dead", "alive"])
def test_a_run_goes_on_when_its_node_is_lost(write_study: Write, resexp: Cli, cluster: Cluster, unseen: str) -> None:
    """Its processes may be dead with the node, or alive while Slurm starts the job elsewhere."""
    study = write_study(train=LONG, executor=ON_SLURM)
    run, undisturbed = runs_of(study)[0], alone(study)[0]
    waiting = Waiting(study)
    wait_for(lambda: under_way(run), "the run")
    (job,) = jobs_of(study)
    node = cluster("squeue", "-h", "-j", job, "-o", "%N").strip()
    cluster.lose_node(node)
    if unseen == "dead":
        cluster.kill_jobs()
    try:
        wait_for(lambda: cluster.queue().get(job) == "PENDING", "the job in the queue")
        cluster("scontrol", "update", f"JobId={job}", "StartTime=now")
        code, said = waiting.end()
    finally:
        cluster.start_node(node)
    assert code == 0, said
    assert_same(run, undisturbed)
    cluster.wait_for_nodes()


def test_of_two_jobs_for_one_run_one_trains_it(
    write_study: Write, resexp: Cli, cluster: Cluster, gate: Callable[[str], None]
) -> None:
    gate("DOWN")
    study = write_study(executor=ON_SLURM)
    run, undisturbed = runs_of(study)[0], alone(study)[0]
    for _ in range(2):
        run.job_path.unlink(missing_ok=True)
        assert resexp("sweep", "--config", study, "--detach").returncode == 0
    assert len(cluster.queue()) == 2
    gate("UP")
    wait_for(lambda: not cluster.queue(), "both jobs")
    assert attempts(run) == [(0, 12, "finished")]
    assert_same(run, undisturbed)
    assert "1 finished before" in resexp("sweep", "--config", study).stdout


def test_on_several_nodes_each_run_is_trained_by_torchrun(tmp_path: Path) -> None:
    runs = tuple(tmp_path / f"seed{seed}" for seed in (0, 1))
    training = SlurmJob(runs, tmp_path, {}, nodes=2, processes=4)
    node = {"SLURM_NODEID": "1", "SLURM_LAUNCH_NODE_IPADDR": "10.0.0.7", "SLURM_JOB_ID": "123456"}
    for words, run in zip(training.commands(node), runs, strict=True):
        assert " ".join(words[1:]) == (
            "-m torch.distributed.run --nnodes=2 --nproc-per-node=4 --max-restarts=3 --rdzv-backend=c10d "
            f"--rdzv-id=123456 --rdzv-conf=is_host=0 --rdzv-endpoint=10.0.0.7:23456 -m resexp train {run}"
        )


def test_the_runs_of_a_job_share_its_gpu_as_the_study_says(tmp_path: Path) -> None:
    training = SlurmJob((tmp_path / "seed0",), tmp_path, {}, nodes=1, processes=1, runs_per_gpu=3)
    (words,) = training.commands({})
    assert words[1:] == ["-m", "resexp", "train", "--runs-per-gpu", "3", str(tmp_path / "seed0")]


def test_two_nodes_train_one_run(write_study: Write, resexp: Cli, cluster: Cluster) -> None:
    study = write_study(executor={**ON_SLURM, "slurm": {"nodes": 2, "poll_seconds": 0.5}})
    done = resexp("sweep", "--config", study)
    assert done.returncode == 0, done.stdout + done.stderr
    manifest = runs_of(study)[0].manifest()
    assert manifest is not None
    assert [(attempt.world, attempt.state) for attempt in manifest.attempts] == [(2, "finished")]


def under_way(run: Run) -> bool:
    return run.metrics_path.exists() and run.metrics_path.read_bytes().count(b"\n") >= 10
