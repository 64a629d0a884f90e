"""`resexp list` and `resexp diff`: which studies there are, and how two of them, or two nets, differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from resexp.cli import app
from resexp.config.study import load
from tests.conftest import REPOSITORY

Write = Callable[..., Path]


def call(*words: object, code: int = 0) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == code, done.output
    return done.stdout


def test_the_list_has_every_shipped_study_with_its_runs() -> None:
    shipped = {row["study"]: row for row in json.loads(call("list", "--json"))["shipped"]}
    files = [path.relative_to(REPOSITORY / "configs") for path in REPOSITORY.glob("configs/**/*.yaml")]
    assert sorted(shipped) == sorted(str(path.with_suffix("")) for path in files)
    assert shipped["cifar10/figure6"]["runs"] == len(load("cifar10/figure6")[1]) == 9
    assert shipped["quickstart"]["description"].startswith("Synthetic shapes")
    table = call("list")
    assert "cifar10/figure6-ends" in table
    assert "results: no study here yet; run `resexp sweep STUDY`" in table


def test_the_list_counts_states_in_the_results_folder(write_study: Write) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    call("sweep", write_study(seeds=[0, 1, 2]), "--jobs", 1)
    two = write_study("two.yaml", grid={"model.depth": [8, 14]})
    call("sweep", two, "--set", "name=other", "--only", "residual-14", "--jobs", 1)
    other, tiny = json.loads(call("list", "--json"))["results"]
    assert (tiny["study"], tiny["folder"], tiny["runs"]) == ("tiny", "results/tiny", 3)
    assert (tiny["states"], other["states"]) == ({"finished": 3}, {"finished": 1, "pending": 1})
    assert before <= datetime.fromisoformat(tiny["changed"]) <= datetime.now(UTC)
    assert "1 finished, 1 pending" in call("list")


def test_a_damaged_study_does_not_hide_the_others(write_study: Write) -> None:
    call("sweep", write_study(), "--jobs", 1)
    Path("results/broken").mkdir()
    Path("results/broken/study.json").write_text("{")
    done = CliRunner().invoke(app, ["list", "--json"])
    found: dict[str, Any] = json.loads(done.stdout)
    assert [row["study"] for row in found["results"]] == ["tiny"]
    assert done.stderr.startswith("results/broken/study.json: ")
