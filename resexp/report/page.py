"""The page and the tables, from a summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import jinja2
import pandas as pd

import resexp
from resexp.errors import sanitize
from resexp.report.controls import sentences
from resexp.report.deviations import deviations
from resexp.report.estimates import Estimate
from resexp.report.formatting import MOST, NOTHING, filled, listed
from resexp.report.probes import Section
from resexp.report.stats import METRICS
from resexp.report.summary import SEEDS, Summary

_TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("resexp.report", "."),
    autoescape=True,  # whatever a name, a message or a command holds, it is shown, never run
    finalize=lambda value: sanitize(value) if type(value) is str else value,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

_RUNNING, *_OTHERS = METRICS
ROWS = 200
"""Rows of a table on the page; summary.csv and summary.md have them all."""
INTERVAL = "95 % interval"
"""Beside the error that the verdict is about; those of the other errors stand in summary.csv."""
HEADER = [
    *("net", "parameters", "seeds", METRICS[_RUNNING], INTERVAL, *(METRICS[metric] for metric in _OTHERS)),
    *("time a run", "paper: training", "paper: test"),
]


def table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table of nets, as people read it, without columns that are empty; errors in percent."""
    rows = [
        [
            net.label,
            f"{net.parameters:,}",
            str(len(net.runs)),
            str(net.errors[_RUNNING]),
            _interval(net.errors[_RUNNING]),
            *(str(net.errors.get(metric, NOTHING)) for metric in _OTHERS),
            _time(net.seconds),
            f"{net.published.train:.2f}" if net.published and net.published.train is not None else NOTHING,
            f"{net.published.test:.2f}" if net.published and net.published.test is not None else NOTHING,
        ]
        for net in summary.nets
    ]
    return filled(HEADER, rows)


def _interval(error: Estimate) -> str:
    return "[{:.2f}, {:.2f}]".format(*error.interval) if error.interval else NOTHING


def _time(seconds: float) -> str:
    return (
        f"{seconds:.0f} s"
        if seconds < 120
        else f"{seconds / 60:.1f} min"
        if seconds < 7200
        else f"{seconds / 3600:.1f} h"
    )


def comparability(summary: Summary) -> list[tuple[str, list[str]]]:
    """The nets that can't be compared with the paper, grouped by reason."""
    groups: dict[tuple[str, ...], list[str]] = {}
    for net in summary.nets:
        if net.differences:
            groups.setdefault(tuple(net.differences), []).append(net.label)
    return [(listed(nets), list(reasons)) for reasons, nets in groups.items()]


def provenance(summary: Summary) -> list[tuple[str, str]]:
    """How the runs were made: each fact with its values, the most frequent first."""
    facts = {
        "command": "command", "resexp": "resexp", "commit": "commit", "Python": "python", "torch": "torch",
        "CUDA": "cuda", "system": "platform", "device": "device", "precision": "precision",
        "CPU capability": "cpu_capability", "CPU threads a run": "threads", "processes a run": "world",
    }  # fmt: skip
    manifests = [record.manifest for record in summary.records]
    attempts = [attempt for manifest in manifests for attempt in manifest.attempts]
    rows = [(name, _values([getattr(attempt, field) for attempt in attempts])) for name, field in facts.items()]
    datas = [manifest.data for manifest in manifests]
    rows.append(("decoded by", _values([d.decoder or None for d in datas])))
    rows.append(("data", _values([f"{d.name} (source {d.source}), fingerprint {d.fingerprint}" for d in datas])))
    rows.append(("images", _values([f"{d.train_images:,} trained on, {d.val_images:,} for validation" for d in datas])))
    again = len(attempts) - len(manifests)
    rows.append(("continued", f"{again} time{'s' * (again > 1)}" if again else ""))
    return [(name, value) for name, value in rows if value]


def _values(values: list[Any]) -> str:
    counts = Counter(str(value) for value in values if value is not None)
    shown = [value if len(counts) == 1 else f"{value} ({n}x)" for value, n in counts.most_common(5)]
    return "; ".join(shown) + ("; ..." if len(counts) > 5 else "")


def html(summary: Summary, figures: dict[str, str], sections: Sequence[Section], remarks: Sequence[str]) -> str:
    """The self-contained page with its `figures` as SVG; `remarks` say which records of probes can't be shown."""
    return _TEMPLATES.get_template("page.html.j2").render(
        summary=summary,
        figures=figures,
        rows=ROWS,
        seeds=SEEDS,
        most=MOST,
        listed=listed,
        curves=[name for name in figures if name.startswith("curves")],
        table=table(summary),
        sections=sections,
        remarks=remarks,
        question=_question(summary),
        controls=sentences(summary.controls),
        deviations=deviations(summary.nets),
        provenance=provenance(summary),
        version=resexp.__version__,
    )


def _question(summary: Summary) -> str:
    """What the variants of the study ask; families may differ in what no single setting names, such as their depths."""
    return f"Does it depend on {summary.varied or 'the variant'}?"


def markdown(summary: Summary, sections: Sequence[Section], remarks: Sequence[str]) -> str:
    """Verdict, table and what probes found as Markdown; errors in percent, mean ± standard deviation over seeds."""
    lines = [f"# {summary.name}", "", f"**{summary.verdict.headline}**", "", *summary.verdict.sentences, ""]
    if summary.controls:
        lines += [_question(summary), *sentences(summary.controls), ""]
    header, rows = table(summary)
    lines += [
        *_rows(header, rows),
        "",
        *(f"Not comparable with the paper: {nets}, because {'; '.join(why)}." for nets, why in comparability(summary)),
    ]
    for absence in summary.absent:
        parts = (absence.run, absence.state, absence.step, absence.message)
        lines.append(f"Not finished: {', '.join(part for part in parts if part)}.")
    for section in sections:
        lines += ["", f"{section.title}: {section.headline}"]
        lines += ["", *_rows(*section.table)] if section.table else []
    lines += ["", *remarks] if remarks else []
    return sanitize("\n".join(lines) + "\n")


def _rows(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (header, ["---"] * len(header), *rows)]


def csv(summary: Summary) -> str:
    """One row per net; errors are fractions."""
    text: str = pd.DataFrame([net.to_json() for net in summary.nets]).to_csv(index=False)
    return text
