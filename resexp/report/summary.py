"""All that a report shows, read from the run folders of a study."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import Any

from resexp.errors import UserError
from resexp.report.stats import Net, RunRecord, read
from resexp.report.verdict import Verdict, judge
from resexp.store import StudyFolder


@dataclass(frozen=True)
class Summary:
    """All that the page, the figures and the tables show."""

    name: str
    description: str
    records: list[RunRecord]
    strays: list[str]
    """Runs in the folder that the study does not name (any more)."""
    nets: list[Net]
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """The numbers, for scripts; errors in percent."""
        return {
            "study": self.name,
            "verdict": asdict(self.verdict),
            "nets": [net.to_json() for net in self.nets],
            "runs": [record.to_json() for record in self.records],
        }


def summarise(study: StudyFolder) -> Summary:
    """Read a study. Raises UserError while no run has finished."""
    records = [read(run) for run in study.runs()]
    if not any(record.finished for record in records):
        states = ", ".join(f"{n} {state}" for state, n in Counter(r.status.state for r in records).items())
        raise UserError(f"{study.folder}: no finished run to report yet ({states or 'no runs'}); see `resexp status`")
    by_label: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.finished:
            by_label[record.run.label].append(record)
    nets = sorted((Net(tuple(runs)) for runs in by_label.values()), key=lambda net: (net.family, net.depth))
    plan = study.plan()
    strays = [str(run.folder.relative_to(study.folder)) for run in study.strays()]
    return Summary(plan["name"], plan["description"], records, strays, nets, judge(nets))
