"""The report of a study: a page, figures and tables, from the run folders and nothing else. No torch."""

from __future__ import annotations

import os

from resexp.errors import UserError

# Figures are drawn without a screen; a notebook's or a user's backend need not be installed here.
os.environ["MPLBACKEND"] = "agg"
try:
    import matplotlib  # noqa: F401
except UnicodeDecodeError as error:
    raise UserError(f"matplotlibrc: {error}; save your settings of matplotlib as UTF-8") from None

from dataclasses import dataclass
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import numpy as np
from numpy.typing import NDArray

from resexp.report import page, tuning
from resexp.report.figure import LINE, OnPage, Plot
from resexp.report.formatting import MOST, curves_of
from resexp.report.plots import controls_plot, curves_plot, depth_plot
from resexp.report.probes import inside
from resexp.report.stats import RunRecord
from resexp.report.summary import Summary, summarise
from resexp.report.table import frame
from resexp.runs.store import StudyFolder
from resexp.utils.files import write_all
from resexp.utils.parallel import parallel_map

__all__ = ["Slide", "build_report"]

LARGE, SMALL = (6.6, 4.1), (5.4, 3.9)
CUT = 20
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
    if (study.folder / "report").is_symlink():
        raise UserError(f"{study.folder / 'report'}: a link, which the report would be written through; remove it")
    summary = summarise(study)
    sections, remarks = inside(study, summary)
    if found := tuning.section(summary.judged):
        sections.insert(0, found)
    plots = draw(summary) | {name: plot for section in sections for name, plot in section.plots.items()}
    for number, plot in enumerate(plots.values()):
        plot.prefix = f"{ascii_lowercase[number % 26]}{number // 26 or ''}"
    figures, files = dict[str, OnPage](), dict[str, str | bytes]()
    for name, (made, on_page) in zip(plots, parallel_map(Plot.files, list(plots.values()), 6), strict=True):
        files |= {f"figures/{name}.{kind}": content for kind, content in made.items()}
        figures[name] = on_page
    if slide:
        made, _ = _drawn(summary, slide).files(slide.dpi)
        files |= {f"figures/slide.{kind}": content for kind, content in made.items()}
    files["summary.csv"] = page.csv(summary)
    files["runs.csv"] = frame([(record.run, record) for record in summary.records]).to_csv(index=False)
    files["summary.md"] = page.markdown(summary, sections, remarks)
    files["deviations.md"] = page.deviations_markdown(summary)
    files["index.html"] = page.html(summary, figures, sections, remarks, reload)
    write_all(to, files)
    return summary


def _drawn(summary: Summary, slide: Slide) -> Plot:
    """The main figure as a slide, with a line that says what it shows."""
    nets = [net for net in summary.nets if net.family in summary.drawn]
    size = (slide.pixels[0] / slide.dpi, slide.pixels[1] / slide.dpi)
    plot = depth_plot(nets, "running", summary.verdict.families, size, slide.title or summary.seen)
    if slide.ylim:
        plot.axes.set_ylim(*slide.ylim)
    words = f"{summary.name}: running training error; points are means over seeds, bars one standard deviation"
    look: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": "x-small"}
    plot.axes.annotate(words, (0, 0), (0, -3 * LINE), va="top", annotation_clip=False, **look)
    return plot


def draw(summary: Summary) -> dict[str, Plot]:
    """The figures of the training by name."""
    nets = [net for net in summary.nets if net.family in summary.drawn]
    records = [record for record in summary.records if record.whole and record.family in summary.drawn]
    plots = {
        f"depth-{metric}": depth_plot(nets, metric, summary.verdict.families, size, title)
        for metric, size, title in (("running", LARGE, summary.seen), ("clean", SMALL, ""), ("test", SMALL, ""))
    }
    if summary.controls:
        plots["controls"] = controls_plot(summary.controls[:MOST])
    late = np.concatenate([_late(record) for record in records])
    top = min(100.0, 1.05 * float(late.max(initial=0.0))) or 100.0
    bottom = float(CUT if late.min(initial=top) >= CUT else 0)
    for family in sorted({record.family for record in records if len(record.metrics["train_error"].steps)}):
        plots[curves_of(family)] = curves_plot(records, family, (bottom, top), SMALL)
    return plots


def _late(record: RunRecord) -> NDArray[np.float64]:
    """The errors of a run after the first tenth of its steps, where every net is far from what it comes to."""
    every = [record.metrics[f"{part}_error"] for part in ("train", "val", "test")]
    return np.concatenate([one.values[one.steps > record.config.train.steps / 10] for one in every])
