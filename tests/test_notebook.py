"""The notebook: its cells run as they stand, but for the installation and the hours on a GPU."""

from __future__ import annotations

import json
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import typer

from resexp.cli import app
from resexp.config.study import load
from resexp.runs.store import StudyFolder
from tests.conftest import REPOSITORY

NOTEBOOK = json.loads((REPOSITORY / "configs/resexp.ipynb").read_text())
SHELL = re.compile(r"^!(.*)$", re.MULTILINE)


def code(*, tagged: str = "") -> dict[str, str]:
    """The source of each code cell with this tag, or of those without any, by the cell's id."""
    return {
        cell["id"]: "".join(cell["source"])
        for cell in NOTEBOOK["cells"]
        if cell["cell_type"] == "code" and cell["metadata"].get("tags", []) == ([tagged] if tagged else [])
    }


def test_it_is_a_notebook_without_outputs() -> None:
    assert (NOTEBOOK["nbformat"], NOTEBOOK["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in NOTEBOOK["cells"]]
    assert len(set(ids)) == len(ids)
    for cell in NOTEBOOK["cells"]:
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
    assert list(code(tagged="pip").values()) == ['%pip install -q "resexp @ git+REPOSITORY"']


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What cells display, in place of IPython."""
    found: list[Any] = []
    fake = types.ModuleType("IPython.display")
    vars(fake).update(Image=lambda filename, width: Path(filename), display=found.append)
    shell = types.ModuleType("IPython")
    vars(shell).update(version_info=(9, 0), get_ipython=lambda: None)  # which matplotlib asks
    monkeypatch.setitem(sys.modules, "IPython", shell)
    monkeypatch.setitem(sys.modules, "IPython.display", fake)
    return found


def test_its_cells_run_in_order(write_study: Callable[..., Path], here: Callable[..., Any], shown: list[Any]) -> None:
    """IPython's `!` lines as a shell runs them, with `{NAMES}` replaced."""
    grid = {"model.kind": ["plain", "residual"], "model.depth": [8, 14]}
    tiny = write_study(grid=grid, executor={"name": "debug"})
    names: dict[str, Any] = {}
    printed: list[str] = []

    def shell(line: str) -> None:
        words = re.sub(r"\{(\w+)\}", lambda match: str(names[match[1]]), line).split()
        assert words[0] == "resexp"
        done = here(*words[1:])
        assert done.returncode == 0, done.stderr
        printed.append(done.stdout)

    names["_shell"] = shell
    for name, source in code().items():
        if name == "setup":
            assert 'STUDY = "quickstart"' in source
            source = source.replace('"quickstart"', repr(str(tiny)))
        exec(compile(SHELL.sub(lambda match: f"_shell({match[1]!r})", source), name, "exec"), names)

    assert {run.status().state for run in StudyFolder(Path("results/tiny")).runs()} == {"finished"}
    (figure,) = shown
    assert figure.read_bytes().startswith(b"\x89PNG")
    run = Path(names["RUN"])
    assert run.parent.name.startswith("residual-8-")
    assert json.loads((run / "status.json").read_text())["state"] == "finished"
    assert any("rows: true classes; columns: predicted classes" in text for text in printed)
    assert torch.load("results/tiny/net.pt", weights_only=True).keys() == names["weights"].keys()


def test_the_gpu_cell_names_what_there_is() -> None:
    """Commands parse, and the study loads."""
    ((_, source),) = code(tagged="gpu").items()
    lines = SHELL.findall(source)
    assert [line.split()[1] for line in lines] == ["data", "sweep", "report"]
    for line in lines:
        group: Any = typer.main.get_command(app)
        words = line.replace("{RESULTS}", "results").split()[1:]
        while words and words[0] in getattr(group, "commands", {}):
            group = group.commands[words.pop(0)]
        context = group.make_context(line, words)
        if name := context.params.get("config"):
            assert len(load(name)[1]) == 9
