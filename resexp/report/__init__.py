"""The report of a study: a page, figures and tables, from the run folders and nothing else. No torch."""

from __future__ import annotations

import contextlib
import os
import sys

from resexp.errors import UserError
from resexp.utils.text import MAX_NAMES

# Figures are drawn without a screen. A backend that the user chose need not be installed here, and stays theirs.
first, backend = "matplotlib" not in sys.modules, os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib
except UnicodeDecodeError as error:
    raise UserError(f"matplotlibrc: {error}; save your settings of matplotlib as UTF-8") from None
finally:
    if backend is not None:
        os.environ["MPLBACKEND"] = backend
if first and backend:
    with contextlib.suppress(ValueError):
        matplotlib.rcParams["backend"] = backend

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np

from resexp.report import page, together, tuning
from resexp.report.figure import LINE, OnPage, Plot
from resexp.report.formatting import curves_of
from resexp.report.plots import controls_plot, curves_plot, depth_plot
from resexp.report.probes import PageSection, probe_sections
from resexp.report.stats import Net, RunRecord, frame
from resexp.report.summary import Summary, summarise
from resexp.report.together import Together
from resexp.report.verdict import Verdict
from resexp.runs.store import StudyFolder, is_study_folder
from resexp.utils.files import write_all
from resexp.utils.parallel import parallel_map

__all__ = ["Slide", "build_comparison", "build_report"]

LARGE, SMALL = (6.6, 4.1), (5.4, 3.9)
AXIS_FROM = 20
"""Percent at which the error axis of training curves begins where none falls below it, as in Fig. 4."""


@dataclass(frozen=True)
class Slide:
    """How the main figure is drawn for a talk."""

    pixels: tuple[int, int]
    """Width and height."""
    dpi: int
    title: str
    """Default: what is seen."""
    ylim: tuple[float, float] | None
    """Ends of the error axis, percent. None: from zero to the largest error."""


def build_report(study: StudyFolder, to: Path, *, slide: Slide | None = None, reload: float | None = None) -> Summary:
    """Write index.html, summary.csv, runs.csv, summary.md, deviations.md and figures/ to the folder `to`.

    With a `slide`, figures/slide.png, .svg and .pdf, too. Browsers load the page again after `reload` seconds, if
    given. All are made before the first is replaced; see `files.write_all`. Raises UserError while no run has finished.
    """
    if is_study_folder(to):
        raise UserError(f"{to}: a study is there, and its runs; name another folder with --out")
    if to == study.folder / "report" and to.is_symlink():
        raise UserError(f"{to}: a link, which the report would be written through; remove it")
    summary, sections, remarks = read(study)
    plots = draw(summary, slide)
    for section in sections:
        for name, plot in section.plots.items():
            plot.note, plots[name] = section.caption, plot
    figures, files = _files(plots, summary.name)
    files["summary.csv"] = page.csv(summary)
    files["runs.csv"] = frame([(record.run, record) for record in summary.records]).to_csv(index=False)
    files["summary.md"] = page.markdown(summary, sections, remarks)
    files["deviations.md"] = page.deviations_markdown(summary)
    files["index.html"] = page.html(summary, figures, sections, remarks, reload)
    write_all(to, files)
    return summary


def read(study: StudyFolder) -> tuple[Summary, list[PageSection], list[str]]:
    """What a report shows: the numbers, the sections of probes, and a line for each thing that can't be shown."""
    summary = summarise(study)
    sections, remarks = probe_sections(study, summary)
    if finding := next((section.finding for section in sections if section.finding), ""):
        verdict = Verdict(finding, families=summary.verdict.families)
        summary = replace(summary, finding=finding, verdict=verdict, controls=[])
    if found := tuning.section(summary.all_families):
        sections.insert(0, found)
    return summary, sections, remarks


def build_comparison(
    studies: Sequence[StudyFolder], to: Path, *, slide: Slide | None = None, reload: float | None = None
) -> Together:
    """Write index.html, summary.csv, runs.csv, comparison.json, summary.md and figures/ of several studies to `to`.

    All are made before the first is replaced. Raises UserError while no run of a study has finished, and if `to`
    holds a study or the page of one.
    """
    if is_study_folder(to) or is_study_folder(to.parent):
        raise UserError(f"{to}: a study or its own page is there; name another folder with --out")
    found = together.together(studies)
    figures, files = _files(draw_together(found, slide), found.title)
    data = together.data(found)
    markdown = page.TEMPLATES.get_template("together.md.j2").render(together=found, table=found.table()[0])
    files |= {**data, "summary.md": markdown, "index.html": together.html(found, figures, data, reload)}
    write_all(to, files)
    return found


def _files(plots: Mapping[str, Plot], study: str) -> tuple[dict[str, OnPage], dict[str, str | bytes]]:
    """The figures as the page shows them, and as files."""
    for number, plot in enumerate(plots.values()):
        plot.prefix = f"{ascii_lowercase[number % 26]}{number // 26 or ''}"
        plot.note = plot.note and f"{study}: {plot.note}"
    figures, files = dict[str, OnPage](), dict[str, str | bytes]()
    for name, (made, on_page) in zip(plots, parallel_map(Plot.files, list(plots.values()), 12), strict=True):
        files |= {f"figures/{name}.{kind}": content for kind, content in made.items()}
        figures[name] = on_page
    return figures, files


def draw(summary: Summary, slide: Slide | None = None) -> dict[str, Plot]:
    """The figures of the training by name; none where a finding stands in the verdict's place and has its own."""
    if summary.finding:
        return {}
    nets = [net for net in summary.nets if net.family in summary.drawn]
    records = [record for record in summary.records if record.has_curves and record.family in summary.drawn]
    plots = _over_depth(nets, summary.verdict.families, summary.name, summary.seen, slide)
    if summary.controls:
        plots["controls"] = controls_plot(summary.controls[:MAX_NAMES])
    ends = _ends(records)
    for family in sorted({record.family for record in records}):
        plots[curves_of(family)] = curves_plot(records, family, ends, SMALL)
    return plots


def draw_together(found: Together, slide: Slide | None) -> dict[str, Plot]:
    """The figures of several studies by name: the studies in one, and each on the same error axes."""
    looks = found.looks()
    plots = _over_depth(found.nets(), list(looks), found.title, found.seen, slide, looks)
    drawn = {name: [net for net in study.nets if net.family in study.drawn] for name, study in found.studies.items()}
    highest = max(value for nets in drawn.values() for net in nets for value in net.errors["running"].values)
    top = max(1.05 * highest, plots["depth-running"].axes.get_ylim()[1])
    plots["depth-running"].axes.set_ylim(0, top)
    records = {
        name: [record for record in study.records if record.has_curves and record.family in together.shown(study)]
        for name, study in found.studies.items()
    }
    ends = _ends([record for of_study in records.values() for record in of_study])
    for name, study in found.studies.items():
        judged = study.verdict.families
        plots[f"study-{found.slugs[name]}"] = depth_plot(drawn[name], "running", judged, SMALL, name, top=top)
    for number in (0, 1):  # plain nets next to plain nets
        for name, study in found.studies.items():
            for family in together.shown(study)[number : number + 1]:
                if any(record.family == family for record in records[name]):
                    curves = curves_plot(records[name], family, ends, SMALL, name)
                    plots[curves_of(f"{found.slugs[name]} {family}")] = curves
    return plots


def _over_depth(
    nets: Sequence[Net],
    judged: Sequence[str],
    name: str,
    seen: str,
    slide: Slide | None,
    looks: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Plot]:
    """The figures of errors against depth; the first is the main one, which a slide has, too."""
    plots = {
        f"depth-{metric}": depth_plot(nets, metric, judged, size, title, looks=looks)
        for metric, size, title in (("running", LARGE, seen), ("clean", SMALL, ""), ("test", SMALL, ""))
    }
    if slide:
        inches = slide.pixels[0] / slide.dpi, slide.pixels[1] / slide.dpi
        plot = plots["slide"] = depth_plot(
            nets, "running", judged, inches, slide.title or seen, looks=looks, grows=False
        )
        if slide.ylim:
            plot.axes.set_ylim(*slide.ylim)
        plot.dpi, plot.note = slide.dpi, ""  # a note would add to the size
        words = f"{name}: running training error; points are means over seeds, bars one standard deviation"
        look: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": "x-small"}
        plot.axes.annotate(words, (0, 0), (0, -3 * LINE), va="top", annotation_clip=False, **look)
    return plots


def _ends(records: Sequence[RunRecord]) -> tuple[float, float]:
    """The ends of the error axis of training curves, in percent."""
    late = [np.zeros(0)]
    for record in records:
        curves = [record.metrics[f"{part}_error"] for part in ("train", "val", "test")]
        begin = record.config.train.steps / 10  # before, every net is far from what it comes to
        late += [curve.values[curve.steps > begin] for curve in curves]
    errors = np.concatenate(late)
    top = min(100.0, 1.05 * float(errors.max(initial=0.0))) or 100.0
    return float(AXIS_FROM if errors.min(initial=top) >= AXIS_FROM else 0), top
