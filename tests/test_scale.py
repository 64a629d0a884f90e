"""Large studies: what grows with the number of runs stays small for each.

With RESEXP_SCALE=1 in the environment also at full size, for a machine with nothing else to do: 10,000 runs, 1.3 GB of
disk, some minutes.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from resexp.config.study import load
from resexp.report import build_report
from resexp.report.summary import MAX_CURVE_SEEDS, MAX_FAMILIES, summarise
from resexp.runs.store import StudyFolder
from tests.benchmarks import scale
from tests.many import finish_study, write_study

RUNS = 300
SECONDS_A_RUN = 0.01
"""Of CPU time; ten times what it takes, since other tests are at work on the same cores."""


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The file of a study of 30 nets, 10 runs each, which has finished beside it."""
    folder = tmp_path_factory.mktemp("many")
    path = write_study(folder, rates=3, seeds=10, lines=40)
    finish_study(path, folder / "results")
    return path


def seconds_a_run(function: Callable[[], object]) -> float:
    began = time.process_time()
    function()
    return (time.process_time() - began) / RUNS


def test_expansion_status_and_summary_take_little_for_each_run(study: Path) -> None:
    folder = StudyFolder(study.parent / "results/many")
    assert len(load(str(study))[1]) == RUNS
    assert seconds_a_run(lambda: load(str(study))) < SECONDS_A_RUN
    assert seconds_a_run(lambda: [run.status() for run in folder.runs()]) < SECONDS_A_RUN
    assert seconds_a_run(lambda: summarise(folder)) < SECONDS_A_RUN


def test_the_scheduler_takes_under_50_ms_for_each_run(study: Path, tmp_path: Path) -> None:
    began = time.process_time()
    scale.scheduler(study, tmp_path)
    assert (time.process_time() - began) / RUNS < 0.05


@pytest.mark.slow
def test_what_a_figure_or_a_list_has_no_room_for_is_said(tmp_path: Path) -> None:
    """Of 50 families in 250 nets."""
    path = write_study(tmp_path, rates=25, seeds=1, lines=4)
    folder = finish_study(path, tmp_path / "results")
    summary = build_report(folder, tmp_path / "report")
    page = (tmp_path / "report/index.html").read_text()
    assert len(summary.families) == 50
    assert [name.replace("plain", "residual") for name in summary.drawn[::2]] == summary.drawn[1::2]
    assert f"There is room for {MAX_FAMILIES} of 50 families of nets" in page
    assert "The first 200 of 250 nets are shown: summary.md and summary.csv have them all." in page
    assert len(list((tmp_path / "report/figures").glob("curves-*.svg"))) == MAX_FAMILIES
    assert len((tmp_path / "report/summary.csv").read_text().splitlines()) == 251
    assert len(page) < 2_000_000


def test_of_many_seeds_the_first_make_the_curve_and_all_make_the_numbers(tmp_path: Path) -> None:
    path = write_study(tmp_path, rates=1, seeds=MAX_CURVE_SEEDS + 2, lines=40)
    folder = finish_study(path, tmp_path / "results")
    summary = summarise(folder)
    whole = [record for record in summary.records if record.has_curves]
    assert len(whole) == 10 * MAX_CURVE_SEEDS
    assert {len(net.runs) for net in summary.nets} == {MAX_CURVE_SEEDS + 2}
    late = next(record for record in summary.records if not record.has_curves)
    every = [line for line in late.run.metrics() if line["event"] == "train"]
    mean = sum(line["train_error"] for line in every if line["step"] > 3000) / 10
    assert late.errors["running"] == pytest.approx(100 * mean)
    late.run.metrics_path.write_bytes(late.run.metrics_path.read_bytes().replace(b'"step": 4000', b'"step": oh'))
    (damaged,) = [absence.message for absence in summarise(folder).absent]
    assert "metrics.jsonl:40: no event" in damaged


@pytest.mark.skipif("RESEXP_SCALE" not in os.environ, reason="takes minutes: RESEXP_SCALE=1")
@pytest.mark.timeout(3600)
def test_ten_thousand_runs_stay_within_ten_seconds_and_a_gigabyte(capsys: pytest.CaptureFixture[str]) -> None:
    scale.main([])
    said = capsys.readouterr().out
    print(said)
    costs = re.findall(r"^(\S.*?) +([0-9.]+) s, at most +([0-9]+) MB", said, re.MULTILINE)
    assert len(costs) == len(scale.COMMANDS)
    assert [cost for cost in costs if float(cost[1]) >= 10 or float(cost[2]) >= 1000] == []
    overhead = re.search(r"scheduler +([0-9.]+) ms", said)
    assert overhead is not None
    assert float(overhead[1]) < 50
