"""Deeper nets that began as shallower ones with identity mappings in between, compared with others of the same
budget."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator

from resexp.errors import UserError
from resexp.report.estimates import Estimate, difference
from resexp.report.figure import INK, KINDS, OTHERS, Plot, styled
from resexp.report.formatting import NOTHING, listed
from resexp.report.plots import curve
from resexp.report.probes.material import Material, Part, Record, Section
from resexp.report.stats import RunRecord
from resexp.utils.untrusted import MAX_RECORD, parse_json, read_file

PARTS = ("trained_on", "continued", "fresh")
"""What is trained for each donor, in the order of the table."""


class _Member(Part):
    run: str
    label: str


class _Donor(Part):
    source: str = Field(alias="from", pattern=r"^[^$\p{C}]+$")  # a dollar would begin a formula in the figure
    handed_error: float
    constructed_error: float
    changed_predictions: int
    largest_logit_difference: float
    continued: _Member
    trained_on: _Member | None = None
    fresh: _Member


class Identity(Record):
    """The record of the construction argument (section 1); errors are fractions."""

    kind: str
    depth: int
    shallow: str = Field(default="", pattern=r"^[^$\p{C}]*$")
    """The donors' net."""
    steps: int | None = Field(default=None, ge=1)
    """Those of a donor; None in the first records, whose fresh nets had the steps of the continuation alone."""
    donors: list[_Donor] = Field(min_length=1, max_length=1000)

    @model_validator(mode="before")
    @classmethod
    def _one_donor(cls, found: object) -> object:
        """Old records have one donor, with its keys at the top level."""
        if isinstance(found, dict) and "donors" not in found:
            return found | {"donors": [found], "shallow": found.get("from", "")}
        return found


Parts = dict[str, list[RunRecord]]
"""The runs of each of PARTS, one a donor."""


def identity(material: Material) -> Section | None:
    """Training errors of nets that began as a shallower one, of that one trained on, and of fresh ones."""
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
    parts: Parts = {}
    for donor in record.donors:
        for part in PARTS:
            member: _Member | None = getattr(donor, part)
            if member is None:
                continue
            folder = (material.folder / member.run).resolve()
            if folder in by_folder:
                parts.setdefault(part, []).append(by_folder[folder])
            else:
                material.remarks.append(
                    f"{path}: {member.label} ({member.run}) is no run of this study that was begun."
                )
    return Section(
        "Deeper nets that begin as a shallower one",
        _sentence(record, parts),
        "The paper's argument by construction (section 1): added layers that are identity mappings hand down the "
        "training error of a shallower net. Training errors in eval mode, without augmentation, mean ± standard "
        "deviation over donors. Marks: the same. Lines: running.",
        {"probe-identity": _plot(record, parts)} if parts else {},
        _table(record, parts),
    )


def _clean(runs: list[RunRecord]) -> Estimate | None:
    """The last training errors in eval mode, in percent; None where one is missing."""
    errors = [float(clean.values[-1]) for run in runs if len((clean := run.metrics["clean_train_error"]).values)]
    return Estimate(tuple(errors)) if errors and len(errors) == len(runs) else None


def _handed(record: Identity) -> Estimate:
    return Estimate(tuple(100 * donor.handed_error for donor in record.donors))


def _constructed(record: Identity) -> Estimate:
    return Estimate(tuple(100 * donor.constructed_error for donor in record.donors))


def _before(record: Identity, part: str) -> int:
    """The steps behind a run of a part when it begins, as far as they are known."""
    return 0 if part == "fresh" else record.steps or 0


def _in_all(record: Identity, part: str, parts: Parts) -> int | None:
    """The steps behind a net of a part; None where they are not known, or not there."""
    if part not in parts or (part != "fresh" and record.steps is None):
        return None
    return _before(record, part) + parts[part][0].config.train.steps


def _sentence(record: Identity, parts: Parts) -> str:
    names = listed([donor.source for donor in record.donors], 5)
    changed = max(donor.changed_predictions for donor in record.donors)
    apart = max(donor.largest_logit_difference for donor in record.donors)
    said = [
        f"{names} {'hands' if len(record.donors) == 1 else 'hand'} a training error of {_handed(record).mean:.1f} % to "
        f"{record.kind} nets of {record.depth} layers, which begin at {_constructed(record).mean:.1f} % ({changed:,} "
        f"prediction{'s' * (changed != 1)} changed, logits at most {apart:.1g} apart)."
    ]
    errors = {part: error for part in PARTS if (error := _clean(parts.get(part, [])))}
    begin = {
        "trained_on": "the shallower net, trained on, is at",
        "continued": f"the net of {record.depth} layers that began as the shallower one is at",
        "fresh": f"one of {record.depth} layers that began at random is at",
    }
    ends = ", ".join(f"{begin[part]} {error.mean:.1f} %" for part, error in errors.items())
    budgets = {part: _in_all(record, part, parts) for part in errors}
    equal = None not in budgets.values() and len(set(budgets.values())) == 1
    if equal:
        said.append(f"After {next(iter(budgets.values())):,} steps in all, {ends}.")
    elif ends:
        said.append(f"{ends[0].upper()}{ends[1:]}.")
    if {"continued", "fresh"} <= errors.keys():
        if equal:
            change = difference(errors["fresh"], errors["continued"])
            said.append(f"Beginning at random costs {change} against the net that began as the shallower one.")
        else:
            more = parts["continued"][0].config.train.steps
            other = f"those of its donor and {more:,} more" if record.steps is None else f"{budgets['continued']:,}"
            said.append(
                f"These budgets are not equal: the fresh net had {budgets['fresh']:,} steps, the other {other}."
            )
    return " ".join(said)


def _table(record: Identity, parts: Parts) -> tuple[list[str], list[list[str]]]:
    deep = f"{record.kind}-{record.depth}"
    shallow = record.shallow
    known = f"{record.steps:,}" if record.steps else NOTHING
    rows = [
        [shallow, known, str(_handed(record))],
        [f"{deep}: {shallow} with identity blocks", known, str(_constructed(record))],
    ]
    names = {
        "trained_on": f"{shallow}, trained on",
        "continued": f"{deep}: {shallow} with identity blocks, trained on",
        "fresh": f"{deep}, fresh",
    }
    for part, name in names.items():
        if error := _clean(parts.get(part, [])):
            steps = _in_all(record, part, parts)
            more = f"{parts[part][0].config.train.steps:,} more"
            rows.append([name, more if steps is None else f"{steps:,}", str(error)])
    donors = len(record.donors)
    return ["net", "steps in all", f"clean training error ({donors} donor{'s' * (donors != 1)})"], rows


@styled
def _plot(record: Identity, parts: Parts) -> Plot:
    plot = Plot("Handed down, trained on, and trained afresh", "step", "training error (%)", (7.0, 4.2))
    handed = f"handed down by {record.shallow}"
    plot.axes.axhline(_handed(record).mean, color=INK, linewidth=0.7, label=handed, gid=plot.mark(handed))
    looks = {
        "continued": (OTHERS[0], "s"),
        "trained_on": (OTHERS[1], "^"),
        "fresh": (KINDS.get(record.kind, OTHERS)[0], "o"),
    }
    names = {
        "continued": f"{record.kind}-{record.depth} with identity blocks",
        "trained_on": f"{record.shallow}, trained on",
        "fresh": f"{record.kind}-{record.depth}, fresh",
    }
    for part, runs in parts.items():
        colour, marker = looks[part]
        running, clean = (curve(runs, f"{error}_error") for error in ("train", "clean_train"))
        before = _before(record, part)
        line = plot.mark(names[part], f"{names[part]}, running")
        plot.axes.plot(running.steps + before, running.values, color=colour, linewidth=1, gid=line)
        marks: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "none"}
        tip = plot.mark(names[part], f"{names[part]}, clean: {listed([run.run.name for run in runs], 5)}")
        plot.axes.plot(clean.steps + before, clean.values, gid=tip, clip_on=False, **marks)
        plot.axes.plot([], [], color=colour, marker=marker, linewidth=1, label=names[part])
    plot.axes.set_ylim(bottom=0)
    plot.axes.set_xlim(left=0)
    plot.legend(2, "small")
    return plot
