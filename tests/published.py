"""Rebuild the published pages, what documents quote of their records, and configs/KEYS.md: python -m tests.published.

A quotation stands between ``<!-- quickstart: verdict -->`` and ``<!-- end -->``: the study under
results/published and what of it. So every number there comes from a committed record.
"""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Sequence
from functools import cache
from itertools import combinations
from pathlib import Path

import pandas as pd
from scipy import stats

from resexp import paper, report
from resexp.errors import UserError
from resexp.report import build_report
from resexp.report.controls import table
from resexp.report.probes import PageSection
from resexp.report.stats import Net, read
from resexp.report.summary import Summary
from resexp.runs.store import StudyFolder
from tests.keys import KEYS, keys

REPOSITORY = Path(__file__).parent.parent
PUBLISHED = REPOSITORY / "results/published"
DOCUMENTS = [REPOSITORY / "README.md", REPOSITORY / "results/README.md"]
"""The documents with quotations."""
QUOTATION = re.compile(r"(<!-- ([\w-]+): ([\w' -]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def studies() -> list[StudyFolder]:
    """The published studies that have a finished run to report."""
    found = [StudyFolder(plan.parent) for plan in sorted(PUBLISHED.glob("*/study.json"))]
    return [study for study in found if any(run.status().state == "finished" for run in study.runs())]


@cache
def found(name: str) -> tuple[Summary, list[PageSection]]:
    """What the page of a published study shows."""
    if not (PUBLISHED / name / "study.json").is_file():
        raise UserError(f"{name}: no such study in {PUBLISHED.relative_to(REPOSITORY)}")
    summary, sections, _ = report.read(StudyFolder(PUBLISHED / name))
    return summary, sections


def summary(name: str) -> Summary:
    """The numbers of a published study."""
    return found(name)[0]


def sections(name: str) -> dict[str, str]:
    """What the sections of a page say, by their titles; with " table" behind it, its table."""
    shown = found(name)[1]
    tables = {f"{section.title} table": rows(*section.table) for section in shown if section.table}
    return {section.title: section.headline for section in shown} | tables


def rows(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *cells])


def verdict(name: str) -> str:
    """The verdict with its sentences."""
    found = summary(name).verdict
    return "\n".join([f"**{found.headline}**", "", *(f"- {sentence}" for sentence in found.sentences)])


def headline(name: str) -> str:
    """The verdict in one sentence."""
    return summary(name).verdict.headline


def controls(name: str) -> str:
    """The differences that the verdict rests on, in each condition of the study."""
    return rows(*table(summary(name).controls))


def errors(name: str) -> str:
    """The running training error of each kind by depth."""
    nets = summary(name).nets
    depths = sorted({net.depth for net in nets})
    at: dict[tuple[str, int], Net] = {(net.family, net.depth): net for net in nets}
    cells = [
        [family, *(str(at[family, d].errors["running"]) if (family, d) in at else "–" for d in depths)]
        for family in dict.fromkeys(net.family for net in nets)
    ]
    return rows(["training error, %", *(f"depth {depth}" for depth in depths)], cells)


def cost(name: str) -> str:
    """How long its runs took."""
    runs = [run for net in summary(name).nets for run in net.runs]
    hours = sum(run.seconds * run.manifest.attempts[-1].threads for run in runs) / 3600
    return f"{len(runs)} runs, {hours:.1f} core-hours of training."


SPAN = 500
"""Steps that an error beside Fig. 6 is the mean of."""
LOOKED_AT = (4000, 8000, 16000, 31000, 34000, 47000, 63000)
"""Steps near which the curves of Fig. 6 are read."""


def curve(name: str) -> str:
    """The running training error beside the paper's curve, at points of the curve itself."""
    records = [record for record in map(read, StudyFolder(PUBLISHED / name).runs()) if record]
    cells = []
    for record in records:
        model, error = record.config.model, record.metrics["train_error"]
        theirs = paper.fig6(model.kind, model.block, model.depth)["train"]
        row = [record.run.label]
        for wanted in LOOKED_AT:
            step, percent = min(theirs, key=lambda point: abs(point[0] - wanted))
            ours = error.values[(error.steps > step - SPAN) & (error.steps <= step)].mean()
            row.append(f"{ours:.1f} ({percent:.1f})" if abs(step - wanted) < SPAN else "–")
        cells.append(row)
    return rows(["net", *(f"step {step:,}" for step in LOOKED_AT)], cells)


def beside(name: str) -> str:
    """The errors of each net beside the paper's."""
    cells = []
    for net in summary(name).nets:
        theirs = paper.published(net.runs[0].config.model)
        assert theirs
        cells.append(
            [
                *(net.label, str(net.errors["running"]), str(net.errors["clean"]), f"{theirs.train}"),
                *(str(net.errors["test"]), f"{theirs.test}"),
            ]
        )
    return rows(["net", "training error: running, %", "clean", "paper (Fig. 6)", "test error, %", "paper"], cells)


def pace(name: str) -> str:
    """How fast runs that were trained side by side were, all together."""
    runs = [run for net in summary(name).nets for run in net.runs]
    images = sum(run.config.train.steps * run.config.train.batch_size for run in runs)
    seconds = max(run.seconds for run in runs)
    on = runs[0].manifest.attempts[-1]
    return (
        f"{len(runs)} runs of {runs[0].config.train.steps:,} steps, side by side on one {on.device} in {on.precision}: "
        f"{seconds / 60:.1f} minutes, {images / seconds:,.0f} images/s in all."
    )


def bench(name: str) -> str:
    """What `resexp bench` measured on a CPU."""
    rows = json.loads((PUBLISHED / name / "bench.json").read_text())["rows"]
    ours = sorted((row for row in rows if row["what"] == "resexp"), key=lambda row: row["at_once"])
    speeds = [
        f"{row['at_once']} run{'s side by side train' if row['at_once'] > 1 else ' trains'} "
        f"{row['over']['usual loop'][0]:.2f} times the images/s of the usual loop and "
        f"{row['over']['eager loop'][0]:.2f} times those of a good eager loop"
        for row in ours
    ]
    return (
        f"{ours[-1]['net']}: {'; '.join(speeds)}, which is {ours[-1]['of_matmul']:.0%} of the GFLOP/s of a large "
        "matrix "
        "product on the same cores."
    )


def sets(name: str) -> str:
    """In how many sets of four of the seeds in twenty-seeds.csv, trained for the margin, a study shows both effects."""
    errors = pd.read_csv(PUBLISHED / name / "twenty-seeds.csv").pivot(index="seed", columns="net")
    margin, groups = StudyFolder(PUBLISHED / name).plan().margin, list(combinations(range(len(errors)), 4))
    intervals = {}
    for kind in ("plain", "residual"):
        shallow, deep = (
            100 * errors["running_train_error"][f"{kind}-{depth}"].to_numpy()[groups] for depth in (20, 38)
        )
        intervals[kind] = stats.ttest_ind(deep, shallow, axis=1, equal_var=False).confidence_interval(0.95)
    rises, below = intervals["plain"].low > 0, intervals["residual"].high < margin
    return (
        f"Among {len(errors)} seeds, all from one machine, there are {len(groups):,} sets of four. Plain nets rise in "
        f"{rises.mean():.0%} of them, and in {(rises & below).mean():.0%} the residual nets' rise is below {margin:g} "
        "points, too."
    )


PARTS: dict[str, Callable[[str], str]] = {
    "verdict": verdict,
    "headline": headline,
    "controls": controls,
    "errors": errors,
    "cost": cost,
    "curve": curve,
    "beside": beside,
    "pace": pace,
    "bench": bench,
    "sets": sets,
}


def quoted(name: str, part: str) -> str:
    """What a published study has to say: one of PARTS, or the section of a probe."""
    if part in PARTS:
        return PARTS[part](name)
    if part not in sections(name):
        known = ", ".join([*PARTS, *sections(name)])
        raise UserError(f"{name}: {part}: no record has it; there are {known}")
    return sections(name)[part]


def filled(text: str) -> str:
    """A document with what its quotations say today."""
    return QUOTATION.sub(lambda found: f"{found[1]}{quoted(found[2], found[3])}\n{found[5]}", text)


if __name__ == "__main__":
    for study in studies():
        shutil.rmtree(study.folder / "report", ignore_errors=True)  # or figures that are no longer made would stay
        build_report(study, study.folder / "report")
    for document in DOCUMENTS:
        try:
            document.write_text(filled(document.read_text()))
        except UserError as error:
            sys.exit(f"{document.relative_to(REPOSITORY)}: {error}")
    KEYS.write_text(keys())
