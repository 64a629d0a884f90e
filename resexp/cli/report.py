"""`resexp report` and `resexp diff`."""

from __future__ import annotations

import re
import time
import webbrowser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from resexp.cli import completion
from resexp.cli.console import make_table, print_json, print_line, print_table, warn
from resexp.cli.options import PATH, RESULTS, AsJson, Results, names
from resexp.errors import UserError
from resexp.utils.text import counted

if TYPE_CHECKING:
    from resexp.report import Slide
    from resexp.report.summary import Summary
    from resexp.report.together import Together
    from resexp.runs.records import Status
    from resexp.runs.store import StudyFolder

DEFAULT = "STUDY/report, or RESULTS/comparisons/A-B"
LOOK_S = 5.0
"""Seconds between two looks at the runs, and between two loads of the page."""
TO_COME = ("pending", "running", "interrupted")
"""States of runs that a report may still wait for."""


def report(
    named: Annotated[
        list[str] | None,
        names("STUDY", "Name or folder, two or three to compare; default: the newest.", completion.studies),
    ] = None,
    to: Annotated[Path | None, typer.Option("--out", help=f"Where to write; default: {DEFAULT}.", **PATH)] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Write it again until all runs have ended; the page reloads.")
    ] = False,
    size: Annotated[str | None, typer.Option(help="Draw the main figure for a slide, too: pixels, 1920x1080.")] = None,
    dpi: Annotated[int, typer.Option(min=50, max=600, help="Pixels per inch of the slide; more: larger text.")] = 200,
    title: Annotated[str | None, typer.Option(help="Title of the slide. Default: what the figure shows.")] = None,
    ylim: Annotated[str | None, typer.Option(help="Limits of the slide's error axis, percent: 0,60.")] = None,
    as_json: AsJson = False,
    results: Results = RESULTS,
) -> None:
    """Write the page, figures and tables of a study, finished or still running. They replace an earlier report.

    Given two or three studies, one page has them in one figure, and shows how configurations and results differ.
    With --size, figures/slide.png, .svg and .pdf have the main figure for a talk.
    """
    slide = _slide(size, dpi, title, ylim)
    if watch and as_json:
        raise UserError("report: --watch writes pages; leave --json out")

    from resexp.report import build_comparison, build_report
    from resexp.runs.names import open_study

    studies = [open_study(name, results) for name in named] if named else [open_study(None, results)]
    build: Callable[..., Summary | Together]
    if len(studies) == 1:
        target = to or studies[0].folder / "report"
        build = partial(build_report, studies[0], target)
    else:
        target = to or results / "comparisons" / "-".join(study.folder.name for study in studies)
        build = partial(build_comparison, studies, target)
    page = target / "index.html"
    if watch:
        _follow(studies, build, page, show)
    found = build(slide=slide)
    if as_json:
        print_json(found.to_json())
    else:
        for headline in found.headlines:
            print_line(headline, style="bold")
        print_line(page)
    for message in found.unreadable[:3]:
        warn(f"not counted: {message}")
    if found.unreadable[3:]:
        more = counted(len(found.unreadable) - 3, "more run")
        warn(f"not counted: {more} that can't be read; the page gives the reasons")
    if show and not watch:
        webbrowser.open(page.resolve().as_uri())


def _slide(size: str | None, dpi: int, title: str | None, ylim: str | None) -> Slide | None:
    """The slide that is asked for. Raises UserError if an option makes no sense."""
    if size is None:
        if title is not None or ylim is not None:
            raise UserError("report: --title and --ylim are of a slide; give its size, such as --size 1920x1080")
        return None
    pixels = re.fullmatch(r"([1-9]\d{2,3})x([1-9]\d{2,3})", size)
    if pixels is None:
        raise UserError(f"--size {size}: expected pixels, such as 1920x1080, from 100 to 9999 a side")
    ends = re.fullmatch(r"(\d+(?:\.\d+)?),(\d+(?:\.\d+)?)", "0,100" if ylim is None else ylim)
    if ends is None or not float(ends[1]) < float(ends[2]) <= 100:
        raise UserError(f"--ylim {ylim}: expected two percentages, the lower first, such as 0,60")

    from resexp.report import SMALL, Slide

    width, height = int(pixels[1]), int(pixels[2])
    dpi = int(min(dpi, width / SMALL[0], height / SMALL[1]))  # or the text would cover the lines
    return Slide((width, height), dpi, title or "", (float(ends[1]), float(ends[2])) if ylim else None)


def _follow(studies: list[StudyFolder], build: Callable[..., object], page: Path, show: bool) -> None:
    """Write the report whenever a run has come further, until none has any way to go."""
    seen: list[Status] = []
    while True:
        states = [run.status() for study in studies for run in study.runs()]
        if all(status.state not in TO_COME for status in states):
            return
        if states != seen:
            try:
                build(reload=LOOK_S)
            except UserError as error:  # nothing has finished yet
                if not seen:
                    warn(f"{error}; waiting")
            else:
                warn(f"{page}: written")
                if show:
                    webbrowser.open(page.resolve().as_uri())
                    show = False
            seen = states
        time.sleep(LOOK_S)


def diff(
    a: Annotated[str, names("A")],
    b: Annotated[str, names("B")],
    as_json: AsJson = False,
    results: Results = RESULTS,
) -> None:
    """Show how two studies, nets or runs differ: in configuration, in running training error, and in verdict.

    Nets of studies are matched by name. Differences are B minus A, in points, with a 95 % interval over seeds (Welch).
    p is from Welch's t test of one row; it is not corrected for the number of rows.
    `resexp report A B` draws two studies in one figure.
    """
    from resexp.report.comparison import compare
    from resexp.runs.names import select_runs

    found = compare(select_runs(a, results).runs, select_runs(b, results).runs)
    if as_json:
        print_json({"a": a, "b": b, **found.to_json()})
        return
    if found.settings:
        print_table(make_table("configuration", *found.settings_table(a, b)))
    else:
        print_line("configuration: no difference")
    header = ["net", a, b, "difference, points", "p"]
    cells = [pair.cells for pair in found.pairs]
    print_table(make_table("running training error, % (finished seeds)", header, cells))
    if found.shifts:
        print_table(make_table("verdicts", *found.shifts_table(a, b)))
    if found.shared:
        print_line(found.shared_line(a, b))
    for name, nets in ((a, found.only_a), (b, found.only_b)):
        if nets:
            print_line(f"only in {name}: {', '.join(nets)}")
