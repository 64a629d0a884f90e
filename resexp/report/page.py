"""The page and the tables, from a summary."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
from markupsafe import Markup

import resexp
from resexp.errors import sanitize
from resexp.report import controls, details, formatting
from resexp.report.estimates import signed
from resexp.report.figure import OnPage
from resexp.report.formatting import NOTHING, Table, duration, filled, in_cell
from resexp.report.plots import curve, of_the_curve, of_the_paper
from resexp.report.probes import PageSection
from resexp.report.stats import METRICS, Net, grouped
from resexp.report.summary import MAX_CURVE_SEEDS, Summary
from resexp.report.svg import data_url
from resexp.report.verdict import Verdict
from resexp.runs.records import json_text
from resexp.utils import text
from resexp.utils.text import MAX_NAMES, counted, listed

TEMPLATES = jinja2.Environment(
    loader=jinja2.PackageLoader("resexp.report", "."),
    # Whatever a name, a message or a command holds, the page shows it and never runs it.
    autoescape=lambda name: bool(name and name.endswith(".html.j2")),
    finalize=lambda value: sanitize(value) if type(value) is str else value,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)

SCRIPT = Path(__file__).with_name("page.js").read_text()
"""The page's only script."""
_RUNNING, *_REST = METRICS
ROWS = 200
"""Rows of a table on the page; summary.csv and summary.md have them all."""
LARGEST = 200_000
"""Letters of a file inside the page."""


def table(summary: Summary) -> Table:
    """The table of nets, as people read it, without columns that are empty; errors in percent.

    It has the interval of the verdict's error only; summary.csv has all intervals.
    """
    header = [
        *("net", "parameters", "seeds", METRICS[_RUNNING], "95 % interval", *(METRICS[metric] for metric in _REST)),
        *("time per run", "paper: training", "paper: test"),
    ]
    rows = [
        [
            net.label,
            f"{net.parameters:,}",
            str(len(net.runs)),
            str(net.errors[_RUNNING]),
            "[{:.2f}, {:.2f}]".format(*interval) if (interval := net.errors[_RUNNING].interval) else NOTHING,
            *(str(net.errors.get(metric, NOTHING)) for metric in _REST),
            duration(net.seconds),
            *(in_cell(getattr(net.published, error, None)) for error in ("train", "test")),
        ]
        for net in summary.nets
    ]
    return filled(header, rows)


def provenance(summary: Summary) -> list[tuple[str, str]]:
    """How the runs were made: each fact with its values, the most frequent first."""
    facts = {
        "command": "command", "resexp": "resexp", "commit": "commit", "Python": "python", "torch": "torch",
        "CUDA": "cuda", "system": "platform", "device": "device", "precision": "precision",
        "CPU": "cpu", "CPU capability": "cpu_capability", "CPU threads a run": "threads", "processes a run": "world",
    }  # fmt: skip
    manifests = [record.manifest for record in summary.records]
    attempts = [attempt for manifest in manifests for attempt in manifest.attempts]
    rows = [(name, _values([getattr(attempt, field) for attempt in attempts])) for name, field in facts.items()]
    datas = [manifest.data for manifest in manifests]
    rows.append(("decoded by", _values([d.decoder or None for d in datas])))
    rows.append(("data", _values([f"{d.name} (source {d.source}), fingerprint {d.fingerprint}" for d in datas])))
    rows.append(("images", _values([f"{d.train_images:,} trained on, {d.val_images:,} for validation" for d in datas])))
    again = len(attempts) - len(manifests)
    rows.append(("continued", counted(again, "time") if again else ""))
    return [(name, value) for name, value in rows if value]


def _values(values: list[Any]) -> str:
    counts = Counter(str(value) for value in values if value is not None)
    shown = [value if len(counts) == 1 else f"{value} ({n} of {counts.total()})" for value, n in counts.most_common(5)]
    return "; ".join(shown) + ("; ..." if len(counts) > 5 else "")


def html(
    summary: Summary,
    figures: Mapping[str, OnPage],
    sections: Sequence[PageSection],
    remarks: Sequence[str],
    reload: float | None = None,
) -> str:
    """The self-contained page with its `figures`; `remarks` say which records of probes can't be shown.

    Browsers load it again after `reload` seconds, if given.
    """
    return rendered(
        "page.html.j2",
        figures,
        reload=reload,
        saved_as=summary.name,
        main="probe-identity" if summary.finding else "depth-running",
        of_the_paper=of_the_paper(summary.nets),
        several=any(len(net.runs) > 1 for net in summary.nets),
        intervals=any(family.rise and family.rise.overall.low is not None for family in summary.all_families),
        validated=any(net.runs[0].manifest.data.val_images for net in summary.nets),
        numbers=numbers(summary.verdict),
        settings=details.settings(summary.nets[:ROWS]),
        downloads=embedded(_files(summary)),
        deviations=_deviations(summary.nets),
        provenance=provenance(summary),
        **_shared(summary, sections, remarks),
    )


def rendered(template: str, figures: Mapping[str, OnPage], **more: Any) -> str:
    """A self-contained page with its `figures` from a template, with its style and script."""
    return TEMPLATES.get_template(template).render(
        figures=figures,
        series=max((entry.number + 1 for figure in figures.values() for entry in figure.legend), default=0),
        paper=any(entry.paper for figure in figures.values() for entry in figure.legend),
        rows=ROWS,
        seeds=MAX_CURVE_SEEDS,
        details=details,
        formatting=formatting,
        text=text,
        version=resexp.__version__,
        script=Markup(SCRIPT),
        digest=base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode(),
        **more,
    )


def numbers(verdict: Verdict) -> list[tuple[str, str, str, str]]:
    """The numbers that lead the page, as far as known: a class, what it is, points, and its interval if it has one.

    They have their depths in words where these differ.
    """
    found = [
        (kind, f"{kind} nets' rise", rise.overall, (rise.shallowest, rise.deepest))
        for kind, rise in (("plain", verdict.plain), ("residual", verdict.residual))
        if rise
    ]
    if verdict.interaction and verdict.interaction_depths:
        found.append(("interaction", "difference of the rises", verdict.interaction, verdict.interaction_depths))
    several = len({depths for *_, depths in found}) > 1
    where = [f", {a} to {b} layers" if several else "" for *_, (a, b) in found]
    return [
        (name, words + at, signed(points.value), points.brackets)
        for (name, words, points, _), at in zip(found, where, strict=True)
    ]


def _files(summary: Summary) -> dict[str, str]:
    """The data, as files inside the page."""
    curves = [
        {"net": net.label, "step": int(step), "training_error": error / 100}
        for net in summary.nets
        if net.family in summary.drawn
        for mean in [curve(of_the_curve([run for run in net.runs if run.has_curves]), "train_error")]
        for step, error in zip(mean.steps.tolist(), mean.values.tolist(), strict=True)
    ]
    return {
        "summary.csv": csv(summary),
        "curves.csv": pd.DataFrame(curves).to_csv(index=False, float_format="%.4g"),
        "report.json": json_text(summary.to_json()),
    }


def embedded(files: Mapping[str, str]) -> list[tuple[str, str | None]]:
    """Names and links of files inside the page; None if a file is too large for that."""
    kinds = {"csv": "text/csv", "json": "application/json"}
    return [
        (name, data_url(kinds[name.rpartition(".")[2]], text) if len(text) < LARGEST else None)
        for name, text in files.items()
    ]


def _shared(summary: Summary, sections: Sequence[PageSection], remarks: Sequence[str]) -> dict[str, Any]:
    """What the page and summary.md both show."""
    return {
        "summary": summary,
        "sections": sections,
        "remarks": remarks,
        "table": table(summary),
        "controls": controls.table(summary.controls[:MAX_NAMES]) if summary.controls else None,
        # families may differ in what no single setting names, such as their depths
        "question": f"Does it depend on {summary.varied or 'the condition'}?",
    }


def markdown(summary: Summary, sections: Sequence[PageSection], remarks: Sequence[str]) -> str:
    """summary.md: verdict, table and sections of probes; errors in percent, mean ± standard deviation over seeds."""
    different = grouped([net for net in summary.nets if net.not_comparable], lambda net: tuple(net.not_comparable))
    return TEMPLATES.get_template("summary.md.j2").render(
        not_comparable=[(listed([net.label for net in nets]), reasons) for reasons, nets in different.items()],
        **_shared(summary, sections, remarks),
    )


def deviations_markdown(summary: Summary) -> str:
    """deviations.md."""
    return TEMPLATES.get_template("deviations.md.j2").render(summary=summary, deviations=_deviations(summary.nets))


def _deviations(nets: Sequence[Net]) -> dict[str, Any]:
    """Departures from the paper's recipe, and readings of what it leaves open, each with the nets that share it.

    The last two name the nets that follow the recipe, with and without a number in the paper.
    """

    def by_nets(entries: Callable[[Net], list[Any]]) -> list[tuple[str, list[Any]]]:
        having: dict[Any, list[str]] = {}
        for net in nets:
            for entry in entries(net):
                having.setdefault(entry, []).append(net.label)
        return [
            ("all nets" if len(labels) == len(nets) else listed(labels), alike)
            for labels, alike in grouped(having, lambda entry: tuple(having[entry])).items()
        ]

    alike = [net for net in nets if not net.departures]
    return {
        "departures": by_nets(lambda net: net.departures),
        "readings": by_nets(lambda net: net.readings),
        "comparable": listed([net.label for net in alike if not net.not_comparable]),
        "unpublished": listed([net.label for net in alike if net.not_comparable]),
    }


def csv(summary: Summary) -> str:
    """One row per net; errors are fractions."""
    return str(pd.DataFrame([net.to_json() for net in summary.nets]).to_csv(index=False))
