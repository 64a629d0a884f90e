"""resexp as a library: what the README shows, from a script without a guard, as people write them."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.util import find_spec
from pathlib import Path

import pandas as pd
import pytest
import torch

import resexp
from resexp.data import open_dataset
from resexp.device.hardware import Hardware
from resexp.runs.store import StudyFolder
from resexp.training.trainer import Trainer
from resexp.utils.logs import logged_to
from tests.test_layouts import write
from tests.test_training import CPU, tiny

Write = Callable[..., Path]

SCRIPT = """
import os
os.environ["MPLBACKEND"] = "svg"
import resexp
print("script")
results = resexp.sweep("tiny.yaml", only=["plain-8"])
print(len(results.runs), resexp.build_report(results.folder))
import matplotlib
print(os.environ["MPLBACKEND"], matplotlib.get_backend())
"""


@pytest.mark.slow
def test_a_script_without_a_guard_sweeps(write_study: Write) -> None:
    """Workers must not run it again."""
    write_study(grid={"model.kind": ["plain", "residual"], "model.depth": [8, 14]}, executor={"jobs": 1})
    Path("script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    page = Path("results/tiny/report/index.html").resolve()
    assert done.stdout.splitlines() == ["script", f"4 {page}", "svg svg"]
    assert page.exists()


def test_a_second_sweep_of_a_notebook_has_its_folder_and_its_environment(
    write_study: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its workers are forked from a server that began with the first one's."""
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("RESEXP_DATA", str(tmp_path / f"data of {name}"))
        resexp.sweep(write_study(), results="results")
        assert Path("results/tiny").is_dir()
        shutil.rmtree(tmp_path / f"data of {name}")
    assert not list(tmp_path.glob("data*"))


def test_ctrl_c_is_a_keyboard_interrupt(write_study: Write) -> None:
    def interrupt(line: str) -> None:
        if "step" in line:
            signal.raise_signal(signal.SIGINT)

    with logged_to(interrupt), pytest.raises(KeyboardInterrupt):
        resexp.sweep(write_study(train={"steps": 400, "log_every": 1, "eval_every": 400, "checkpoint_steps": 20}))
    assert [run.status().state for run in StudyFolder(Path("results/tiny")).runs()] == ["interrupted"]


def test_ctrl_c_while_images_are_decoded_is_a_keyboard_interrupt(write_study: Write, tmp_path: Path) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("decoding"):
            signal.raise_signal(signal.SIGINT)

    images = write(tmp_path / "set")
    study = write_study(data=None)
    with logged_to(interrupt), pytest.raises(KeyboardInterrupt):
        resexp.sweep(study, settings=["data.source=folder", f"data.path={images}"])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.slow
def test_a_finished_sweep_starts_no_process(write_study: Write) -> None:
    """A server of workers would keep the pipe of `resexp sweep | cat` open."""
    write_study()
    resexp.sweep("tiny.yaml")
    code = "import resexp; resexp.sweep('tiny.yaml'); from multiprocessing import forkserver as f; "
    code += "print(f._forkserver._forkserver_pid)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "None\n"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_notebook_without_gradients_trains(
    write_study: Write, mode: Callable[[], AbstractContextManager[None]]
) -> None:
    with mode():
        results = resexp.train(write_study(executor={"name": "debug"}))
    assert list(results.runs["state"]) == ["finished"]


def test_a_word_alone_is_a_list_of_one(write_study: Write) -> None:
    study = write_study(grid={"model.depth": [8, 14]}, executor={"name": "debug"})
    for settings in ("train.lr=0.05", ["train.lr=0.05"]):
        assert {cell.config.train.lr for cell in resexp.load_study(study, settings)[1]} == {0.05}
    resexp.sweep(str(study), only="residual-8")
    states = resexp.open_study("results/tiny").runs.set_index("net")["state"]
    assert dict(states) == {"residual-8": "finished", "residual-14": "pending"}
    assert resexp.train(study, "alone", "grid={model.depth: [8]}").folder == Path("alone/tiny").absolute()


def test_runs_are_a_table_with_their_configuration(write_study: Write) -> None:
    write_study(grid={"model.depth": [8, 14]}, seeds=[0, 1], executor={"name": "debug"})
    resexp.sweep("tiny.yaml", only=["residual-8"])
    runs = resexp.open_study("results/tiny").runs
    assert list(runs["net"]) == ["residual-8", "residual-8", "residual-14", "residual-14"]
    assert list(runs["state"]) == ["finished", "finished", "pending", "pending"]
    assert list(runs["seed"]) == [0, 1, 0, 1]
    finished = runs[runs["state"] == "finished"]
    assert ((finished["test_error"] > 0) & (finished["test_error"] <= 1)).all()
    assert (finished["train.lr"] == 0.1).all()
    assert (finished["model.depth"] == 8).all()
    resexp.build_report("results/tiny")
    written = pd.read_csv("results/tiny/report/runs.csv")
    assert list(written["running_train_error"].dropna()) == pytest.approx(list(finished["running_train_error"]))


@pytest.mark.parametrize("name", resexp.__all__)
def test_no_module_hides_a_function(name: str) -> None:
    """Importing a module sets its name in the package, so `resexp.sweep` would become that module."""
    assert find_spec(f"resexp.{name}") is None
    assert callable(getattr(resexp, name))


def test_train_takes_one_net(write_study: Write) -> None:
    write_study(executor={"name": "debug"})
    assert list(resexp.train("tiny.yaml", seed=3).runs["seed"]) == [3]
    assert list(resexp.train("tiny.yaml", seed=1).runs["seed"]) == [3, 1], "the study keeps its other seeds"
    write_study(grid={"model.depth": [8, 14]})
    with pytest.raises(resexp.UserError, match=r"has 2 nets \(residual-8, residual-14\); use sweep"):
        resexp.train("tiny.yaml")


def test_a_net_begins_as_a_run_with_its_seed_does() -> None:
    config = tiny(model={"depth": 20, "width": 16}, train={"steps": 1})
    trainer = Trainer(config.model_copy(update={"seed": 5}), open_dataset(config.data), Hardware(CPU, "fp32"))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    ours = resexp.build_model("residual-20", seed=5).state_dict()
    assert torch.equal(torch.rand(3), expected), "the user's own random numbers stay as they are"
    for name, value in trainer.model.state_dict().items():
        torch.testing.assert_close(ours[name], value, rtol=0, atol=0)


def test_a_mistake_is_one_error() -> None:
    with pytest.raises(resexp.UserError, match="no such file"):
        resexp.load_study("nothing.yaml")
    with pytest.raises(resexp.UserError, match="not the name of a net"):
        resexp.build_model("resnet50")
    with pytest.raises(resexp.UserError, match=r"^build_model: classes must be at least 1, got 0$"):
        resexp.build_model("plain-20", 0)
    for seed in (-1, 2**63):
        with pytest.raises(resexp.UserError, match=f"^build_model: seed must be from 0 to .* got {seed}$"):
            resexp.build_model("plain-20", seed=seed)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        resexp.nothing  # noqa: B018
