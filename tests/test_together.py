"""`resexp report A B`: several studies in one report, from the command line to the files."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from scipy import stats
from typer.testing import CliRunner

from resexp.cli import app
from resexp.errors import UserError
from resexp.report.comparison import compare
from resexp.report.estimates import Difference, Estimate, contrast
from resexp.report.together import together
from resexp.runs.records import Status, StudyPlan
from resexp.runs.store import Run, StudyFolder
from tests.conftest import command, wait_until, working_in
from tests.test_report import DEGRADES, SMALL, Errors, planned

Resexp = Callable[..., subprocess.CompletedProcess[str]]

MILD = {
    ("plain", 8): [12.0, 13.0, 14.0],
    ("plain", 44): [28.0, 30.0, 32.0],
    ("residual", 8): [9.0, 10.0, 11.0],
    ("residual", 44): [7.0, 8.0, 9.0],
}
"""Plain nets rise by 17 points and residual nets by -2: 19 points, where it is 55 in DEGRADES."""


def plan(folder: Path, errors: Errors, **options: Any) -> StudyFolder:
    """A finished study with these errors in percent, called as its folder."""
    return planned(folder, errors, f"The study {folder.name}.", folder.name, **options)


def steep_and_mild(folder: Path) -> list[StudyFolder]:
    """Two studies in results/, one of which is trained for 200 steps more."""
    longer = SMALL.model_copy(update={"steps": 600})
    return [plan(folder / "results/steep", DEGRADES), plan(folder / "results/mild", MILD, train=longer)]


@pytest.fixture
def two(tmp_path: Path) -> list[StudyFolder]:
    return steep_and_mild(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of their page, where the command wrote it, with a slide."""
    with working_in(tmp_path_factory.mktemp("two")) as folder:
        steep, _ = steep_and_mild(folder)
        own = steep.folder / "report/index.html"
        own.parent.mkdir()
        own.write_text("the study's own")
        done = CliRunner().invoke(app, ["report", "steep", "mild", "--size", "1280x720", "--dpi", "100"])
        assert done.exit_code == 0, done.output
        headline, where = done.stdout.splitlines()
        assert headline.startswith("From steep to mild, the difference of the rises changes by -36.0 points [")
        assert where == "results/comparisons/steep-mild/index.html"
        assert own.read_text() == "the study's own"
        return (folder / where).parent


def test_two_studies_have_a_page_of_their_own(page: Path) -> None:
    names = {str(path.relative_to(page)) for path in page.rglob("*.*")}
    assert {"summary.csv", "runs.csv", "comparison.json", "summary.md", "index.html"} <= names
    assert {"figures/depth-running.png", "figures/study-mild.svg", "figures/curves-steep-plain.pdf"} <= names
    assert (page / "index.html").stat().st_size < 800_000


def test_the_page_and_the_terminal_have_the_same_numbers(two: list[StudyFolder], here: Resexp) -> None:
    terminal = json.loads(here("diff", "steep", "mild", "--json").stdout)
    (report,) = json.loads(here("report", "steep", "mild", "--json").stdout)["comparisons"]
    assert report == terminal
    assert report["configuration"] == [
        {"key": "train.steps", "a": 400, "b": 600, "nets": ["plain-8", "plain-44", "residual-8", "residual-44"]}
    ]
    rises = report["verdicts"][0]
    assert (rises["a"], rises["b"], rises["difference"]) == pytest.approx((0.55, 0.19, -0.36))
    variance = (4 * 1 + 2 * 4 + 2 * 1) / 3  # each mean is of three seeds, two of the eight with twice the spread
    freedom = variance**2 / ((6 * 1 + 2 * 16) / 9 / 2)
    assert (rises["high"] - rises["low"]) / 2 == pytest.approx(stats.t.ppf(0.975, freedom) * variance**0.5 / 100)


def test_each_net_has_a_row_and_each_run_too(page: Path) -> None:
    nets = pd.read_csv(page / "summary.csv").set_index(["study", "net"])
    assert nets.running_mean["mild", "plain-44"] == pytest.approx(0.3)
    assert len(nets) == 8
    runs = pd.read_csv(page / "runs.csv")
    assert runs.groupby("study").size().to_dict() == {"steep": 12, "mild": 12}
    assert set(runs[runs.study == "mild"]["train.steps"]) == {600}
    text = (page / "summary.md").read_text()
    assert "| plain-44 | 60.00 ± 2.00 | 30.00 ± 2.00 | -30.00 [" in text
    assert "| train.steps | 400 | 600 | all |" in text


def test_three_studies_are_compared_with_the_first(two: list[StudyFolder], tmp_path: Path) -> None:
    third = plan(tmp_path / "results/one-seed", {net: values[:1] for net, values in MILD.items()})
    found = together([*two, third])
    assert list(found.comparisons) == ["mild", "one-seed"]
    assert found.headlines[1] == (
        "Too few seeds, descriptive only: from steep to one-seed, the difference of the rises changes by -37.0 points."
    )
    (header, rows), _ = found.table()
    assert header[:6] == ["net", "steep", "mild", "one-seed", "mild minus steep", "p"]
    assert rows[1][:4] == ["plain-44", "60.00 ± 2.00", "30.00 ± 2.00", "28.00"]
    assert rows[1][-2:] == ["-32.00", "–"]
    with pytest.raises(UserError, match="one figure shows two or three studies, got 4; name fewer"):
        together([*two, third, third])


def test_colours_are_the_kinds_and_markers_the_studies(two: list[StudyFolder]) -> None:
    looks = together(two).looks()
    assert list(looks) == ["plain (steep)", "residual (steep)", "plain (mild)", "residual (mild)"]
    for first, second in (("steep", "mild"), ("mild", "steep")):
        assert looks[f"plain ({first})"]["color"] == looks[f"plain ({second})"]["color"] == "#D55E00"
        assert looks[f"residual ({first})"]["color"] == "#0072B2"
    assert len({look["marker"] for look in looks.values()}) == 2
    assert not any("linestyle" in look for look in looks.values())  # dashes are training errors everywhere


def test_studies_of_one_name_are_told_apart_by_their_folders(two: list[StudyFolder], tmp_path: Path) -> None:
    shutil.copytree(two[0].folder, tmp_path / "elsewhere/steep")
    found = together([two[0], StudyFolder(tmp_path / "elsewhere/steep")])
    assert found.names == ["results/steep", "elsewhere/steep"]
    assert found.headlines[0].startswith("results/steep and elsewhere/steep take their verdicts from the same runs;")
    with pytest.raises(UserError, match="a study is named twice"):
        together([two[0], two[0]])


@pytest.mark.parametrize("where", ["report", ""])
def test_a_study_and_its_own_page_are_never_written_over(two: list[StudyFolder], here: Resexp, where: str) -> None:
    done = here("report", "steep", "mild", "--out", two[1].folder / where)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.endswith("a study or its own page is there; name another folder with --out")
    assert not list(two[1].folder.glob("**/index.html"))


def test_studies_without_anything_in_common_are_one_line(two: list[StudyFolder], tmp_path: Path) -> None:
    plan(tmp_path / "results/other", {("plain", 14): [10.0, 11.0]})
    with pytest.raises(UserError, match=r"no net in common: plain-8, .* against plain-14"):
        together([two[0], StudyFolder(tmp_path / "results/other")])


def test_a_slide_shows_all_studies(page: Path) -> None:
    with Image.open(page / "figures/slide.png") as image:
        assert image.size == (1280, 720)
    text = (page / "figures/slide.svg").read_text()
    for words in ("plain (steep)", "residual (mild)", "steep and mild: running training error"):
        assert f">{words}" in text


@pytest.mark.slow
def test_a_watched_comparison_reloads_until_the_runs_of_all_studies_have_ended(two: list[StudyFolder]) -> None:
    last = two[1].runs()[-1]
    ended = last.status()
    last.write_status(Status(state="running", step=1, steps=2))
    page = Path("results/comparisons/steep-mild/index.html")
    watch = subprocess.Popen(command("report", "steep", "mild", "--watch"), stdout=subprocess.PIPE, text=True)
    wait_until(watch, page.exists)
    assert '<meta http-equiv="refresh" content="5">' in page.read_text()
    Run(last.folder, last.label).write_status(ended)
    watch.communicate(timeout=120)
    assert watch.returncode == 0
    assert 'http-equiv="refresh"' not in page.read_text()


def test_a_run_that_two_studies_share_counts_once(tmp_path: Path, here: Resexp) -> None:
    """The second study has the first one's residual nets, by hard links, and plain nets of its own.

    The change of the difference of the rises is that of the plain nets alone, and so is its interval.
    """
    first = plan(tmp_path / "results/first", DEGRADES)
    second = plan(tmp_path / "results/second", {net: of for net, of in MILD.items() if net[0] == "plain"})
    of_first = [run for run in first.plan().runs if run.label.startswith("residual")]
    for run in of_first:
        shutil.copytree(first.folder / run.folder, second.folder / run.folder, copy_function=os.link)
    second.write_plan(StudyPlan(name="second", runs=[*second.plan().runs, *of_first]))
    found = compare(first.runs(), second.runs())
    changes = {shift.facts["quantity"]: shift.change for shift in found.shifts}
    assert found.shared == 6
    assert changes["interaction"].value == pytest.approx(-33)
    assert vars(changes["interaction"]) == pytest.approx(vars(changes["plain"]))
    assert changes["residual"] == Difference(0, 0, 0)
    assert [pair.cells[3] for pair in found.pairs if pair.name == "residual-44"] == ["same runs"]
    line = "first and second share 6 runs, which a difference counts once."
    assert line in here("diff", "first", "second").stdout
    page = here("report", "first", "second").stdout.splitlines()[-1]
    assert line in Path(page).read_text()
    assert line in Path(page).with_name("summary.md").read_text()


def test_studies_with_the_same_verdict_are_not_said_to_agree(tmp_path: Path, here: Resexp) -> None:
    """A study that adds a condition to another one's runs shares the nets that its verdict rests on."""
    first = plan(tmp_path / "results/first", DEGRADES)
    shutil.copytree(first.folder, second := tmp_path / "results/second", copy_function=os.link)
    StudyFolder(second).write_plan(StudyPlan(name="second", runs=first.plan().runs))
    said = here("report", "first", "second").stdout
    assert said.startswith("first and second take their verdicts from the same runs; what else they hold is")
    assert "No change" not in said
    assert here("diff", "first", "second").stdout.count("same runs") == 4 + 4  # nets, and what verdicts rest on


def test_other_images_and_another_precision_are_differences_of_the_configuration(tmp_path: Path, here: Resexp) -> None:
    first = plan(tmp_path / "results/first", DEGRADES)
    second = plan(tmp_path / "results/second", DEGRADES)
    for run in second.runs():
        manifest = json.loads(run.manifest_path.read_text())
        manifest["data"]["fingerprint"] = "f" * 16
        manifest["attempts"][0]["precision"] = "bf16"
        run.manifest_path.write_text(json.dumps(manifest))
    found = json.loads(here("diff", "first", "second", "--json").stdout)["configuration"]
    (before,) = {run.manifest().data.fingerprint for run in first.runs()}  # type: ignore[union-attr]
    assert {one["key"]: (one["a"], one["b"]) for one in found} == {
        "images": (before, "f" * 16),
        "train.precision": ("fp32", "bf16"),
    }


def test_more_seeds_of_a_net_are_compared_as_one_sample() -> None:
    """With s² the variance of all four runs, the means of the first two and of all differ with s² / 4.

    As independent they would differ with three quarters of s².
    """
    values = (10.0, 12.0, 14.0, 16.0)
    few, all_of_it = Estimate(values[:2], (0, 1)), Estimate(values, (0, 1, 2, 3))
    found = contrast([(1, all_of_it), (-1, few)])
    assert found.value == pytest.approx(2)
    assert found.high is not None
    half = stats.t.ppf(0.975, 3) * (statistics.variance(values) / 4) ** 0.5
    assert found.high - found.value == pytest.approx(half)
