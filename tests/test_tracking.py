"""Metrics that are passed on to trackers: every line once, live and afterwards, and never at a run's cost."""

from __future__ import annotations

import json
import os
import subprocess
from collections import defaultdict
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from resexp.config.study import load
from resexp.errors import UserError
from resexp.runs.records import PlannedRun, Status, StudyPlan
from resexp.runs.store import Run, StudyFolder
from resexp.tracking import TRACKERS, Follower, follower, track_study
from resexp.tracking.adapters import Scalars, TrackedRun
from resexp.utils.files import locked
from tests.conftest import command, wait_until

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Write = Callable[..., Path]
TWO = {"grid": {"model.depth": [8, 14]}}


def numbers(run: Run) -> dict[str, list[tuple[int, float]]]:
    """The steps and values of each number in the metrics of a run."""
    found = defaultdict(list)
    for line in run.metrics():
        for name, value in line.items():
            if name not in ("event", "step") and value is not None:
                found[name].append((line["step"], value))
    return found


def runs() -> list[Run]:
    return StudyFolder(Path("results/tiny")).runs()


# -- the follower -----------------------------------------------------------------------------------------------------


class Fake:
    """A tracker that keeps what it gets, in the order of the calls; one for each time that a run is opened."""

    opened: list[Fake]

    def __init__(self, run: TrackedRun) -> None:
        self.run, self.id, self.lines, self.final = run, run.id or f"id{len(Fake.opened)}", [], "open"
        self.lines: list[tuple[int, Scalars]]
        self.final: Any
        Fake.opened.append(self)

    def log(self, step: int, values: Scalars) -> None:
        if values.get("train_loss") == 13:
            raise OSError("the network is gone\nfor a while")
        self.lines.append((step, values))

    def close(self, final: Scalars | None) -> None:
        self.final = final


@pytest.fixture
def run(write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run at work without metrics, and a tracker named fake; every look looks."""
    Fake.opened = []
    monkeypatch.setitem(TRACKERS, "fake", Fake)
    monkeypatch.setattr(follower, "LOOK_S", 0.0)
    cell = load(str(write_study()))[1][0]
    made = Run(tmp_path / "results/tiny" / cell.config.folder, cell.label)
    made.create(cell.config)
    return made


def write(run: Run, *lines: dict[str, Any], tail: str = "") -> None:
    """A new file, as every attempt makes one."""
    new = run.folder / "new"
    new.write_text("".join(json.dumps(line) + "\n" for line in lines) + tail)
    new.replace(run.metrics_path)


def train_line(step: int, loss: float = 1.5) -> dict[str, Any]:
    return {"event": "train", "step": step, "train_loss": loss, "images_per_second": None}


def test_every_line_is_passed_on_once_over_attempts_and_sweeps(run: Run, logged: list[str], tmp_path: Path) -> None:
    following = Follower(tmp_path / "results/tiny", ["fake", "fake"])
    following.update([run])
    assert Fake.opened == []  # nothing to pass on yet
    write(run, train_line(4), train_line(8), tail='{"event": "train", "st')
    following.update([run])
    with run.metrics_path.open("a") as file:
        file.write('ep": 12, "train_loss": 0.5}\n')
    following.update([run])
    write(run, train_line(4), train_line(8))  # another attempt, behind a checkpoint
    following.update([run])
    write(run, train_line(4), train_line(8), train_line(12, 0.5), train_line(16))
    following.update([run])
    following.close()  # as when a sweep is interrupted
    assert [step for step, _ in Fake.opened[0].lines] == [4, 8, 12, 16]
    assert Fake.opened[0].lines[2] == (12, {"train_loss": 0.5})
    assert Fake.opened[0].final is None
    test = {"event": "test", "step": 16, "test_error": 0.25}
    write(run, *map(train_line, (4, 8, 12, 16)), {"event": "milestone", "step": 16}, test)
    run.write_status(Status(state="finished"))
    for _ in range(2):
        again = Follower(tmp_path / "results/tiny", ["fake"])
        again.ended(run)
    assert [opened.run.id for opened in Fake.opened] == ["", "id0"]
    assert Fake.opened[1].lines == [(16, {"test_error": 0.25})]
    assert Fake.opened[1].final == {"test_error": 0.25}
    assert logged == []


def test_the_configuration_is_passed_on_by_dotted_key(run: Run, logged: list[str], tmp_path: Path) -> None:
    write(run, train_line(4))
    Follower(tmp_path / "results/tiny", ["fake"]).update([run])
    (opened,) = Fake.opened
    assert (opened.run.study, opened.run.name) == ("tiny", "residual-8-seed0")
    expected = {"model.depth": 8, "train.lr": 0.1, "data.source": "shapes", "seed": 0, "train.milestones": "[6, 9]"}
    assert opened.run.config.items() >= expected.items()
    assert logged == []


def test_a_tracker_that_fails_gets_the_rest_later(run: Run, logged: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "results/tiny"
    write(run, train_line(4), train_line(8, 13), train_line(12))
    first = Follower(folder, ["fake"])
    for _ in range(3):
        first.update([run])
    first.ended(run)
    assert logged == [
        f"residual-8 seed 0: fake failed (the network is gone); to continue: resexp export {folder} --track fake"
    ]
    write(run, train_line(4), train_line(8), train_line(12))
    Follower(folder, ["fake"]).ended(run)
    assert [opened.lines for opened in Fake.opened] == [
        [(4, {"train_loss": 1.5})],
        [(8, {"train_loss": 1.5}), (12, {"train_loss": 1.5})],
    ]
    assert len(logged) == 1


@pytest.mark.parametrize("damage", ["tracked.json", "metrics.jsonl"])
def test_a_damaged_file_ends_no_sweep_and_is_left_as_it_is(
    run: Run, damage: str, logged: list[str], tmp_path: Path
) -> None:
    write(run, train_line(4))
    (run.folder / damage).write_text("{no\n")
    following = Follower(tmp_path / "results/tiny", ["fake"])
    following.update([run])
    following.ended(run)
    assert len(logged) == following.failures == 1
    assert "residual-8 seed 0: fake failed (" in logged[0]
    assert (Fake.opened, (run.folder / damage).read_text()) == ([], "{no\n")


# -- the real ones ----------------------------------------------------------------------------------------------------


def scalars(name: str) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard reads of a run, by tag."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(f"results/tiny/tensorboard/{name}", size_guidance={"scalars": 0}).Reload()
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def assert_shown(run: Run, shown: dict[str, list[tuple[int, float]]]) -> None:
    """Every number of the metrics, once, in float32; and the final ones."""
    written = numbers(run)
    curves = {tag: points for tag, points in shown.items() if not tag.startswith("final/")}
    assert curves.keys() == written.keys()
    for name, points in written.items():
        assert [step for step, _ in curves[name]] == [step for step, _ in points]
        assert [value for _, value in curves[name]] == pytest.approx([value for _, value in points], rel=1e-6)
    assert shown["final/test_error"][-1][1] == pytest.approx(written["test_error"][-1][1], rel=1e-6)


def test_tensorboard_shows_a_sweep(write_study: Write, resexp: Cli) -> None:
    pytest.importorskip("tensorboard", reason="needs pip install 'resexp[tensorboard]'")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = resexp("sweep", "--config", write_study(**TWO), "--track", "tensorboard")
    assert done.returncode == 0, done.stderr
    for run in runs():
        assert_shown(run, scalars(f"{run.label}-seed0"))
    files = EventAccumulator("results/tiny/tensorboard/residual-14-seed0").Reload()
    assert "_hparams_/session_start_info" in files.PluginTagToContent("hparams")
    before = {path: path.read_bytes() for path in Path("results/tiny/tensorboard").rglob("*") if path.is_file()}
    again = resexp("export", "results/tiny", "--track", "tensorboard")
    assert again.stdout == "results/tiny: 2 runs passed on to tensorboard\n"
    assert before == {path: path.read_bytes() for path in Path("results/tiny/tensorboard").rglob("*") if path.is_file()}


def test_tensorboard_shows_a_run_at_work_and_what_an_interruption_left(write_study: Write, resexp: Cli) -> None:
    pytest.importorskip("tensorboard", reason="needs pip install 'resexp[tensorboard]'")
    study = write_study(train={"steps": 100_000, "log_every": 1, "eval_every": 100_000})
    process = subprocess.Popen(command("sweep", "--config", study, "--track", "tensorboard"), stdout=subprocess.DEVNULL)
    shown = Path("results/tiny/tensorboard/residual-8-seed0")
    wait_until(process, lambda: shown.exists() and len(scalars(shown.name).get("train_loss", [])) > 5)
    process.terminate()
    assert process.wait() == 143
    (run,) = runs()
    assert run.status().state == "interrupted"
    assert resexp("export", "results/tiny", "--track", "tensorboard").returncode == 0
    for name, points in scalars(shown.name).items():
        assert [step for step, _ in points] == [step for step, _ in numbers(run)[name]]


def test_trackio_shows_two_runs_at_once_and_afterwards(
    write_study: Write, resexp: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trackio", reason="needs pip install 'resexp[trackio]'")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    study = write_study(**TWO)
    done = resexp("sweep", "--config", study, "--track", "trackio", "--jobs", "2")
    assert done.returncode == 0, done.stderr
    assert "* Trackio" not in done.stdout
    script = (
        "import json, trackio\n"
        "runs = trackio.Api().runs('tiny')\n"
        "from trackio.sqlite_storage import SQLiteStorage as s\n"
        "print(json.dumps({r.name: [s.get_logs('tiny', r.name), r.config] for r in runs}))"
    )
    for _ in range(2):  # the second time after an export, which has nothing more to pass on
        shown = json.loads(subprocess.run([command()[0], "-c", script], capture_output=True, text=True).stdout)
        assert sorted(shown) == ["residual-14-seed0", "residual-8-seed0"]
        for run in runs():
            logs, config = shown[f"{run.label}-seed0"]
            assert (config["model.depth"], config["train.steps"]) == (int(run.label.split("-")[1]), 12)
            found = defaultdict(list)
            for log in logs:
                for name, value in log.items():
                    if name not in ("step", "timestamp"):
                        found[name].append((log["step"], value))
            finals = [name for name in found if name.startswith("final/")]
            assert found["final/test_error"] == [(12, numbers(run)["test_error"][0][1])]
            assert {name: points for name, points in found.items() if name not in finals} == numbers(run)
        assert resexp("export", "results/tiny", "--track", "trackio").returncode == 0


# -- those that need an account or a server: replaced at the border of the process -------------------------------------

WANDB = """
import json, os, types

def note(*what):
    with open(os.environ["NOTES"], "a") as file:
        file.write(json.dumps(what) + "\\n")

class Summary:
    def update(self, values):
        note("summary", values)

class Run:
    summary = Summary()
    def log(self, values, step):
        if os.environ.get("FAILS") and step > 4:
            raise ConnectionError("wandb is not there")
        note("log", step, values)
    def finish(self):
        note("finish")

def init(**settings):
    note("init", settings)
    return Run()
"""
MLFLOW = """
import json, os, types

def note(*what):
    with open(os.environ["NOTES"], "a") as file:
        file.write(json.dumps(what) + "\\n")

class MlflowClient:
    def get_experiment_by_name(self, name):
        note("experiment?", name)
    def create_experiment(self, name):
        return "7"
    def create_run(self, experiment_id, run_name):
        note("run", experiment_id, run_name)
        return types.SimpleNamespace(info=types.SimpleNamespace(run_id="abc"))
    def log_batch(self, run_id, metrics=(), params=()):
        assert len(params) <= 100
        note("batch", run_id, [vars(m) for m in metrics], [vars(p) for p in params])
    def set_terminated(self, run_id):
        note("terminated", run_id)
"""
ENTITIES = """
class Metric:
    def __init__(self, key, value, timestamp, step):
        self.key, self.value, self.step = key, value, step

class Param:
    def __init__(self, key, value):
        self.key, self.value = key, value
"""


@pytest.fixture
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[list[Any]]]:
    """Packages that note how they are called, and what they have noted so far."""
    for name, text in {"wandb/__init__": WANDB, "mlflow/__init__": MLFLOW, "mlflow/entities": ENTITIES}.items():
        path = tmp_path / f"packages/{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"), prepend=os.pathsep)
    monkeypatch.setenv("NOTES", str(tmp_path / "notes"))
    return lambda: [json.loads(line) for line in (tmp_path / "notes").read_text().splitlines()]


@pytest.mark.slow
def test_wandb_continues_the_same_run_after_a_failure(
    write_study: Write, resexp: Cli, notes: Callable[[], list[list[Any]]]
) -> None:
    done = resexp("sweep", "--config", write_study(), "--track", "wandb", FAILS="1")
    assert done.returncode == 0
    said = "residual-8 seed 0: wandb failed (wandb is not there); to continue: resexp export results/tiny --track wandb"
    assert said in done.stdout
    again = resexp("export", "results/tiny", "--track", "wandb", FAILS="1")
    assert (again.returncode, again.stdout) == (1, "")
    assert again.stderr.splitlines()[-1] == (
        "resexp: results/tiny: not all runs were passed on; the same command continues"
    )
    assert resexp("export", "results/tiny", "--track", "wandb").returncode == 0
    inits = [words[1] for words in notes() if words[0] == "init"]
    assert len(inits) == 3
    assert len({init["id"] for init in inits}) == 1
    assert all(
        (init["project"], init["name"], init["resume"]) == ("tiny", "residual-8-seed0", "allow") for init in inits
    )
    assert inits[0]["config"]["model.width"] == 2
    (run,) = runs()
    logs = [(step, values) for kind, step, values in (words for words in notes() if words[0] == "log")]
    found = defaultdict(list)
    for step, values in logs:
        for name, value in values.items():
            found[name].append((step, value))
    assert found == numbers(run)
    assert notes()[-2:] == [
        ["summary", {n: p[-1][1] for n, p in numbers(run).items() if n in notes()[-2][1]}],
        ["finish"],
    ]
    assert notes()[-2][1]["test_error"] == run.metrics()[-1]["test_error"]


@pytest.mark.slow
def test_mlflow_gets_parameters_metrics_and_the_end(
    write_study: Write, resexp: Cli, notes: Callable[[], list[list[Any]]]
) -> None:
    done = resexp("sweep", "--config", write_study(), "--track", "mlflow")
    assert done.returncode == 0, done.stderr
    (run,) = runs()
    assert notes()[:2] == [["experiment?", "tiny"], ["run", "7", "residual-8-seed0"]]
    assert notes()[-1] == ["terminated", "abc"]
    params = {param["key"]: param["value"] for words in notes()[2:-1] for param in words[3]}
    assert (params["model.depth"], params["train.batch_size"], params["seed"]) == ("8", "32", "0")
    found = defaultdict(list)
    for words in notes()[2:-1]:
        for metric in words[2]:
            found[metric["key"]].append((metric["step"], metric["value"]))
    assert found == numbers(run)


# -- what a person may get wrong --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (
            ("sweep", "--track", "clearml"),
            "--track clearml: unknown tracker; allowed: tensorboard, trackio, wandb, mlflow",
        ),
        (
            ("sweep", "--track", "wandb", "--track", "mlflow"),
            "--track wandb: wandb is not installed; pip install 'resexp[wandb]'",
        ),
        (
            ("sweep", "--track", "tensorboard", "--executor", "slurm", "--detach"),
            "--track: a sweep follows its runs, and --detach ends it; leave one out, or later: "
            "resexp export results/tiny --track tensorboard",
        ),
        (("export", "nowhere", "--track", "clearml"), "--track clearml: unknown tracker; allowed: "),
        (("export", "x"), "export: give either --to FILE, for the weights of a run, or --track NAME, for a study"),
        (("export", "x", "--to", "y.pt", "--track", "wandb"), "export: give either --to FILE"),
    ],
)
def test_a_mistake_gets_a_line_before_anything_is_trained(
    write_study: Write, here: Cli, words: tuple[str, ...], says: str
) -> None:
    if "wandb" in words and find_spec("wandb"):
        pytest.skip("wandb is installed here")
    done = here(*words, *(("--config", write_study()) if words[0] == "sweep" else ()))
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert f"resexp: {says}" in done.stderr
    assert not Path("results").exists()


def test_a_study_without_metrics_or_at_work_is_refused(run: Run, logged: list[str], tmp_path: Path) -> None:
    study = StudyFolder(tmp_path / "results/tiny")
    folder = str(run.folder.relative_to(study.folder))
    study.write_plan(StudyPlan(name="tiny", runs=[PlannedRun(folder=folder, label=run.label)]))
    with pytest.raises(UserError, match="no run has metrics yet; run `resexp sweep` first"):
        track_study(study, ["fake"])
    write(run, train_line(4))
    with locked(study.lock_path, "it"), pytest.raises(UserError, match=r"the study in .* is in use by process"):
        track_study(study, ["fake"])
    assert track_study(study, ["fake"]) == 1
    assert (Fake.opened[0].lines, logged) == ([(4, {"train_loss": 1.5})], [])
