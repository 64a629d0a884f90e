"""`resexp list` and `resexp diff`: which studies there are, and how two of them, or two nets, differ."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import permutations, product
from pathlib import Path
from typing import Any

import pytest
from pandas import read_csv
from scipy import stats
from typer.testing import CliRunner

from resexp.cli import app
from resexp.config.study import load
from resexp.errors import UserError
from resexp.report.comparison import compare
from resexp.report.estimates import contrast
from resexp.runs.store import StudyFolder
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
    call("sweep", write_study(seeds=[0, 1, 2]), "--executor", "debug")
    two = write_study("two.yaml", grid={"model.depth": [8, 14]})
    call("sweep", two, "--set", "name=other", "--only", "residual-14", "--executor", "debug")
    other, tiny = json.loads(call("list", "--json"))["results"]
    assert (tiny["study"], tiny["folder"], tiny["runs"]) == ("tiny", "results/tiny", 3)
    assert (tiny["states"], other["states"]) == ({"finished": 3}, {"finished": 1, "pending": 1})
    assert before <= datetime.fromisoformat(tiny["changed"]) <= datetime.now(UTC)
    assert "1 finished, 1 pending" in call("list")


def test_a_damaged_study_does_not_hide_the_others(write_study: Write) -> None:
    call("sweep", write_study(), "--executor", "debug")
    Path("results/broken").mkdir()
    Path("results/broken/study.json").write_text("{")
    done = CliRunner().invoke(app, ["list", "--json"])
    found: dict[str, Any] = json.loads(done.stdout)
    assert [row["study"] for row in found["results"]] == ["tiny"]
    assert done.stderr.startswith("results/broken/study.json: ")
    Path("results/tiny").rename("results/\x1b[2Jtiny")  # which would clear the screen
    assert "\x1b" not in call("list")


PUBLISHED = ("--results", REPOSITORY / "results/published")


def compared(a: object, b: object, *more: object) -> dict[str, Any]:
    return dict(json.loads(call("diff", a, b, *(more or PUBLISHED), "--json")))


def test_two_nets_differ_in_a_key_and_in_an_error_with_its_interval() -> None:
    found = compared("cpu-small:plain-20", "cpu-small:plain-56")
    assert found["configuration"] == [{"key": "model.depth", "a": 20, "b": 56, "nets": ["plain-20"]}]
    (net,) = found["nets"]
    rows = read_csv(REPOSITORY / "results/published/cpu-small/report/runs.csv")
    mean = {name: of["running_train_error"].mean() for name, of in rows.groupby("net")}
    assert net["a"]["running_train_error"] == pytest.approx(mean["plain-20"])
    assert net["difference"] == pytest.approx(mean["plain-56"] - mean["plain-20"])
    assert net["low"] < net["difference"] < net["high"]
    assert (net["a"]["finished"], net["b"]["finished"]) == (5, 5)
    table = call("diff", "cpu-small:plain-20", "cpu-small:plain-56", *PUBLISHED)
    assert f"{100 * net['difference']:+.2f} [{100 * net['low']:+.2f}, {100 * net['high']:+.2f}]" in table


def test_the_other_way_round_the_sign_changes_and_nothing_else() -> None:
    (there,), (back,) = (compared(*nets)["nets"] for nets in permutations(["cpu-small:plain-32", "cpu-small:plain-44"]))
    assert (back["difference"], back["p"]) == pytest.approx((-there["difference"], there["p"]))
    assert (back["low"], back["high"]) == pytest.approx((-there["high"], -there["low"]))


@pytest.mark.parametrize("a", ["plain-20", "plain-32", "residual-20", "residual-44"])
def test_the_interval_at_confidence_1_minus_p_ends_at_zero(a: str) -> None:
    """The test and the interval are two readings of one distribution."""
    study = StudyFolder(REPOSITORY / "results/published/cpu-small")
    runs = {label: [run for run in study.runs() if run.label == label] for label in (a, "residual-32")}
    (pair,) = compare(runs[a], runs["residual-32"]).pairs
    assert pair.p is not None
    at = contrast(pair.terms, 1 - pair.p)
    assert min(abs(at.low or 0), abs(at.high or 0)) == pytest.approx(0, abs=1e-3)


def test_studies_are_compared_net_by_net() -> None:
    found = compared("figure6-ends", "cpu-small")
    assert [net["a"]["net"] for net in found["nets"]] == ["plain-20", "plain-56", "residual-20", "residual-56"]
    assert found["only_b"] == ["plain-32", "plain-44", "residual-32", "residual-44"]
    assert found["only_a"] == []
    nets = [net["a"]["net"] for net in found["nets"]]
    assert {"key": "train.steps", "a": 64000, "b": 4000, "nets": nets} in found["configuration"]
    assert {"key": "seeds", "a": [0], "b": [0, 1, 2, 3, 4], "nets": nets} in found["configuration"]
    assert all((net["low"], net["p"]) == (None, None) for net in found["nets"])  # one seed has no spread


def test_the_change_of_the_rises_is_that_of_eight_means() -> None:
    """Welch and Satterthwaite by hand, from the errors of the runs alone."""
    found = {row["quantity"]: row for row in compared("quickstart", "cpu-small")["verdicts"]}
    assert list(found) == ["interaction", "plain", "residual", "gap"]
    value, variance, squares = 0.0, 0.0, 0.0
    for name, depths, sign in (("quickstart", (20, 38), -1), ("cpu-small", (20, 56), 1)):
        errors = read_csv(REPOSITORY / f"results/published/{name}/report/runs.csv").groupby("net").running_train_error
        for (kind, of_kind), (depth, of_depth) in product(
            (("plain", 1), ("residual", -1)), zip(depths, (-1, 1), strict=True)
        ):
            values = errors.get_group(f"{kind}-{depth}")
            value += sign * of_kind * of_depth * values.mean()
            variance += values.var() / len(values)
            squares += (values.var() / len(values)) ** 2 / (len(values) - 1)
    freedom, rises = variance**2 / squares, found["interaction"]
    assert rises["difference"] == pytest.approx(value) == rises["b"] - rises["a"]
    half = stats.t.ppf(0.975, freedom) * variance**0.5
    assert (rises["low"], rises["high"]) == pytest.approx((value - half, value + half))
    assert rises["p"] == pytest.approx(2 * stats.t.sf(abs(value) / variance**0.5, freedom))
    assert rises["at"] == "depths 20 and 38; depths 20 and 56"  # they have one depth in common, which has no rise
    shown = call("diff", "quickstart", "cpu-small", *PUBLISHED)
    assert f"{100 * value:+.2f} [{100 * rises['low']:+.2f}, {100 * rises['high']:+.2f}]" in shown


def test_rises_are_compared_at_the_depths_that_both_studies_have() -> None:
    rows = {row["quantity"]: row for row in compared("figure6-ends", "cpu-small")["verdicts"]}
    assert {row["at"] for row in rows.values()} == {"depths 20 and 56", "depth 56"}
    assert rows["plain"]["a"] == pytest.approx(0.0873 - 0.0127, abs=1e-4)
    assert [rows["plain"][end] for end in ("low", "high", "p")] == [None] * 3  # one seed has no spread
    back = {row["quantity"]: row for row in compared("cpu-small", "figure6-ends")["verdicts"]}
    assert {name: -row["difference"] for name, row in back.items()} == pytest.approx(
        {name: row["difference"] for name, row in rows.items()}
    )


def test_a_net_that_another_study_calls_otherwise_is_matched_by_its_configuration() -> None:
    found = compared("cpu-small", "warmup-plain")
    assert [(net["a"]["net"], net["b"]["net"]) for net in found["nets"]][:2] == [
        ("plain-20", "plain-20-warmup_lr=none"),
        ("plain-56", "plain-56-warmup_lr=none"),
    ]
    assert found["configuration"] == []
    assert "plain-20-warmup_lr=0.01" in found["only_b"]


def test_a_study_does_not_differ_from_itself_and_unfinished_nets_have_no_difference(write_study: Write) -> None:
    call(
        "sweep", write_study(grid={"model.depth": [8, 14]}, seeds=[0, 1]), "--only", "residual-8", "--executor", "debug"
    )
    table = call("diff", "tiny", "tiny")
    assert "configuration: no difference" in table
    assert "none finished" in table
    trained, pending = compared("tiny", "tiny", "--results", "results")["nets"]
    assert [trained[key] for key in ("difference", "low", "high", "p")] == [0, 0, 0, None]
    assert (pending["difference"], pending["a"]["finished"]) == (None, 0)


def test_nets_without_a_match_are_refused_in_one_line() -> None:
    done = CliRunner().invoke(app, ["diff", "cpu-small:plain-32", "figure6-ends", *map(str, PUBLISHED)])
    assert isinstance(done.exception, UserError)
    assert done.exception.args == (
        "no net in common: plain-32 against plain-20, plain-56, residual-20, residual-56; "
        "name one net of each, as STUDY:NET",
    )
