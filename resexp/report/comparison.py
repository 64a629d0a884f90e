"""Two studies, nets or runs compared: how their configurations differ, and their running training errors."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resexp.config.section import flat
from resexp.config.study import load_run
from resexp.errors import UserError
from resexp.report.controls import IN_SHORT, Change, changes
from resexp.report.estimates import Difference, Estimate, Term, contrast, minus, p_value, shown_p, why_no_interval
from resexp.report.families import Family, families, in_families
from resexp.report.formatting import Table
from resexp.report.stats import Net, RunRecord, fraction, grouped, nets_of, read
from resexp.report.verdict import judged_families
from resexp.runs.store import Run
from resexp.utils.text import counted


@dataclass(frozen=True)
class Row:
    """A net, or a difference that verdicts rest on, and how it changes from a to b."""

    name: str
    sides: list[str]
    """a and b, as tables show them."""
    facts: dict[str, Any]
    """The same for scripts: errors and differences are fractions."""
    terms: tuple[Term, ...] = ()
    """b minus a as a sum of means; empty while a side has no finished run."""
    same_runs: bool = False
    """Whether the sides have the same runs."""

    @property
    def change(self) -> Difference:
        """b minus a, in points, with Welch's interval; NaN while it is not known."""
        return contrast(self.terms) if self.terms else Difference(math.nan)

    @property
    def p(self) -> float | None:
        """Two-sided p of Welch's t test that nothing changes; None for means of one seed, or without any spread."""
        return p_value(self.terms)

    @property
    def cells(self) -> list[str]:
        """Name, a, b, change and p, for tables."""
        change, p = self.change, self.p
        points = f"{change.value:+.2f}" if self.terms else ""
        if change.low is not None:
            points += f" [{change.low:+.2f}, {change.high:+.2f}]"
        points = "same runs" if self.same_runs else points
        return [self.name, *self.sides, points, "" if p is None else shown_p(p).removeprefix("= ")]

    def to_json(self) -> dict[str, Any]:
        """The row for scripts."""
        ends = {"low": fraction(self.change.low), "high": fraction(self.change.high)}
        return {**self.facts, "difference": fraction(self.change.value), **ends, "p": self.p}


@dataclass(frozen=True)
class Comparison:
    """All that differs."""

    pairs: list[Row]
    """The nets that both have; each side of the facts has a `net`."""
    shifts: list[Row]
    """The differences that both verdicts rest on; the facts have the `quantity`, one of `controls.QUANTITIES`."""
    settings: list[dict[str, Any]]
    """The keys of the configuration that differ: each `key`, its values in `a` and `b`, and the `nets`."""
    only_a: list[str]
    """Nets that b lacks."""
    only_b: list[str]
    shared: int
    """Runs that both have; each counts once in a difference."""

    def headline(self, a: str, b: str) -> str:
        """The first shift in a sentence, from the study called `a` to that called `b`."""
        if not self.shifts:
            return f"{a} and {b} have no verdict to compare."
        first = self.shifts[0]
        if first.same_runs:
            return f"{a} and {b} take their verdicts from the same runs; what else they hold is in their own reports."
        words, change, at = IN_SHORT[first.facts["quantity"]], first.change, first.facts["at"]
        p = "" if first.p is None else f", p {shown_p(first.p)}"
        where = f"{p} ({at})" if ";" in at else p
        if change.low is None:
            reason = why_no_interval(first.terms)
            return f"{reason}, descriptive only: from {a} to {b}, the {words} changes by {change}{where}."
        if change.sign:
            return f"From {a} to {b}, the {words} changes by {change}{where}."
        return f"No change of the {words} from {a} to {b} is shown: {change}{where}."

    def shared_line(self, a: str, b: str) -> str:
        """A sentence about the runs that the sides, called `a` and `b`, share."""
        return f"{a} and {b} share {counted(self.shared, 'run')}, which a difference counts once."

    def settings_table(self, a: str, b: str) -> Table:
        """The settings for people; `a` and `b` name the sides."""
        rows = [
            [one["key"], one["a"], one["b"], "all" if len(one["nets"]) == len(self.pairs) else one["nets"]]
            for one in self.settings
        ]
        return ["key", a, b, "nets"], [list(map(_shown, row)) for row in rows]

    def shifts_table(self, a: str, b: str) -> Table:
        """The shifts for people; `a` and `b` name the sides."""
        return ["points", a, b, "change", "p"], [shift.cells for shift in self.shifts]

    def to_json(self) -> dict[str, Any]:
        """The comparison for scripts."""
        return {
            "configuration": self.settings,
            "verdicts": [shift.to_json() for shift in self.shifts],
            "nets": [pair.to_json() for pair in self.pairs],
            "only_a": self.only_a,
            "only_b": self.only_b,
            "shared_runs": self.shared,
        }


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def compare(a: Sequence[Run], b: Sequence[Run]) -> Comparison:
    """Compare runs net by net. Nets are matched by name, and the rest by configuration; two single nets are compared
    as they are.

    Raises UserError if no net is on both sides and no verdict either.
    """
    nets_a, nets_b = grouped(a, lambda run: run.label), grouped(b, lambda run: run.label)
    if len(nets_a) == len(nets_b) == 1:
        matched = dict(zip(nets_a, nets_b, strict=True))
    else:
        left = {runs[0].folder.parent.name: label for label, runs in nets_b.items() if label not in nets_a}
        found = {
            label: label if label in nets_b else left.get(runs[0].folder.parent.name) for label, runs in nets_a.items()
        }
        matched = {label: other for label, other in found.items() if other}
    records = {run.folder: record for run in (*a, *b) if (record := read(run, curves=False)) and record.finished}
    of_a, of_b = ([records[run.folder] for run in runs if run.folder in records] for runs in (a, b))
    shifts = _shifts(of_a, of_b)
    if not matched and not shifts:
        raise UserError(
            f"no net in common: {', '.join(nets_a) or 'none'} against {', '.join(nets_b) or 'none'}; name one net of "
            f"each, as STUDY:NET"
        )
    return Comparison(
        [_pair(_error(of_a, one), _error(of_b, other), one, other) for one, other in matched.items()],
        shifts,
        _settings({one: (nets_a[one], nets_b[other]) for one, other in matched.items()}, records),
        [label for label in nets_a if label not in matched],
        [label for label in nets_b if label not in matched.values()],
        len({record.identity for record in of_a} & {record.identity for record in of_b}),
    )


def _error(records: Sequence[RunRecord], label: str) -> Estimate:
    """The running training error over the finished runs of a net; it has no values where no run has finished."""
    runs = tuple(record for record in records if record.run.label == label)
    return Net(runs).errors["running"]


def _pair(a: Estimate, b: Estimate, *labels: str) -> Row:
    cells, facts = [], {}
    for side, label, error in zip("ab", labels, (a, b), strict=True):
        seeds = len(error.values)
        cells.append(f"{error} ({seeds})" if seeds else "none finished")
        mean = fraction(error.mean if seeds else None)
        facts[side] = {"net": label, "finished": seeds, "running_train_error": mean}
    terms = ((1, b), (-1, a)) if a.values and b.values else ()
    same_runs = bool(terms) and set(a.runs) == set(b.runs)
    return Row(", ".join(dict.fromkeys(labels)), cells, facts, terms, same_runs)


def _shifts(a: Sequence[RunRecord], b: Sequence[RunRecord]) -> list[Row]:
    """The differences that both verdicts rest on: at depths that both studies have, if there are two or more."""
    sides = [judged_families(families(nets_of(in_families(records))))[:2] for records in (a, b)]
    of_a, of_b = (changes(*kinds) for kinds in zip(*map(_at_common_depths, *sides), strict=True))
    return [_shift(quantity, one, of_b[quantity]) for quantity, one in of_a.items() if quantity in of_b]


def _shift(quantity: str, a: Change, b: Change) -> Row:
    at = "; ".join(dict.fromkeys((a.at, b.at)))
    values = [change.difference.value for change in (a, b)]
    facts = {"quantity": quantity, "at": at, "a": fraction(values[0]), "b": fraction(values[1])}
    cells = [f"{value:+.2f}" for value in values]
    of_a, of_b = ({run for _, mean in side.terms for run in mean.runs} for side in (a, b))
    same_runs = bool(of_a) and of_a == of_b
    return Row(f"{IN_SHORT[quantity]}, {at}", cells, facts, minus(b.terms, a.terms), same_runs)


def _at_common_depths(a: Family | None, b: Family | None) -> tuple[Family | None, Family | None]:
    """Both families without the nets whose depths the other lacks; as they are where less than two would be left."""
    common = a.errors.keys() & b.errors.keys() if a and b else set()
    if not (a and b) or len(common) < 2:
        return a, b
    of_a, of_b = (tuple(net for net in family.nets if net.depth in common) for family in (a, b))
    return replace(a, nets=of_a), replace(b, nets=of_b)


def _settings(
    matched: dict[str, tuple[Sequence[Run], Sequence[Run]]], records: Mapping[Path, RunRecord]
) -> list[dict[str, Any]]:
    """The differing keys, with the nets that differ so. Of finished runs, the images and the precision count, too."""
    differing = []
    for label, sides in matched.items():
        a, b = map(_configuration, sides)
        used = [[records[run.folder] for run in runs if run.folder in records] for runs in sides]
        if all(used):
            for side, of_side in zip((a, b), used, strict=True):
                side |= {key: Net(tuple(of_side)).settings[key] for key in ("images", "train.precision")}
        keys = [key for key in dict.fromkeys((*a, *b)) if a.get(key) != b.get(key)]
        differing += [(label, {"key": key, "a": a.get(key), "b": b.get(key)}) for key in keys]
    alike = grouped(differing, lambda entry: repr(entry[1])).values()
    return [same[0][1] | {"nets": [label for label, _ in same]} for same in alike]


def _configuration(runs: Sequence[Run]) -> dict[str, Any]:
    """Every value of a net's configuration by its dotted key, and its seeds."""
    config = load_run(runs[0].config_path).model_dump(mode="json", exclude={"seed"})
    return {**flat(config), "seeds": [run.seed for run in runs]}
