"""What a reader finds behind a net of the table: its settings, its figures, how it was trained, and its runs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from resexp.report.families import recipe
from resexp.report.formatting import NOTHING, duration, filled
from resexp.report.stats import METRICS, Net, RunRecord

MOST_RUNS = 10
"""Runs of a net on the page; runs.csv has them all."""


@dataclass(frozen=True)
class Detail:
    """A net and its runs."""

    net: str
    anchor: str
    """Its id on the page."""
    settings: list[tuple[str, str]]
    """Keys that nets of the study differ in, with the net's values."""
    facts: list[tuple[str, str]]
    """How its runs were trained."""
    figures: list[str]
    """Names of the figures that it is in."""
    header: list[str]
    rows: list[list[str]]
    """One row per run, errors in percent."""
    more: int
    """Runs that are not among the rows."""


def details(nets: Sequence[Net], figures: Iterable[str]) -> list[Detail]:
    """A detail for each net, in the order of the nets; `figures` are the names of all figures of the page."""
    recipes = [recipe(net.runs) for net in nets]
    keys = sorted({key for fields in recipes for key in fields})
    differing = [key for key in keys if len({fields.get(key) for fields in recipes}) > 1]
    names = list(figures)
    found = []
    for net, fields in zip(nets, recipes, strict=True):
        header, rows = filled(_HEADER, [_row(run) for run in net.runs[:MOST_RUNS]])
        settings = [(key, fields.get(key, "default")) for key in differing]
        of_net = [name for name in names if name.startswith("depth-") or name == curves_of(net.family)]
        more = max(0, len(net.runs) - MOST_RUNS)
        found.append(Detail(net.label, anchor(net.label), settings, _facts(net.runs), of_net, header, rows, more))
    return found


def anchor(net: str) -> str:
    """The id of a net on the page."""
    return f"net-{slug(net)}"


def curves_of(family: str) -> str:
    """The name of the figure with the training curves of a family."""
    return f"curves-{family.replace(' ', '-')}"


def slug(text: str) -> str:
    """A text as part of an id: ``Layer responses`` becomes ``layer-responses``."""
    return re.sub(r"[^\w.=-]+", "-", text).strip("-").lower()


_HEADER = ["seed", *(name for name in METRICS.values()), "training time", "attempts", "last step", "folder"]


def _row(run: RunRecord) -> list[str]:
    return [
        str(run.config.seed),
        *(f"{run.errors[metric]:.2f}" if metric in run.errors else NOTHING for metric in METRICS),
        duration(run.seconds),
        str(len(run.manifest.attempts)),
        f"{run.status.step:,}",
        "/".join(run.run.folder.parts[-2:]),
    ]


def _facts(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    attempts = [attempt for run in runs for attempt in run.manifest.attempts]
    columns = {"commit": "commit", "torch": "torch", "device": "device", "precision": "precision"}
    values = {name: sorted({str(getattr(a, field)) for a in attempts}) for name, field in columns.items()}
    values["data"] = sorted({f"{run.manifest.data.name}, fingerprint {run.manifest.data.fingerprint}" for run in runs})
    return [(name, ", ".join(different)) for name, different in values.items()]
