"""A deep net that began as a shallower one with identity mappings in between, beside one that began at random."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from resexp.errors import UserError
from resexp.outside import MAX_RECORD, parse_json, read_file
from resexp.report.plots import INK, PALETTE, Plot, curve, styled
from resexp.report.probes.material import Material, Part, Record, Section
from resexp.report.stats import RunRecord


class _Member(Part):
    run: str
    label: str


class Identity(Record):
    """The record of the construction argument (section 1); errors are fractions."""

    source: str = Field(alias="from", pattern=r"^[^$\p{C}]+$")  # a dollar would begin a formula in the figure
    depth: int
    kind: str
    handed_error: float
    constructed_error: float
    changed_predictions: int
    largest_logit_difference: float
    continued: _Member
    fresh: _Member


def identity(material: Material) -> Section | None:
    """Training error of the continued and the fresh net over the steps, with the error that was handed down."""
    path = material.folder / "probes" / "identity.json"
    try:
        found = parse_json(read_file(path, MAX_RECORD))
    except FileNotFoundError:
        return None
    except (UserError, ValueError):
        found = None
    record = material.checked(path, found, Identity)
    if record is None:
        return None
    by_folder = {run.run.folder.resolve(): run for run in material.records}
    runs = {}
    for name, member in (("continued", record.continued), ("fresh", record.fresh)):
        folder = (material.folder / member.run).resolve()
        if folder in by_folder:
            runs[name] = by_folder[folder]
        else:
            material.remarks.append(f"{path}: {member.label} ({member.run}) is no run of this study that was begun.")
    return Section(
        "A deeper net that begins as a shallower one",
        _sentence(record, runs),
        "The paper's argument by construction (section 1): added layers that are identity mappings hand down the "
        "training error of a shallower net. Marks: training error in eval mode, without augmentation. Lines: running.",
        {"probe-identity": _plot(record, runs)} if runs else {},
    )


def _clean(run: RunRecord) -> float | None:
    """The last training error in eval mode, in percent."""
    clean = run.metrics["clean_train_error"].values
    return float(clean[-1]) if len(clean) else None


def _sentence(record: Identity, runs: dict[str, RunRecord]) -> str:
    changed = f"{record.changed_predictions:,} prediction{'s' * (record.changed_predictions != 1)} changed"
    parts = [
        f"{record.source} hands a training error of {100 * record.handed_error:.1f} % to a {record.kind} net of "
        f"{record.depth} layers, which begins at {100 * record.constructed_error:.1f} % ({changed}, "
        f"logits at most {record.largest_logit_difference:.1g} apart)"
    ]
    words = {"continued": "trained on, it is at", "fresh": "a net of that depth that begins at random reaches"}
    parts += [f"{words[name]} {error:.1f} %" for name, run in runs.items() if (error := _clean(run)) is not None]
    return "; ".join(parts) + "."


@styled
def _plot(record: Identity, runs: dict[str, RunRecord]) -> Plot:
    plot = Plot("Handed down, trained on, and trained afresh", "step", "training error (%)", (7.0, 4.2))
    plot.axes.axhline(100 * record.handed_error, color=INK, linestyle=":", label=f"handed down by {record.source}")
    looks = {"continued": (PALETTE[1], "s"), "fresh": (PALETTE[0], "o")}
    for name, run in runs.items():
        colour, marker = looks[name]
        running, clean = (curve([run], f"{part}_error") for part in ("train", "clean_train"))
        plot.axes.plot(running.steps, running.values, color=colour, linewidth=1)
        tip = plot.tip(f"{name}: {run.run.name}")
        marks: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "none"}
        plot.axes.plot(clean.steps, clean.values, gid=tip, clip_on=False, **marks)
        plot.axes.plot([], [], color=colour, marker=marker, linewidth=1, label=f"{name}: {run.run.label}")
    plot.axes.set_ylim(bottom=0)
    plot.axes.set_xlim(left=0)
    plot.figure.legend(loc="outside lower center", ncols=2, fontsize="small")
    return plot
