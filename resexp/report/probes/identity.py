"""Deeper nets that began as shallower ones with identity mappings in between, compared with others of the same
budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field

from resexp.errors import UserError
from resexp.report.estimates import Estimate, difference
from resexp.report.figure import INK, KINDS, NEUTRAL, Plot, styled
from resexp.report.formatting import Table
from resexp.report.plots import curve
from resexp.report.probes.results import PageSection, ProbeRecord, ProbeResults, RecordPart
from resexp.report.stats import RunRecord
from resexp.utils.text import counted, listed
from resexp.utils.untrusted import MAX_RECORD, parse_json, read_file


class _Member(RecordPart):
    run: str
    label: str


class _Donor(RecordPart):
    source: str = Field(alias="from", pattern=r"^[^$\p{C}]+$")  # a dollar would begin a formula in the figure
    handed_error: float
    constructed_error: float
    changed_predictions: int
    largest_logit_difference: float
    continued: _Member
    trained_on: _Member
    fresh: _Member


class Identity(ProbeRecord):
    """The record of the construction argument (section 1); errors are fractions."""

    kind: str
    depth: int
    shallow: str = Field(pattern=r"^[^$\p{C}]*$")
    """The donors' net."""
    steps: int = Field(ge=1)
    """Those of a donor."""
    donors: list[_Donor] = Field(min_length=1, max_length=1000)

    @property
    def handed(self) -> Estimate:
        """The donors' training error, percent."""
        return Estimate(tuple(100 * donor.handed_error for donor in self.donors))

    @property
    def constructed(self) -> Estimate:
        """That of the deeper nets that were made of them, percent."""
        return Estimate(tuple(100 * donor.constructed_error for donor in self.donors))


@dataclass(frozen=True)
class _Group:
    """Runs that were trained in one way, one for each donor."""

    part: str
    """``trained_on``, ``continued`` or ``fresh``, as the record has it."""
    name: str
    """In the figure."""
    row: str
    """In the table."""
    clause: str
    """Begins a clause on its error."""
    colour: str
    marker: str
    before: int
    """Steps behind a run when it begins."""
    runs: list[RunRecord]

    @property
    def steps(self) -> int:
        """Steps behind a net in all."""
        return self.before + self.runs[0].config.train.steps

    @property
    def error(self) -> Estimate | None:
        """The last training errors in eval mode, in percent; None if one is missing."""
        errors = [run.metrics["clean_train_error"].values for run in self.runs]
        return Estimate(tuple(float(clean[-1]) for clean in errors)) if all(map(len, errors)) else None


def identity(results: ProbeResults) -> PageSection | None:
    """Training errors of nets that began as a shallower one, of that one trained on, and of fresh ones."""
    path = results.folder / "probes" / "identity.json"
    try:
        content = parse_json(read_file(path, MAX_RECORD))
    except FileNotFoundError:
        return None
    except (UserError, ValueError):
        content = None
    record = results.checked(path, content, Identity)
    if record is None:
        return None
    groups = _groups(results, path, record)
    errors = {group.part: group.error for group in groups if group.error}
    return PageSection(
        "Deeper nets that begin as a shallower one",
        _sentence(record, groups, errors),
        "The paper's argument by construction (section 1): added layers that are identity mappings keep the training "
        "error of a shallower net. Errors are clean training errors (eval mode, no augmentation), mean ± standard "
        "deviation over donors. In the figure, marks are clean training errors and lines are running ones.",
        {"probe-identity": _plot(record, groups)} if groups else {},
        _table(record, groups),
        _finding(record, errors) if groups else "",
    )


def _finding(record: Identity, errors: Mapping[str, Estimate]) -> str:
    """What the page leads with: where the nets start and end, clean training errors."""
    deep, shallow, donors = f"{record.kind}-{record.depth}", record.shallow, len(record.donors)
    words = {
        "continued": " and ends at",
        "trained_on": f"; {shallow} trained further ends at",
        "fresh": f", a new {deep} at",
    }
    ends = "".join(f"{text} {errors[part].mean:.1f} %" for part, text in words.items() if part in errors)
    of_donors = f" (clean training error, {counted(donors, 'donor')})"
    return f"{deep} built from {shallow} starts at {record.constructed.mean:.1f} %{ends}{of_donors}."


def _groups(results: ProbeResults, path: Path, record: Identity) -> list[_Group]:
    """The groups, with those of their runs that are there."""
    by_folder = {run.run.folder.resolve(): run for run in results.summary.records}
    members: dict[str, list[RunRecord]] = {"trained_on": [], "continued": [], "fresh": []}
    for donor in record.donors:
        for part, runs in members.items():
            member: _Member = getattr(donor, part)
            if run := by_folder.get((results.folder / member.run).resolve()):
                runs.append(run)
            else:
                results.remarks.append(f"{path}: {member.label} ({member.run}) is no run of this study that was begun.")
    deep, shallow, layers = f"{record.kind}-{record.depth}", record.shallow, f"{record.depth} layers"
    further, built, new = f"{shallow}, trained further", f"{deep} with identity blocks", f"{deep}, new"
    row = f"{deep}: {shallow} with identity blocks, trained further"
    colour = KINDS.get(record.kind, NEUTRAL)[0]
    groups = [
        ("trained_on", further, further, "the shallower net, trained further, is at", NEUTRAL[1], "^", record.steps),
        ("continued", built, row, f"the net of {layers} built from it is at", NEUTRAL[0], "s", record.steps),
        ("fresh", new, new, f"a new net of {layers} is at", colour, "o", 0),
    ]
    return [_Group(*group, members[group[0]]) for group in groups if members[group[0]]]


def _sentence(record: Identity, groups: Sequence[_Group], errors: Mapping[str, Estimate]) -> str:
    names = listed([donor.source for donor in record.donors], 5)
    changed = max(donor.changed_predictions for donor in record.donors)
    apart = max(donor.largest_logit_difference for donor in record.donors)
    predictions = f"{counted(changed, 'prediction')} changed" if changed else "the same predictions"
    alone = len(record.donors) == 1
    sentences = [
        f"{names} {'has' if alone else 'have'} a {'' if alone else 'mean '}clean training error of "
        f"{record.handed.mean:.1f} %. The {record.kind} nets of {record.depth} layers built from "
        f"{'it' if alone else 'them'} start at {record.constructed.mean:.1f} % ({predictions}; logits differ by at "
        f"most {apart:.1g})."
    ]
    measured = [group for group in groups if group.part in errors]
    if measured:
        ends = ", ".join(f"{group.clause} {errors[group.part].mean:.1f} %" for group in measured)
        sentences.append(f"After {measured[0].steps:,} steps in all, {ends}.")
    if {"continued", "fresh"} <= errors.keys():
        sentences.append(f"New minus built: {difference(errors['fresh'], errors['continued'])}.")
        if shallower := errors.get("trained_on"):
            sentences.append(f"Built minus shallower: {difference(errors['continued'], shallower)}.")
        sentences.append(
            "The steps are equal, the schedules are not: the built net and the shallower one start again at the "
            "full learning rate after the donor's steps, and the new net has one schedule."
        )
    return " ".join(sentences)


def _table(record: Identity, groups: Sequence[_Group]) -> Table:
    steps = f"{record.steps:,}"
    rows = [
        [record.shallow, steps, str(record.handed)],
        [f"{record.kind}-{record.depth}: {record.shallow} with identity blocks", steps, str(record.constructed)],
    ]
    rows += [[group.row, f"{group.steps:,}", str(group.error)] for group in groups if group.error]
    donors = len(record.donors)
    return ["net", "steps in all", f"clean training error ({counted(donors, 'donor')})"], rows


@styled
def _plot(record: Identity, groups: Sequence[_Group]) -> Plot:
    plot = Plot("Built from a shallower net, and new", "step", "training error (%)", (7.0, 4.2))
    handed = f"{record.shallow}, as it was"
    plot.axes.axhline(record.handed.mean, color=INK, linewidth=0.7, label=handed, gid=plot.mark(handed))
    for group in groups:
        colour, marker, before = group.colour, group.marker, group.before
        running, clean = (curve(group.runs, f"{error}_error") for error in ("train", "clean_train"))
        tip = f"{group.name}, running"
        plot.line(running.steps + before, running.values, group.name, tip, color=colour, linewidth=1)
        marks: dict[str, Any] = {"color": colour, "marker": marker, "linestyle": "none", "clip_on": False}
        tip = f"{group.name}, clean: {listed([run.run.title for run in group.runs], 5)}"
        plot.line(clean.steps + before, clean.values, group.name, tip, **marks)
        plot.axes.plot([], [], color=colour, marker=marker, linewidth=1, label=group.name)
    plot.axes.set_ylim(bottom=0)
    plot.axes.set_xlim(left=0)
    plot.legend(2, "small")
    return plot
