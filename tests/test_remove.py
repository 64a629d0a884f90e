"""`resexp rm` deletes run folders and nothing else; `resexp sweep --rerun` begins nets again, and no others."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from resexp.cli import app
from resexp.config.study import load
from resexp.errors import UserError
from resexp.report.stats import runs_table
from resexp.runs.earlier import size
from resexp.runs.records import Status
from resexp.runs.store import Run, StudyFolder
from resexp.sweeping import create

Write = Callable[..., Path]
Cli = Callable[..., "Result"]


@pytest.fixture
def study(write_study: Write) -> StudyFolder:
    """Two nets with two seeds each, as if they had been trained; each folder holds 1 MiB."""
    loaded, cells = load(str(write_study(grid={"model.kind": ["plain", "residual"]}, seeds=[0, 1])))
    for cell in cells:
        run = create(loaded, cell, Path("results"))
        run.write_status(Status(state="finished", step=12, steps=12))
        run.checkpoint_path.write_bytes(b"\0" * 2**20)
    return StudyFolder(Path("results") / loaded.name)


def rm(*words: str, answer: str = "") -> Result:
    return CliRunner().invoke(app, ["rm", *words], input=answer)


def names(study: StudyFolder) -> list[str]:
    """The runs that are there, in the plan and on the disk."""
    there = [run for run in study.runs() if run.folder.exists()]
    assert len(there) == len(study.runs())
    assert len(list(study.folder.glob("*/*"))) == len(there)
    return [run.title for run in there]


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("tiny:plain-8/0", ["plain-8 seed 1", "residual-8 seed 0", "residual-8 seed 1"]),
        ("tiny:plain-8", ["residual-8 seed 0", "residual-8 seed 1"]),
    ],
)
def test_a_net_or_a_run_is_deleted_and_no_other(study: StudyFolder, name: str, left: list[str]) -> None:
    done = rm(name, "--yes")
    count = 4 - len(left)
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(
        f"deleted {count} run{'s' * (count > 1)} of results/tiny, {count}.0 MiB: plain-8 seed 0"
    )
    assert names(study) == left


def test_a_path_names_a_run_as_well(study: StudyFolder) -> None:
    assert rm(str(study.runs()[0].folder), "--yes").exit_code == 0
    assert names(study) == ["plain-8 seed 1", "residual-8 seed 0", "residual-8 seed 1"]


def test_a_whole_study_goes_with_what_its_runs_left(study: StudyFolder) -> None:
    stray = study.runs()[3]
    study.write_plan(study.plan().model_copy(update={"runs": study.plan().runs[:3]}))
    assert [run.folder for run in study.strays()] == [stray.folder]
    done = rm("tiny", "--yes")
    assert done.stdout.startswith("deleted 4 runs of results/tiny, 4.0 MiB: ")
    assert list(Path("results").iterdir()) == []


def test_what_is_not_a_run_folder_stays(study: StudyFolder) -> None:
    notes, page = study.folder / "notes.txt", study.folder / "report" / "index.html"
    page.parent.mkdir()
    for path in (notes, page):
        path.write_text("mine")
    elsewhere = Path("elsewhere")
    run = study.runs()[0]
    run.folder.rename(elsewhere)
    run.folder.symlink_to(elsewhere.absolute())
    damaged = study.runs()[1]
    damaged.config_path.write_text("model: {depth: 14}\n")
    done = rm("tiny", "--yes")
    assert "deleted 2 runs" in done.stdout
    left = f".lock, .plan.lock, notes.txt, {run.folder.parent.name}, report, study.json"
    assert f"left as they are in results/tiny: {left}" in done.stdout
    assert [one.folder for one in study.runs()] == [run.folder, damaged.folder]
    assert isinstance(done.exception, UserError)
    assert done.exception.args[0] == f"{run.folder}: a link; not deleted: delete it by hand"
    assert damaged.folder.exists()
    assert (elsewhere / "checkpoint.pt").exists()
    assert notes.read_text() == page.read_text() == "mine"


def test_a_lost_configuration_is_written_again_by_a_sweep_and_its_run_is_not_deleted(study: StudyFolder) -> None:
    run = study.runs()[0]
    text = run.config_path.read_text()
    run.config_path.unlink()
    done = rm("tiny:plain-8/0", "--yes")
    assert done.exception.args == (
        f"{run.folder}: no config.yaml, so it may be no run; not deleted: delete it by hand",
    )
    assert run.checkpoint_path.exists()
    loaded, cells = load("tiny.yaml")
    create(loaded, cells[0], Path("results"))
    assert run.config_path.read_text() == text
    assert run.status().state == "finished"


def test_what_an_interrupted_deletion_left_goes_with_the_next(study: StudyFolder) -> None:
    plain, *_ = study.runs()
    half = plain.folder.with_name(".seed1.deleted")
    study.runs()[1].folder.rename(half)
    done = rm("tiny:plain-8/0", "--yes")
    assert done.exit_code == 0, done.output
    assert not half.parent.exists()


def test_a_run_without_its_configuration_is_not_begun(study: StudyFolder) -> None:
    run = study.runs()[0]
    run.config_path.unlink()
    before = sorted(run.folder.iterdir())
    done = CliRunner().invoke(app, ["train", "tiny:plain-8/0"])
    assert isinstance(done.exception, UserError)
    assert done.exception.args[0].startswith(f"{run.config_path}: ")
    assert sorted(run.folder.iterdir()) == before


@pytest.mark.parametrize(("answer", "left"), [("n\n", 4), ("", 4), ("y\n", 2)])
def test_it_asks(study: StudyFolder, answer: str, left: int) -> None:
    done = rm("tiny:plain-8", answer=answer)
    assert "2 runs of results/tiny, 2.0 MiB: plain-8 seed 0, plain-8 seed 1\ndelete? [y/N]" in done.stderr
    assert len(names(study)) == left
    line = "rm: nothing was deleted, for nobody said yes; without a terminal, add --yes"
    assert repr(done.exception) == (repr(UserError(line)) if left == 4 else "None")


def test_a_run_at_work_is_not_deleted_nor_are_its_neighbours(study: StudyFolder) -> None:
    with study.runs()[1].leased():
        done = rm("tiny", "--yes")
    assert isinstance(done.exception, UserError)
    assert done.exception.args == ("plain-8 seed 1: still running, so nothing was deleted; stop first",)
    assert len(names(study)) == 4


def test_a_rerun_begins_at_step_0_and_gives_the_same_again(write_study: Write) -> None:
    study = str(write_study(grid={"model.kind": ["plain", "residual"]}))
    sweep = ["sweep", study, "--executor", "debug"]
    assert CliRunner().invoke(app, sweep).exit_code == 0
    plain, residual = StudyFolder(Path("results/tiny")).runs()
    before, kept = plain.metrics_path.read_bytes(), residual.metrics_path.stat()
    began = plain.manifest_path.stat().st_mtime_ns
    done = CliRunner().invoke(app, [*sweep, "--rerun", "plain-8"])
    assert done.exit_code == 0, done.output
    assert "1 trained, 0 finished before" in done.stdout
    assert _errors(plain.metrics_path.read_text()) == _errors(before.decode())
    manifest = plain.manifest()
    assert manifest is not None
    assert [attempt.from_step for attempt in manifest.attempts] == [0]
    assert plain.manifest_path.stat().st_mtime_ns > began
    assert residual.metrics_path.stat() == kept
    assert not list(plain.folder.glob(".attempt-*/checkpoint.pt"))
    assert CliRunner().invoke(app, sweep).stdout.count("finished before") == 2


def _errors(lines: str) -> list[str]:
    """The lines of metrics.jsonl without what depends on the clock."""
    return [line for line in lines.splitlines() if '"event": "eval"' in line]


def test_nothing_is_taken_away_where_a_rerun_can_not_begin(study: StudyFolder) -> None:
    run = study.runs()[0]
    missing = ["--set", "data={source: folder, path: nowhere}"]
    for words in (missing, ["--set", "train.device=cuda:99"]):
        assert CliRunner().invoke(app, ["sweep", "tiny.yaml", "--rerun", "plain-8", *words]).exit_code != 0
    with run.leased():
        done = CliRunner().invoke(app, ["sweep", "tiny.yaml", "--rerun", "plain-8"])
    assert isinstance(done.exception, UserError)
    assert done.exception.args == ("plain-8 seed 0: is running; stop it first (nothing was deleted)",)
    assert (run.status().state, size(run.checkpoint_path.parent) >> 20) == ("finished", 1)
    done = CliRunner().invoke(app, ["sweep", "tiny.yaml", "--rerun", "plain-9"])
    assert isinstance(done.exception, UserError)
    assert done.exception.args[0].startswith("--rerun plain-9: no such net in this study; it has plain-8, residual-8")


def test_a_cleared_run_is_to_be_begun_and_keeps_its_numbering_of_attempts(study: StudyFolder) -> None:
    run = Run(study.runs()[0].folder)
    run.clear()
    assert run.status().state == "pending"
    assert sorted(path.name for path in run.folder.iterdir()) == [".attempt-1", ".lock", "config.yaml"]
    with run.leased():
        assert sorted(path.name for path in run.folder.glob(".attempt-*")) == [".attempt-2"]


def test_a_run_that_somebody_deleted_is_neither_read_nor_named(study: StudyFolder) -> None:
    gone, *others = study.runs()
    shutil.rmtree(gone.folder)
    table = runs_table(study)
    assert list(table.state) == ["pending"] + ["finished"] * len(others)
    done = rm("tiny", "--yes")
    assert done.exit_code == 0, done.output
    assert (f"deleted {len(others)} runs" in done.stdout, done.stderr) == (True, "")
