"""``resexp report``."""

from __future__ import annotations

import re
import time
import webbrowser
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resexp.cli.options import PATH, RESULTS, AsJson, Results, err, out, print_json
from resexp.errors import UserError

if TYPE_CHECKING:
    from resexp.report import Slide
    from resexp.runs.store import StudyFolder

LOOK_S = 5.0
"""Seconds between two looks at the runs, and between two loads of the page."""
TO_COME = ("pending", "running", "interrupted")
"""States of runs that a report may still wait for."""


def report(
    name: Annotated[str | None, typer.Argument(metavar="STUDY", help="Name or folder; default: the newest.")] = None,
    to: Annotated[Path | None, typer.Option("--out", help="Where to write; default: FOLDER/report.", **PATH)] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Write it again while runs train; the page reloads.")] = False,
    size: Annotated[str | None, typer.Option(help="Draw the main figure for a slide, too: pixels, 1920x1080.")] = None,
    dpi: Annotated[int, typer.Option(min=50, max=600, help="Pixels per inch of the slide: larger text.")] = 200,
    title: Annotated[str | None, typer.Option(help="Title of the slide. Default: what is seen.")] = None,
    ylim: Annotated[str | None, typer.Option(help="Ends of the slide's error axis, percent: 0,60.")] = None,
    as_json: AsJson = False,
    results: Results = RESULTS,
) -> None:
    """Write the page, figures and tables of a study, finished or still running.

    With --size, figures/slide.png, .svg and .pdf have the main figure for a talk.
    """
    slide = _slide(size, dpi, title, ylim)
    if watch and as_json:
        raise UserError("report: --watch writes pages; leave --json out")

    from resexp.report import build_report
    from resexp.runs.names import open_study

    study = open_study(name, results)
    target = to or study.folder / "report"
    page = target / "index.html"
    if watch:
        _follow(study, target, show)
    summary = build_report(study, target, slide=slide)
    if as_json:
        print_json(summary.to_json())
    else:
        out.print(summary.verdict.headline, style="bold", soft_wrap=True)
        out.print(str(page), soft_wrap=True)
    if show and not watch:
        webbrowser.open(page.resolve().as_uri())


def _slide(size: str | None, dpi: int, title: str | None, ylim: str | None) -> Slide | None:
    """The slide that is asked for. Raises UserError where an option makes no sense."""
    if size is None:
        if title is not None or ylim is not None:
            raise UserError("report: --title and --ylim are of a slide; give its size, such as --size 1920x1080")
        return None
    pixels = re.fullmatch(r"(\d{3,5})x(\d{3,5})", size)
    if pixels is None:
        raise UserError(f"--size {size}: expected pixels, such as 1920x1080")
    ends = re.fullmatch(r"([\d.]+),([\d.]+)", ylim or "0,100")
    if ends is None or not float(ends[1]) < float(ends[2]) <= 100:
        raise UserError(f"--ylim {ylim}: expected two percentages, the lower first, such as 0,60")

    from resexp.report import Slide

    return Slide((int(pixels[1]), int(pixels[2])), dpi, title or "", (float(ends[1]), float(ends[2])) if ylim else None)


def _follow(study: StudyFolder, target: Path, show: bool) -> None:
    """Write the report whenever a run has come further, until none has any way to go."""
    from resexp.report import build_report

    seen = None
    while any(run.status().state in TO_COME for run in study.runs()):
        states = [run.status() for run in study.runs()]
        if states != seen:
            try:
                build_report(study, target, reload=LOOK_S)
            except UserError as error:  # nothing has finished yet
                if seen is None:
                    err.print(f"{error}; waiting", soft_wrap=True)
            else:
                err.print(f"{target / 'index.html'}: written", soft_wrap=True)
                if show:
                    webbrowser.open((target / "index.html").resolve().as_uri())
                    show = False
            seen = states
        time.sleep(LOOK_S)
