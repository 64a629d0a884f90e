"""All that a report shows, read from the run folders of a study."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from resexp.errors import UserError
from resexp.report.controls import IN_SENTENCE, IN_SHORT, Change, Control, controls, varied
from resexp.report.estimates import signed
from resexp.report.families import Family, families, in_families
from resexp.report.stats import Net, RunRecord, grouped, in_fractions, nets_of, read
from resexp.report.verdict import Verdict, judge
from resexp.runs.store import Run, StudyFolder
from resexp.utils.parallel import parallel_map
from resexp.utils.text import counted, listed

MAX_CURVE_SEEDS = 10
"""Runs of a net in its training curve; more would change it by less than its line is wide."""
MAX_FAMILIES = 10
"""Families of nets in the figures: each has one of its own, and a line in those over depth."""


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
    """The verdict's differences in each condition, where the study has several."""
    varied: str
    """What the study varies besides kind, depth and seed, such as ``precision or width``."""
    all_families: list[Family]
    """The nets, in families that differ in depth alone."""
    finding: str = ""
    """What a probe of the whole study found, which then takes the verdict's place."""

    @cached_property
    def families(self) -> list[str]:
        """Their names, those of the verdict first."""
        return list(dict.fromkeys([*self.verdict.families, *(record.family for record in self.records)]))

    @property
    def headlines(self) -> list[str]:
        """The verdict in a sentence."""
        return [self.verdict.headline]

    @property
    def unreadable(self) -> list[str]:
        """Why runs can't be read."""
        return [absence.message for absence in self.absent if absence.state == "unreadable"]

    @property
    def in_other_conditions(self) -> str:
        """The numbers that lead the verdict, as they are in the other conditions of the study; empty without any."""
        lead = next((name for name in IN_SHORT if getattr(self.verdict, name)), "interaction")
        others = [
            control
            for control in self.controls
            if lead in control.changes
            and not {family.name for family in control.families} <= set(self.verdict.families)
        ]
        if len(others) == 1:
            numbers = [
                f"{IN_SHORT[name]} {self._elsewhere(name, change)}" for name, change in others[0].changes.items()
            ]
            return f"With {others[0].condition}: {', '.join(numbers)}."
        shown = [f"{self._elsewhere(lead, control.changes[lead])} with {control.condition}" for control in others]
        return f"The {IN_SHORT[lead]} in other conditions: {listed(shown, IN_SENTENCE)}." if shown else ""

    def _elsewhere(self, name: str, change: Change) -> str:
        """A change in another condition, with its depths where they are not the verdict's."""
        rises = {"plain": self.verdict.plain, "residual": self.verdict.residual}
        if rise := rises.get(name):
            ours: tuple[int, ...] | None = (rise.shallowest, rise.deepest)
        else:
            ends = self.verdict.interaction_depths
            ours = ends[1:] if ends and name == "gap" else ends
        return f"{change.difference}{'' if change.depths == ours else f' (at {change.at})'}"

    @property
    def of_imagenet(self) -> bool:
        """Whether nets were trained on ImageNet, where validation and test images are the same."""
        return any(record.config.data.source in ("imagenet", "imagefolder") for record in self.records)

    @property
    def seen(self) -> str:
        """What the main figure shows, as its title; empty if no rise is known."""
        known = [
            (f"{signed(rise.overall.value)} points in {kind} nets", f"from {rise.shallowest} to {rise.deepest}")
            for kind, rise in (("plain", self.verdict.plain), ("residual", self.verdict.residual))
            if rise
        ]
        ends = {where for _, where in known}
        where = f" with {self.verdict.condition}" if self.verdict.condition else ""
        if len(ends) == 1:
            return f"Training error {ends.pop()} layers{where}: {', '.join(change for change, _ in known)}"
        return f"Training error{where}: {', '.join(map(' '.join, known))} layers" if known else ""

    @property
    def drawn(self) -> list[str]:
        """The families that there is room for in the figures: plain nets and residual nets of the same conditions."""
        conditions = list(dict.fromkeys(family.partition(" ")[2] for family in self.families))
        return sorted(self.families, key=lambda family: conditions.index(family.partition(" ")[2]))[:MAX_FAMILIES]

    def to_json(self) -> dict[str, Any]:
        """The numbers, for scripts; errors and their differences are fractions."""
        return {
            "study": self.name,
            "verdict": in_fractions(self.verdict),
            "controls": [
                {
                    "condition": control.condition,
                    **{name: in_fractions(c.difference) | {"at": c.at} for name, c in control.changes.items()},
                }
                for control in self.controls
            ],
            "nets": [net.to_json() for net in self.nets],
            "runs": [record.to_json() for record in self.records],
            "absent": [asdict(absence) for absence in self.absent],
        }


def summarise(study: StudyFolder) -> Summary:
    """Read a study. Raises UserError while no run has finished."""
    records, absent, lost = list[RunRecord](), list[Absence](), Counter[str]()
    runs = study.runs()
    with_curves = {run for of_net in grouped(runs, lambda run: run.label).values() for run in _with_curves(of_net)}
    asked = [(run, run in with_curves) for run in runs]
    for run, record in zip(runs, parallel_map(_read, asked, 1000), strict=True):
        if isinstance(record, UserError):
            absent.append(Absence(run.title, "unreadable", "", str(record)))
            continue
        records += [record] if record else []
        if not record or not record.finished:
            status = run.status()
            step = f"{status.step:,}/{status.steps:,}" if status.steps else ""
            absent.append(Absence(run.title, status.state, step, status.message))
            lost[run.label] += status.state == "diverged"
    records = in_families(records)
    nets = nets_of(record for record in records if record.finished)
    if not nets:
        states = ", ".join(f"{n} {state}" for state, n in Counter(absence.state for absence in absent).items())
        raise UserError(f"{study.folder}: no finished run to report yet ({states or 'no runs'}); see `resexp status`")
    order = list(dict.fromkeys(record.family for record in records))
    nets.sort(key=lambda net: (net.kind, order.index(net.family), net.depth))
    plan = study.plan()
    strays = [str(run.folder.relative_to(study.folder)) for run in study.strays()]
    of_message = grouped((r for r in records if r.finished and r.status.message), lambda r: r.status.message)
    remarks = [f"{listed([r.run.title for r in of], 6)}: {message}." for message, of in of_message.items()]
    every = families(nets)
    missing = [f"{absence.run} ({absence.state})" for absence in absent if absence.state != "diverged"]
    of_nets = Counter(run.label for run in runs)
    diverged = [f"{count} of {counted(of_nets[label], 'run')} of {label}" for label, count in lost.items() if count]
    verdict = judge(every, missing, remarks, plan.margin, diverged)
    return Summary(
        plan.name, plan.description, records, absent, strays, nets, verdict, controls(every), varied(every), every
    )


def _with_curves(of_net: list[Run]) -> list[Run]:
    """The runs of a net whose curves are shown: the first MAX_CURVE_SEEDS of them, finished ones if there are more."""
    many = len(of_net) > MAX_CURVE_SEEDS
    return ([run for run in of_net if many and run.status().state == "finished"] or of_net)[:MAX_CURVE_SEEDS]


def _read(asked: tuple[Run, bool]) -> RunRecord | UserError | None:
    try:
        return read(*asked)
    except UserError as error:
        return error
    except OSError as error:  # such as a colleague's run that only he may read
        return UserError(f"{error.filename}: {error.strerror}")
