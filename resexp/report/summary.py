"""All that a report shows, read from the run folders of a study."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from resexp.errors import UserError
from resexp.report.controls import Control, controls
from resexp.report.stats import Net, RunRecord, read
from resexp.report.verdict import Verdict, judge
from resexp.store import StudyFolder


@dataclass(frozen=True)
class Absence:
    """A run that is not in the numbers, and why."""

    run: str
    state: str
    step: str
    """Such as ``200/400``."""
    message: str


@dataclass(frozen=True)
class Summary:
    """All that the page, the figures and the tables show."""

    name: str
    description: str
    records: list[RunRecord]
    """The runs that were begun, finished or not."""
    absent: list[Absence]
    """The runs that did not finish, were not begun, or can't be read."""
    strays: list[str]
    """Runs in the folder that the study does not name (any more)."""
    nets: list[Net]
    verdict: Verdict
    controls: list[Control]
    """The verdict's differences in each variant, where the study has several."""

    def to_json(self) -> dict[str, Any]:
        """The numbers, for scripts; errors in percent."""
        return {
            "study": self.name,
            "verdict": asdict(self.verdict),
            "controls": [asdict(control) for control in self.controls],
            "nets": [net.to_json() for net in self.nets],
            "runs": [record.to_json() for record in self.records],
            "absent": [asdict(absence) for absence in self.absent],
        }


def summarise(study: StudyFolder) -> Summary:
    """Read a study. Raises UserError while no run has finished."""
    records, absent = [], []
    for run in study.runs():
        try:
            record = read(run)
        except UserError as error:
            absent.append(Absence(run.name, "unreadable", "", str(error)))
            continue
        if record is not None:
            records.append(record)
        if record is None or not record.finished:
            status = run.status()
            step = f"{status.step:,}/{status.steps:,}" if status.steps else ""
            absent.append(Absence(run.name, status.state, step, status.message))
    by_label: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.finished:
            by_label[record.run.label].append(record)
    if not by_label:
        states = ", ".join(f"{n} {state}" for state, n in Counter(absence.state for absence in absent).items())
        raise UserError(f"{study.folder}: no finished run to report yet ({states or 'no runs'}); see `resexp status`")
    variants = list(dict.fromkeys(record.variant for record in records))  # as the study names them
    nets = sorted(
        (Net(tuple(runs)) for runs in by_label.values()),
        key=lambda net: (net.kind, variants.index(net.variant), net.depth),
    )
    plan = study.plan()
    strays = [str(run.folder.relative_to(study.folder)) for run in study.strays()]
    remarks = [f"{r.run.name}: {r.status.message}." for r in records if r.finished and r.status.message]
    verdict = judge(nets, [f"{absence.run} ({absence.state})" for absence in absent], remarks)
    return Summary(plan.name, plan.description, records, absent, strays, nets, verdict, controls(nets))
