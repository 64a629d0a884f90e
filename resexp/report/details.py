"""What the page opens for a net: its settings, its runs with their curves, and how they were trained."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from resexp.config import RunConfig
from resexp.errors import UserError, sanitize
from resexp.report.families import differences
from resexp.report.formatting import NOTHING, Table, duration, filled, in_cell
from resexp.report.stats import METRICS, Net, RunRecord
from resexp.utils.untrusted import MAX_RECORD, read_file

MOST_RUNS = 10
"""Runs of a net on the page; runs.csv has them all."""
LOG_BYTES, LOG_LINES = 2000, 12
"""What the page has of the end of a run's log."""
POINTS = 30
"""Points of a run's small curve, at most."""
WIDE, HIGH = 300, 70
"""Size of the small curves."""


def runs_of(net: Net) -> Table:
    """The first MOST_RUNS runs of a net, errors in percent."""
    header = ["seed", *METRICS.values(), "training time", "attempts", "warm-up until step", "last step", "folder"]
    rows = [
        [
            str(run.config.seed),
            *(in_cell(run.errors.get(metric)) for metric in METRICS),
            duration(run.seconds),
            str(len(run.manifest.attempts)),
            NOTHING if run.warmup_end is None else "never" if run.warmup_end == math.inf else f"{run.warmup_end:,}",
            f"{run.status.step:,}",
            "/".join(run.run.folder.parts[-2:]),
        ]
        for run in net.runs[:MOST_RUNS]
    ]
    return filled(header, rows)


def settings(nets: Sequence[Net]) -> dict[str, list[tuple[str, str]]]:
    """The keys that nets of the study differ in, with the values of each net, by its label."""
    keys = differences(net.settings for net in nets)
    return {net.label: [(key, net.settings.get(key, _default(key, net.config))) for key in keys] for net in nets}


def _default(key: str, config: RunConfig) -> str:
    """The value of a key that a net's settings leave out."""
    section, _, name = key.partition(".")
    value = getattr(getattr(config, section, None), name, None)
    return "none" if value is None else f"{value}"


def training_of(net: Net) -> list[tuple[str, str]]:
    """How the runs of a net were trained: each fact with its values."""
    facts = {name: {str(getattr(a, name)) for a in net.attempts} for name in ("commit", "torch", "device", "precision")}
    facts["data"] = {f"{run.manifest.data.name}, fingerprint {run.manifest.data.fingerprint}" for run in net.runs}
    facts["probes"] = net.probes
    return [(name, ", ".join(sorted(values))) for name, values in facts.items() if values]


def log_end(run: RunRecord) -> str:
    """The last lines of log.txt; empty if there are none, or none that can be read."""
    try:
        end = read_file(run.run.log_path, MAX_RECORD, LOG_BYTES).decode(errors="replace")
    except (OSError, UserError):
        return ""
    return "\n".join(sanitize(line) for line in end.rstrip().splitlines()[-LOG_LINES:])


def course_of(net: Net) -> tuple[float, int, Markup]:
    """The running training errors of the first MOST_RUNS runs over their steps, a path each in a box of WIDE x HIGH.

    Before it, the error at its top, in percent, and the step at its right. The paths are empty if no curve was read.
    """
    curves = [run.metrics["train_error"] for run in net.runs[:MOST_RUNS] if run.has_curves]
    curves = [curve for curve in curves if len(curve.steps) > 1]
    top = max((float(curve.values.max()) for curve in curves), default=0.0) or 1.0
    last = max((int(curve.steps[-1]) for curve in curves), default=0)
    paths = []
    for curve in curves:
        every = -(-len(curve.steps) // POINTS)
        places = zip(curve.steps[::-every], curve.values[::-every], strict=True)
        points = " ".join(f"{WIDE * step / last:.0f} {HIGH * (1 - value / top):.0f}" for step, value in places)
        paths.append(f"<path d='M{points}'/>")
    return top, last, Markup("".join(paths))
