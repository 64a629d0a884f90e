"""Sweeps in real processes: what is skipped, continued, retried and refused, and what a death leaves behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from resexp.config.study import RunSpec, load
from resexp.runs import checkpoint
from resexp.runs.store import Run, StudyFolder
from resexp.sweeping import run_folders
from resexp.training.train import train
from resexp.utils.machine import cores
from tests.conftest import command, fill, wait_until
from tests.test_training import assert_same

Write = Callable[..., Path]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]

GRID = {"model.kind": ["plain", "residual"], "model.depth": [8, 14]}


def runs_of(study: Path, results: Path = Path("results")) -> list[Run]:
    loaded, cells = load(str(study))
    return [run for _, run in run_folders(loaded, cells, results)]


def states(study: Path) -> list[str]:
    return [run.status().state for run in runs_of(study)]


def test_a_sweep_trains_what_is_missing_and_skips_what_is_finished(write_study: Write, here: Cli) -> None:
    study = write_study(grid=GRID)
    done = here("sweep", "--config", study, "--only", "plain-8", "--executor", "debug")
    assert done.returncode == 0, done.stderr
    assert states(study) == ["finished", "pending", "pending", "pending"]
    before = runs_of(study)[0].metrics_path.read_bytes()
    done = here("sweep", "--config", study)
    assert done.returncode == 0, done.stderr
    assert "3 to train, 1 finished before" in done.stdout
    assert "3 trained, 1 finished before, 0 not finished, 0 not started" in done.stdout.replace("\n", " ")
    assert states(study) == ["finished"] * 4
    assert runs_of(study)[0].metrics_path.read_bytes() == before


def test_plain_output_is_bounded(write_study: Write, here: Cli) -> None:
    study = write_study(grid={"model.depth": [8, 14]}, train={"steps": 80, "log_every": 1})
    lines = here("sweep", "--config", study).stdout.splitlines()
    runs = [line.partition(":")[0].rpartition("] ")[2] for line in lines if " seed 0:" in line]
    assert len(set(runs)) == 2
    assert max(map(runs.count, runs)) <= 5  # begun, a quarter, half, three quarters, ended
    assert len(lines) - len(runs) == 4  # decoding, how many are to be trained, processes starting, how it went
    assert lines[2] == f"{min(2, cores())} process{'es' * (cores() > 1)} starting"


def break_run(cell: RunSpec, run: Run) -> None:
    """Begin a run, and leave a checkpoint that is whole and holds what no version ever wrote."""
    run.create(cell.config)
    train(run, stop=lambda: True)
    state, _ = checkpoint.load(run, torch.device("cpu"))
    assert state is not None
    run.checkpoint_path.write_bytes(checkpoint.pack({**state, "window": [0, None, 0]}))


def test_one_failure_neither_ends_nor_hides_the_others(write_study: Write, here: Cli) -> None:
    study = write_study(grid=GRID)
    cell, broken = run_folders(*load(str(study)), Path("results"))[1]
    break_run(cell, broken)
    done = here("sweep", "--config", study)
    assert done.returncode == 1
    assert states(study) == ["finished", "failed", "finished", "finished"]
    assert "plain-14 seed 0" in done.stdout.split("not finished", 1)[1]
    assert "failed at step 0: TypeError: unsupported operand type(s) for +=" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr
    assert "Traceback" in broken.status().traceback
    assert "tried again" not in done.stdout
    # It is not tried again by itself; when the cause is gone, on request.
    broken.checkpoint_path.unlink()
    broken.previous_checkpoint_path.unlink()  # the failed attempt began by saving what it had read
    again = here("sweep", "--config", study, "--executor", "debug")
    assert (again.returncode, states(study)[1]) == (1, "failed")
    retried = here("sweep", "--config", study, "--retry-failed", "--executor", "debug")
    assert (retried.returncode, states(study)) == (0, ["finished"] * 4)


def test_on_a_full_disk_a_sweep_says_so_and_the_next_goes_on(write_study: Write, here: Cli, small_disk: Path) -> None:
    results = small_disk / "results"
    study = write_study(grid={"model.depth": [8, 14]}, executor={"name": "debug"})
    assert here("sweep", "--config", study, "--results", results, "--only", "residual-8").returncode == 0
    ballast = fill(small_disk)
    done = here("sweep", "--config", study, "--results", results, "--executor", "local")
    assert done.returncode in (1, 2)
    assert "No space left on device" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    ballast.unlink()
    assert here("sweep", "--config", study, "--results", results).returncode == 0
    assert [run.status().state for run in runs_of(study, results)] == ["finished", "finished"]


def test_fail_fast_stops_the_rest(write_study: Write, here: Cli) -> None:
    study = write_study(grid={"model.depth": [20, 14, 8]}, train={"steps": 60})
    break_run(*run_folders(*load(str(study)), Path("results"))[0])  # the longest comes first
    done = here("sweep", "--config", study, "--fail-fast", "--jobs", 1)
    assert done.returncode == 1
    assert states(study) == ["failed", "pending", "pending"]
    assert "2 not started" in done.stdout.replace("\n", " ")


LONG = {"steps": 400, "log_every": 1, "eval_every": 400, "checkpoint_steps": 20}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("early", [False, True])
def test_a_signal_to_the_whole_group_saves_everything(
    write_study: Write, here: Cli, number: int, code: int, early: bool
) -> None:
    """As a terminal, `timeout`, systemd and Slurm send it: also to the processes that the workers are forked from.

    A second sweep of the same folder is refused before, and changes nothing.
    """
    study = write_study(grid={"model.depth": [8, 14]}, train={**LONG, "steps": 100_000})
    process = subprocess.Popen(
        command("sweep", "--config", study, "--jobs", 2),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    runs = runs_of(study)
    if early:  # the server is still importing torch
        wait_until(process, lambda: all(run.config_path.exists() for run in runs))
    else:
        wait_until(process, lambda: all(len(run.metrics()) > 5 for run in runs))
        second = here("sweep", "--config", study)
        assert second.returncode == 2
        assert f"the study in results/tiny is in use by process {process.pid}" in second.stderr
        assert len(second.stderr.splitlines()) == 1
    os.killpg(process.pid, number)
    said, complaint = process.communicate()
    assert (process.returncode, complaint) == (code, ""), said
    assert all(run.status().state in ("interrupted", "pending") for run in runs)
    assert early or all(run.status().message == "stopped by a signal; the same command continues" for run in runs)


@pytest.mark.slow
@pytest.mark.parametrize("victim", ["parent", "worker"])
def test_after_sigkill_a_sweep_goes_on_and_equals_an_undisturbed_one(
    write_study: Write, here: Cli, victim: str
) -> None:
    study = write_study(grid={"model.depth": [8, 14]}, train=LONG)
    undisturbed = here("sweep", "--config", study, "--results", "undisturbed")
    assert undisturbed.returncode == 0, undisturbed.stderr
    process = subprocess.Popen(command("sweep", "--config", study, "--jobs", 2), stdout=subprocess.PIPE, text=True)
    runs = runs_of(study)
    wait_until(process, lambda: all(len(run.metrics()) >= 30 for run in runs))
    if victim == "parent":
        process.kill()
        process.communicate()
        for run in runs_of(study):  # workers that lost their parent save and end by themselves
            wait_until(None, lambda run=run: run.status().state != "running")  # type: ignore[misc]
    else:
        holder = runs_of(study)[0].lock_path.read_text().split()[1]
        os.kill(int(holder), signal.SIGKILL)
        said, _ = process.communicate()
        assert process.returncode == 0
        assert "its process was killed by signal 9; tried again (1 of 2)" in said.replace("\n", " ")
    assert here("sweep", "--config", study).returncode == 0
    for run, other in zip(runs_of(study), runs_of(study, Path("undisturbed")), strict=True):
        assert_same(run, other)


def test_train_begins_and_continues_the_one_run_of_a_study(write_study: Write, here: Cli) -> None:
    study = write_study(seeds=[3, 4])
    done = here("train", "--config", study, "--seed", 7)
    assert done.returncode == 0, done.stderr
    folder = Path(done.stdout.splitlines()[-1])
    assert folder.name == "seed7"
    assert [run.folder for run in StudyFolder(Path("results/tiny")).runs()] == [folder]
    assert here("train", "--config", study).returncode == 0
    assert len(StudyFolder(Path("results/tiny")).runs()) == 2


def test_train_of_a_grid_says_what_to_do_instead(write_study: Write, here: Cli) -> None:
    done = here("train", "--config", write_study(grid={"model.depth": [8, 14]}))
    assert done.returncode == 2
    assert "has 2 nets (residual-8, residual-14); train takes one: use `resexp sweep " in done.stderr


def test_a_dry_run_writes_nothing(write_study: Write, here: Cli) -> None:
    done = here("sweep", "--config", write_study(grid=GRID, seeds=[0, 1]), "--dry-run")
    assert (done.returncode, done.stdout.count("pending")) == (0, 8)
    assert not Path("results").exists()


def test_changed_data_under_a_finished_study_are_refused(write_study: Write, here: Cli) -> None:
    study = write_study(executor={"name": "debug"})
    assert here("sweep", "--config", study).returncode == 0
    run = runs_of(study)[0]
    manifest = run.manifest()
    assert manifest is not None
    manifest.data.fingerprint = "another"
    run.write_manifest(manifest)
    done = here("sweep", "--config", study)
    assert done.returncode == 2
    assert "begun on other data" in done.stderr


@pytest.mark.parametrize("command", [["sweep", "--config"], ["train"]])
def test_a_copy_of_a_finished_run_does_not_pass_for_another_seed(
    write_study: Write, here: Cli, command: list[str]
) -> None:
    study = write_study(grid={"model.depth": [8]}, seeds=[0], executor={"name": "debug"})
    assert here("sweep", "--config", study).returncode == 0
    (run,) = runs_of(study)
    shutil.copytree(run.folder, run.folder.with_name("seed1"))
    study = write_study(grid={"model.depth": [8]}, seeds=[0, 1], executor={"name": "debug"})
    done = here(*command, study if command[0] == "sweep" else run.folder.with_name("seed1"))
    assert done.returncode == 2
    assert f"describes {run.folder.parent.name}/seed0" in done.stderr
    assert "the folder was copied from there" in done.stderr


def test_a_grid_can_grow_without_training_anything_again(write_study: Write, here: Cli) -> None:
    debug = {"name": "debug"}
    assert here("sweep", "--config", write_study(grid={"model.depth": [8]}, executor=debug)).returncode == 0
    done = here("sweep", "--config", write_study(grid={"model.depth": [8], "model.width": [2, 3]}, executor=debug))
    assert "1 to train, 1 finished before" in done.stdout
    labels = [run.label for run in StudyFolder(Path("results/tiny")).runs()]
    assert labels == ["residual-8-width=2", "residual-8-width=3"]


@pytest.mark.slow
def test_runs_trained_one_by_one_at_the_same_time_are_all_in_the_plan(write_study: Write) -> None:
    study = write_study()
    words = [command("train", "--config", study, "--seed", seed) for seed in range(2)]
    started = [subprocess.Popen(w, stdout=subprocess.DEVNULL) for w in words]
    assert [process.wait() for process in started] == [0, 0]
    assert len(StudyFolder(Path("results/tiny")).runs()) == 2


def test_a_sweep_that_is_refused_leaves_no_run_folder(write_study: Write, here: Cli) -> None:
    study = write_study()
    study.write_text("name: tiny\ndata: {source: folder, path: nowhere}\n")
    for verb in ("sweep", "train"):
        assert here(verb, "--config", study).returncode == 2
    assert not list(Path("results").rglob("config.yaml"))


def test_a_study_is_named_with_or_without_an_option(write_study: Write, here: Cli) -> None:
    study = write_study()
    for words in ([study], ["--config", study]):
        for verb in ("sweep", "train"):
            assert here(verb, *words, "--dry-run").stdout.startswith("tiny: 1 run ")
    for verb in ("sweep", "train"):
        done = here(verb, study, "--config", study)
        assert (done.returncode, done.stderr) == (2, f"resexp: {verb}: the study is named twice; name it once\n")


def test_a_sweep_writes_its_report_where_asked_to(write_study: Write, here: Cli) -> None:
    page = Path("results/tiny/report/index.html")
    study = write_study(grid={"model.depth": [8, 14]}, executor={"name": "debug"})
    assert here("sweep", study, "--only", "residual-8").returncode == 0
    assert not page.exists()
    done = here("sweep", study, "--report")
    assert done.returncode == 0, done.stderr
    *_, headline, where, last = done.stdout.splitlines()
    assert (where, last.partition(":")[0]) == (f"{page}", "results/tiny")
    assert headline in here("report", "tiny").stdout
    assert page.exists()


def test_probes_that_finished_runs_lack_are_named(here: Cli, write_study: Callable[..., Path]) -> None:
    study = write_study(grid=GRID, executor={"name": "debug"}, probes={"signals": [0]})
    assert "without probes" not in here("sweep", study).stdout
    write_study(
        grid=GRID, executor={"name": "debug"}, probes={"signals": [0, -1], "branches": [-1], "tta": ["ten-crop"]}
    )
    line = "4 finished runs without probes that were added to the study later: {}; see `resexp probe --help`"
    assert line.format("signals, ten-crop, branches") in here("sweep", study).stdout.splitlines()
    assert here("probe", "signals", "tiny").returncode == here("probe", "ten-crop", "tiny").returncode == 0
    line = line.replace("4", "2").format("branches")  # plain nets have none
    assert line in here("sweep", study).stdout.splitlines()
    assert here("probe", "branches", "tiny").returncode == 0
    assert "without probes" not in here("sweep", study).stdout


def test_runs_of_an_earlier_configuration_are_named(here: Cli, write_study: Callable[..., Path]) -> None:
    debug = {"name": "debug"}
    study = write_study(grid={"model.depth": [8]}, executor=debug)
    assert "left out" not in here("sweep", study).stdout
    write_study(grid={"model.depth": [8]}, train={"lr": 0.05}, executor=debug)
    line = here("sweep", study, "--dry-run").stdout.splitlines()[-1]
    assert line.startswith("results/tiny: 1 run left out, which the study no longer names: residual-8-")
    done = here("sweep", study).stdout.splitlines()
    assert done.index(line) < done.index("1 to train, 0 finished before")
    for words in (["status"], ["status", "tiny"]):
        assert "1 run left out, which the study no longer names: " in here(*words).stdout
    folder = StudyFolder(Path("results/tiny"))
    assert (len(folder.runs()), len(folder.strays())) == (1, 1)
