"""Studies, nets and runs have names: STUDY, STUDY:NET, STUDY:NET/SEED; a path that exists comes first."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from resexp.cli import app, probe
from resexp.config.study import load
from resexp.errors import UserError
from resexp.runs.names import find_run, is_run_name, open_study, select_runs
from resexp.runs.store import StudyFolder
from resexp.sweeping import create

Write = Callable[..., Path]
RESULTS = Path("results")


@pytest.fixture
def study(write_study: Write) -> StudyFolder:
    """Two nets with two seeds each, none of them trained."""
    loaded, cells = load(str(write_study(grid={"model.kind": ["plain", "residual"]}, seeds=[0, 1])))
    for cell in cells:
        create(loaded, cell, RESULTS)
    return StudyFolder(RESULTS / loaded.name)


@pytest.mark.parametrize(
    ("name", "runs"),
    [
        ("tiny", ["plain-8 seed 0", "plain-8 seed 1", "residual-8 seed 0", "residual-8 seed 1"]),
        ("results/tiny", ["plain-8 seed 0", "plain-8 seed 1", "residual-8 seed 0", "residual-8 seed 1"]),
        ("tiny:plain-8", ["plain-8 seed 0", "plain-8 seed 1"]),
        ("results/tiny:residual-8", ["residual-8 seed 0", "residual-8 seed 1"]),
        ("tiny:residual-8/1", ["residual-8 seed 1"]),
    ],
)
def test_a_name_stands_for_runs(study: StudyFolder, name: str, runs: list[str]) -> None:
    found = select_runs(name, RESULTS)
    assert [run.title for run in found.runs] == runs
    assert found.study.folder == study.folder
    assert found.is_study == (len(runs) == 4)


def test_a_study_is_called_by_its_file_too(study: StudyFolder) -> None:
    assert is_run_name("tiny.yaml", RESULTS) is False
    assert select_runs("tiny.yaml", RESULTS).study.folder == study.folder
    assert find_run("tiny.yaml:plain-8/1", RESULTS).folder == find_run("tiny:plain-8/1", RESULTS).folder


def test_a_shipped_study_has_the_results_of_its_name(study: StudyFolder) -> None:
    study.folder.rename(RESULTS / "figure6")
    assert open_study("cifar10/figure6", RESULTS).folder == RESULTS / "figure6"
    assert find_run("cifar10/figure6:plain-8/1", RESULTS).seed == 1
    with pytest.raises(UserError) as refused:
        open_study("cifar10/class", RESULTS)
    assert refused.value.args == (
        "cifar10/class: a study that was not swept here; `resexp sweep cifar10/class` trains it; results has the "
        "studies figure6",
    )


def test_a_folder_of_the_same_name_does_not_hide_a_study(study: StudyFolder) -> None:
    Path("tiny").mkdir()
    assert select_runs("tiny", RESULTS).study.folder == study.folder


def test_a_run_has_a_path_too(study: StudyFolder) -> None:
    run = find_run("tiny:plain-8/1", RESULTS)
    inside = run.folder / "probes"
    inside.mkdir()
    for folder, name in ((Path.cwd(), str(run.folder)), (run.folder, "."), (inside, "..")):
        with contextlib.chdir(folder):
            found = select_runs(name, Path("elsewhere"))
        assert [(folder / one.folder, one.title) for one in found.runs] == [(run.folder.absolute(), "plain-8 seed 1")]
        assert found.study.folder == study.folder.absolute()


@pytest.mark.parametrize("name", ["project/app", "project/seed0"])
def test_a_folder_of_another_program_with_a_config_yaml_is_no_run(name: str, tmp_path: Path) -> None:
    folder = tmp_path / name
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text("debug: true\n")
    done = CliRunner().invoke(app, ["rm", str(folder), "--yes"])
    assert isinstance(done.exception, UserError)
    assert done.exception.args == (
        f"{folder}: holds a config.yaml, but is no run folder, such as plain-20-0123abcd/seed0",
    )
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tny:plain-8", "tny:plain-8: no study 'tny'; results has the studies tiny (did you mean 'tiny'?)"),
        (":plain-8", ":plain-8: no study ''; results has the studies tiny"),
        (
            "tiny:plan-8/0",
            "tiny:plan-8: no net 'plan-8' in this study; it has plain-8, residual-8 (did you mean 'plain-8'?)",
        ),
        ("tiny:plain-8/7", "tiny:plain-8/7: no seed '7' of this net; it has 0, 1"),
        ("tiny:plain-8/00", "tiny:plain-8/00: no seed '00' of this net; it has 0, 1"),
        (
            "tinyy",
            "tinyy: neither a run folder (config.yaml) nor a study folder (study.json), nor a name such as "
            "STUDY:NET/SEED; results has the studies tiny (did you mean 'tiny'?)",
        ),
        (
            "results",
            "results: neither a run folder (config.yaml) nor a study folder (study.json); it holds the studies tiny: "
            "name one of them",
        ),
    ],
)
def test_what_is_not_there_gets_one_line_with_the_nearest_name(study: StudyFolder, name: str, line: str) -> None:
    with pytest.raises(UserError) as refused:
        select_runs(name, RESULTS)
    assert refused.value.args == (line,)


def test_a_command_for_one_run_or_one_study_takes_no_other(study: StudyFolder) -> None:
    with pytest.raises(UserError, match="tiny:plain-8: 2 runs; name one, such as tiny:plain-8/0"):
        find_run("tiny:plain-8", RESULTS)
    with pytest.raises(UserError, match="tiny:plain-8: not a study folder but a part of results/tiny; name that"):
        open_study("tiny:plain-8", RESULTS)
    assert open_study(None, RESULTS).folder == open_study("tiny", RESULTS).folder == study.folder


def test_a_study_file_is_not_taken_for_results(study: StudyFolder, tmp_path: Path) -> None:
    Path("a:b.yaml").write_text("name: x\n")
    names = [
        "results/nothing/seed0",
        "tiny",
        "results/tiny",
        "tiny:plain-8",
        "nothing:at-all",
        "tiny.yaml",
        "a:b.yaml",
        "quickstart",
        "quickstrt",
    ]
    assert [name for name in names if is_run_name(name, RESULTS)] == names[:5]


def test_commands_take_names(write_study: Write) -> None:
    def call(*words: str) -> str:
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, done.output
        return done.output

    study = str(write_study(grid={"model.kind": ["plain", "residual"]}, seeds=[0, 1]))
    call("sweep", study, "--only", "plain-8", "--executor", "debug")
    assert call("status", "tiny:plain-8/1").count("finished") == 1
    assert call("status", "tiny:residual-8").count("pending") == 2
    assert "already finished" in call("train", "tiny:plain-8/0")
    assert "already finished" in call("train", "tiny:plain-8/0", "tiny:plain-8/0"), "a run that is named twice is one"
    assert call("train", "tiny:residual-8/1").count("finished;") == 1
    assert call("train", "tiny:residual-8").endswith(f"see `resexp report {Path.cwd()}/results/tiny`\n")
    call("export", "tiny:plain-8/0", "--to", "net.pt")
    assert Path("net.pt").exists()
    done = CliRunner().invoke(app, ["probe", "gradients", "tiny:plain-8", "--json"])
    assert [record["run"] for record in json.loads(done.stdout)] == ["plain-8 seed 0", "plain-8 seed 1"]
    assert done.stderr.splitlines() == ["gradients 1/2: plain-8 seed 0", "gradients 2/2: plain-8 seed 1"]
    assert "ensemble of 2" in call("probe", "ensemble", "tiny:plain-8")
    assert "results/tiny/report/index.html" in call("report", "tiny")


def test_a_probe_at_work_says_so_now_and_then(monkeypatch: pytest.MonkeyPatch, logged: list[str]) -> None:
    """A line after the first piece, and one after each that ends LINE_S seconds or more after the last line."""
    clock = iter([0.0, 4.0, 12.0, 15.0, 23.0])
    monkeypatch.setattr(probe.time, "monotonic", lambda: next(clock))
    stop = probe._logged("lesion 1/2: plain-20 seed 0", lambda: False)
    assert [stop() for _ in range(4)] == [False] * 4
    assert logged == [
        "lesion 1/2: plain-20 seed 0",
        "lesion 1/2: plain-20 seed 0: 2 pieces in 12 s",
        "lesion 1/2: plain-20 seed 0: 4 pieces in 23 s",
    ]


def test_a_run_that_cannot_be_read_is_a_line_and_the_others_are_shown(
    study: StudyFolder, here: Callable[..., Any]
) -> None:
    run, *others = study.runs()
    run.status_path.symlink_to(run.status_path.absolute())
    done = here("status", study.folder)
    assert done.returncode == 0
    assert done.stderr == f"{run.title}: {run.status_path}: Too many levels of symbolic links\n"
    assert run.title not in done.stdout
    assert all(other.title in done.stdout for other in others)


def test_a_study_whose_records_are_no_files_hides_no_other(study: StudyFolder, here: Callable[..., Any]) -> None:
    damaged = study.folder.with_name("damaged")
    damaged.mkdir()
    (damaged / "study.json").mkdir()
    done = here("list", "--results", study.folder.parent)
    assert done.returncode == 0
    assert study.folder.name in done.stdout
    assert f"{damaged}/study.json: not a plain file; move it elsewhere" in done.stderr
    empty = study.folder.with_name("empty")
    empty.mkdir()
    (empty / "study.json").write_text('{"name": "empty"}')
    assert (
        "empty:plain-8: no net 'plain-8' in this study; it has no runs yet"
        in here("status", "empty:plain-8", "--results", study.folder.parent).stderr
    )
