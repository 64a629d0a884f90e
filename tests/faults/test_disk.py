"""Disks that are full or can't be written, and folders that vanish: a line that says so, and nothing lost but time."""

from __future__ import annotations

import contextlib
import errno
import functools
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from resexp.runs.store import Run, StudyFolder
from resexp.training.train import train
from tests.conftest import command, fill, wait_until
from tests.faults.processes import Sweep
from tests.faults.test_every_operation import assert_nothing_lost, make
from tests.test_sweep import runs_of
from tests.test_training import assert_same, tiny

Survived = Callable[..., None]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Write = Callable[..., Path]

LONG = {"steps": 100_000, "log_every": 1, "eval_every": 100_000, "milestones": [], "checkpoint_steps": 20}


def leave_room(ballast: Path, size: int, room: int) -> None:
    """Cut so much off the ballast that filled the disk."""
    with ballast.open("r+b") as file:
        file.truncate(size - room)


@contextlib.contextmanager
def read_only(disk: Path) -> Iterator[None]:
    """A disk that was remounted read-only, as Linux does where it finds errors; root respects that as well."""
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)


def assert_one_line(done: subprocess.CompletedProcess[str], says: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("times", [pytest.param(60, marks=pytest.mark.faults), 6])
def test_a_run_on_a_disk_as_full_as_you_like_loses_nothing(
    tmp_path: Path, small_disk: Path, times: int, survived: Survived
) -> None:
    """The disk is full at random levels, until the run has got through with what room there was."""
    whole = make(tmp_path / "whole")
    train(whole)
    chance, full, number = random.Random(2), 0, 0
    while full < times:
        number += 1
        run = make(small_disk / f"run{number}")
        size = fill(small_disk).stat().st_size
        while run.status().state != "finished":
            leave_room(small_disk / "ballast", size, chance.randrange(300_000))
            try:
                train(run)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                full += 1
            size = fill(small_disk).stat().st_size
        assert_nothing_lost(run, whole)
        (small_disk / "ballast").unlink()
        shutil.rmtree(run.folder)
    survived("full disk under a run", full)


@pytest.mark.faults
def test_a_sweep_on_a_disk_as_full_as_you_like_loses_nothing(
    write_study: Write, here: Cli, small_disk: Path, survived: Survived
) -> None:
    study = write_study(grid={"model.depth": [8, 14]})
    assert here("sweep", "--config", study, "--results", "undisturbed").returncode == 0
    results = small_disk / "results"
    results.mkdir()
    size = fill(small_disk).stat().st_size
    rooms = (0, 5_000, 40_000, 120_000)
    for room in rooms:
        leave_room(small_disk / "ballast", size, room)
        done = here("sweep", "--config", study, "--results", results)
        assert done.returncode in (1, 2)
        assert "No space left on device" in done.stdout + done.stderr
        assert "Traceback" not in done.stdout + done.stderr
        size = fill(small_disk).stat().st_size
    (small_disk / "ballast").unlink()
    assert here("sweep", "--config", study, "--results", results).returncode == 0
    for run, other in zip(runs_of(study, results), runs_of(study, Path("undisturbed")), strict=True):
        assert_same(run, other)
    survived("full disk under a sweep", len(rooms))


def test_runs_can_be_deleted_from_a_full_disk(write_study: Write, here: Cli, small_disk: Path) -> None:
    study = write_study(grid={"model.depth": [8, 14]})
    assert here("sweep", study, "--results", small_disk).returncode == 0
    fill(small_disk)
    done = here("rm", "tiny:residual-8", "--yes", "--results", small_disk)
    assert (done.returncode, done.stderr) == (0, "")
    assert [run.title for run in StudyFolder(small_disk / "tiny").runs()] == ["residual-14 seed 0"]
    assert not list(small_disk.glob("tiny/residual-8-*"))


@pytest.mark.faults
def test_a_disk_that_can_not_be_written_gets_one_line_and_can_still_be_read(
    write_study: Write, here: Cli, small_disk: Path, survived: Survived
) -> None:
    study = write_study(grid={"model.depth": [8, 14]})
    sweep = functools.partial(here, "sweep", "--config", study, "--results", small_disk)
    assert sweep("--only", "residual-8").returncode == 0
    finished, missing = runs_of(study, small_disk)
    with read_only(small_disk):
        assert_one_line(sweep(), "Read-only file system")
        assert_one_line(here("train", missing.folder), "Read-only file system")
        assert_one_line(here("report", small_disk / "tiny"), "Read-only file system")
        assert "finished" in here("status", small_disk / "tiny").stdout
        assert here("report", small_disk / "tiny", "--out", "elsewhere").returncode == 0
    before = finished.metrics_path.stat().st_mtime_ns
    assert sweep().returncode == 0
    assert missing.status().state == "finished"
    assert finished.metrics_path.stat().st_mtime_ns == before
    survived("folder that can't be written", 3)


@pytest.mark.faults
@pytest.mark.parametrize("vanishing", ["run", "study"])
def test_a_folder_that_vanishes_in_mid_run_gets_one_line(
    write_study: Write, tmp_path: Path, vanishing: str, survived: Survived
) -> None:
    study = write_study(grid={"model.depth": [8, 14]}, train=LONG)
    sweep = Sweep(study, tmp_path / "results", "--jobs", 2)
    runs = runs_of(study, tmp_path / "results")
    wait_until(sweep.process, lambda: all(len(run.metrics()) > 25 for run in runs))
    if vanishing == "run":
        remove(runs[0].folder)
        wait_until(sweep.process, lambda: not sweep.workers(runs[:1]))
        sweep.process.terminate()
    else:
        remove(tmp_path / "results/tiny")
    said = sweep.said()
    assert sweep.process.returncode in (1, 2, 143), said
    assert "Traceback" not in said
    assert "No such file or directory" in said.replace("\n", " ")
    if vanishing == "run":
        assert not runs[0].folder.exists()
        assert runs[1].status().state == "interrupted"
    survived("folder that vanishes in mid-run")


@pytest.mark.faults
def test_a_run_folder_that_vanishes_under_train_gets_one_line(tmp_path: Path, survived: Survived) -> None:
    config = tiny(train=LONG)
    run = Run(tmp_path / config.folder)
    run.create(config)
    process = subprocess.Popen(command("train", run.folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(process, lambda: len(run.metrics()) > 25)
    remove(run.folder)
    _, complained = process.communicate(timeout=100)
    assert process.returncode == 2, complained
    assert "No such file or directory" in complained
    assert len(complained.splitlines()) == 1
    assert not run.folder.exists()
    survived("folder that vanishes in mid-run")


def remove(folder: Path) -> None:
    """Delete a folder in which others go on making files."""
    while folder.exists():
        shutil.rmtree(folder, ignore_errors=True)
