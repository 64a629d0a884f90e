"""`resexp report`: slides, and pages that are written while runs train."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from resexp.cli import app
from resexp.errors import UserError
from resexp.report import Slide, build_report
from resexp.runs.records import Status
from resexp.runs.store import Run, StudyFolder
from tests.conftest import command, wait_until
from tests.test_report import DEGRADES, study

__all__ = ["study"]

Make = Callable[..., StudyFolder]


def test_a_slide_has_the_size_title_and_axis_that_were_asked_for(study: Make) -> None:
    folder = study(DEGRADES)
    target = folder.folder / "report"
    build_report(folder, target, slide=Slide((1280, 720), 100, "Deeper is worse", (0, 80)))
    with Image.open(target / "figures/slide.png") as image:
        assert image.size == (1280, 720)
    text = (target / "figures/slide.svg").read_text()
    assert ">Deeper is worse</text>" in text
    assert ">80</text>" in text
    assert ">100</text>" not in text
    words = "running training error; points are means over seeds, bars one standard deviation"
    assert f">study: {words}</text>" in text
    build_report(folder, target)
    assert "slide" not in (target / "index.html").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--size", "large"], "--size large: expected pixels, such as 1920x1080"),
        (["--size", "000x500"], "--size 000x500: expected pixels, such as 1920x1080, from 100 to 9999 a side"),
        (["--size", "99999x500"], "--size 99999x500: expected pixels, such as 1920x1080, from 100 to 9999 a side"),
        (["--size", "800x600", "--ylim", "1.2.3,60"], "--ylim 1.2.3,60: expected two percentages, the lower first"),
        (["--size", "800x600", "--ylim", ""], "--ylim : expected two percentages, the lower first"),
        (["--size", "800x600", "--ylim", "60,20"], "--ylim 60,20: expected two percentages, the lower first"),
        (["--title", "x"], "report: --title and --ylim are of a slide; give its size, such as --size 1920x1080"),
        (["--watch", "--json"], "report: --watch writes pages; leave --json out"),
    ],
)
def test_a_mistake_is_one_line(words: list[str], says: str, study: Make, here: Callable[..., Any]) -> None:
    done = here("report", study({("plain", 8): [9.0]}).folder, *words)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert says in line


def test_no_report_is_written_into_a_study(study: Make) -> None:
    folder = study(DEGRADES)
    before = sorted(folder.folder.iterdir())
    done = CliRunner().invoke(app, ["report", str(folder.folder), "--out", str(folder.folder)])
    assert isinstance(done.exception, UserError)
    assert done.exception.args[0] == f"{folder.folder}: a study is there, and its runs; name another folder with --out"
    assert sorted(folder.folder.iterdir()) == before


def test_a_run_that_cannot_be_read_is_left_out_with_its_name(study: Make) -> None:
    folder = study(DEGRADES)
    unreadable = folder.runs()[0].metrics_path
    unreadable.unlink()
    unreadable.mkdir()
    done = CliRunner().invoke(app, ["report", str(folder.folder)])
    assert done.exit_code == 0, done.output
    assert done.output.startswith("So far: ")
    line = f"Not finished: plain-8 seed 0, unreadable, {unreadable}: not a plain file; move it elsewhere.\n"
    assert line in (folder.folder / "report/summary.md").read_text()


@pytest.mark.slow
def test_a_watched_page_reloads_until_all_runs_have_ended(study: Make) -> None:
    folder = study(DEGRADES)
    last = folder.runs()[-1]
    ended = last.status()
    last.write_status(Status(state="running", step=1, steps=2))
    page = folder.folder / "report/index.html"
    watch = subprocess.Popen(command("report", folder.folder, "--watch"), stdout=subprocess.PIPE, text=True)
    wait_until(watch, page.exists)
    assert '<meta http-equiv="refresh" content="5">' in page.read_text()
    Run(last.folder, last.label).write_status(ended)
    said, _ = watch.communicate(timeout=120)
    assert watch.returncode == 0
    assert str(page) in said
    assert 'http-equiv="refresh"' not in page.read_text()


def test_runs_that_can_not_be_read_are_named(study: Make, here: Callable[..., Any]) -> None:
    folder = study(DEGRADES)
    for run in folder.runs()[:4]:
        run.manifest_path.write_text("{")
    done = here("report", folder.folder)
    assert done.returncode == 0
    assert done.stdout.startswith("So far: no verdict: ")
    lines = done.stderr.splitlines()
    assert [line.partition(": ")[0] for line in lines] == ["not counted"] * 4
    assert str(folder.runs()[0].manifest_path) in lines[0]
    assert lines[-1] == "not counted: 1 more run that can't be read; the page gives the reasons"
