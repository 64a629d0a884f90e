"""Two studies, nets or runs compared: how their configurations differ, and their running training errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from resexp.config.section import flat
from resexp.config.study import load_run
from resexp.errors import UserError
from resexp.report.controls import IN_SHORT, changes
from resexp.report.estimates import Difference, Estimate, Term, contrast, p_value
from resexp.report.families import Family, families, family_names
from resexp.report.formatting import Table
from resexp.report.stats import Net, RunRecord, fraction, grouped, read
from resexp.report.verdict import judged
from resexp.runs.store import Run
from resexp.utils.text import counted

LEAST_P = 0.001
"""Smallest p that is shown as a number."""


@dataclass(frozen=True)
class ComparedNet:
    """One net of a comparison."""

    label: str
    runs: Sequence[Run]
    """One per seed, finished or not."""
    error: Estimate | None
    """Running training error of the finished runs; None while there are none."""

    def to_json(self) -> dict[str, Any]:
        """The net for scripts; the error is a fraction."""
        seeds, mean = (len(self.error.values), self.error.mean) if self.error else (0, None)
        return {"net": self.label, "finished": seeds, "running_train_error": fraction(mean)}


@dataclass(frozen=True)
class Pair:
    """A net on both sides."""

    a: ComparedNet
    b: ComparedNet

    @property
    def _terms(self) -> tuple[Term, ...]:
        return ((1, self.b.error), (-1, self.a.error)) if self.a.error and self.b.error else ()

    @property
    def difference(self) -> Difference | None:
        """Error of b minus error of a, in points, with Welch's interval; None unless both have finished runs."""
        return contrast(self._terms) if self._terms else None

    @property
    def p(self) -> float | None:
        """Two-sided p of Welch's t test; None for fewer than two seeds a side, or without any spread."""
        return p_value(self._terms)

    @property
    def label(self) -> str:
        """The net's name, or both where they differ."""
        return self.a.label if self.a.label == self.b.label else f"{self.a.label}, {self.b.label}"

    @property
    def cells(self) -> list[str]:
        """Name, error of a, error of b, difference and p, for tables."""
        sides = (self.a, self.b)
        errors = [f"{side.error} ({len(side.error.values)})" if side.error else "none finished" for side in sides]
        same = self.a.error and self.b.error and set(self.a.error.runs) == set(self.b.error.runs)
        return [self.label, *errors, "same runs" if same else _points(self.difference), _p(self.p)]

    def to_json(self) -> dict[str, Any]:
        """The pair for scripts; errors are fractions."""
        found = self.difference or Difference(math.nan)
        return {"a": self.a.to_json(), "b": self.b.to_json(), **_json(found, self.p)}


@dataclass(frozen=True)
class Shift:
    """How a difference that verdicts rest on changes from study a to study b."""

    quantity: str
    """One of `controls.QUANTITIES`."""
    at: str
    """The depths that it is between; those of a and of b where the studies have less than two depths in common."""
    a: Difference
    b: Difference
    change: Difference
    """b minus a, with Welch's interval."""
    p: float | None
    """Two-sided p of Welch's t test that there is no change; None for means of one seed, or without any spread."""

    @property
    def cells(self) -> list[str]:
        """Name and depths, the values of a and b, change and p, for tables."""
        name = f"{IN_SHORT[self.quantity]}, {self.at}"
        return [name, f"{self.a.value:+.2f}", f"{self.b.value:+.2f}", _points(self.change), _p(self.p)]

    def headline(self, a: str, b: str) -> str:
        """The change in a sentence, from the study called `a` to that called `b`."""
        words, where = IN_SHORT[self.quantity], f" ({self.at})" if ";" in self.at else ""
        if self.change.low is None:
            return f"One seed, descriptive only: from {a} to {b}, the {words} changes by {self.change}{where}."
        p = "" if self.p is None else f", p {'' if self.p < LEAST_P else '= '}{_p(self.p)}"
        if self.change.sign:
            return f"From {a} to {b}, the {words} changes by {self.change}{p}{where}."
        return f"No change of the {words} from {a} to {b} is shown: {self.change}{p}{where}."

    def to_json(self) -> dict[str, Any]:
        """The shift for scripts; differences are fractions."""
        sides = {"a": fraction(self.a.value), "b": fraction(self.b.value)}
        return {"quantity": self.quantity, "at": self.at, **sides, **_json(self.change, self.p)}


def _points(found: Difference | None) -> str:
    if found is None:
        return ""
    return f"{found.value:+.2f}" + ("" if found.low is None else f" [{found.low:+.2f}, {found.high:+.2f}]")


def _p(p: float | None) -> str:
    return "" if p is None else f"{p:.3f}" if p >= LEAST_P else f"< {LEAST_P}"


def _json(found: Difference, p: float | None) -> dict[str, float | None]:
    return {"difference": fraction(found.value), "low": fraction(found.low), "high": fraction(found.high), "p": p}


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


@dataclass(frozen=True)
class Comparison:
    """All that differs."""

    pairs: list[Pair]
    shifts: list[Shift]
    """For studies whose families have depths in common."""
    settings: list[dict[str, Any]]
    """The keys of the configuration that differ: each `key`, its values in `a` and `b`, and the `nets`."""
    only_a: list[str]
    """Nets that b lacks."""
    only_b: list[str]
    shared: int
    """Runs that both have; each counts once in a difference."""

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


def compare(a: Sequence[Run], b: Sequence[Run]) -> Comparison:
    """Compare runs net by net. Nets are matched by name, or else by configuration; two single nets are compared as
    they are.

    Raises UserError if no net is on both sides and no verdict either.
    """
    nets_a, nets_b = grouped(a, lambda run: run.label), grouped(b, lambda run: run.label)
    records = {run.folder: record for run in (*a, *b) if (record := read(run, curves=False)) and record.finished}
    if len(nets_a) == len(nets_b) == 1:
        matched = dict(zip(nets_a, nets_b, strict=True))
    else:
        alike = {runs[0].folder.parent.name: label for label, runs in nets_b.items()}
        names = {
            label: label if label in nets_b else alike.get(runs[0].folder.parent.name) for label, runs in nets_a.items()
        }
        matched = {label: other for label, other in names.items() if other}
    of_a, of_b = ([records[run.folder] for run in runs if run.folder in records] for runs in (a, b))
    shifts = _shifts(of_a, of_b)
    if not matched and not shifts:
        raise UserError(
            f"no net in common: {', '.join(nets_a) or 'none'} against {', '.join(nets_b) or 'none'}; name one net of "
            f"each, as STUDY:NET"
        )
    pairs = [
        Pair(_side(one, nets_a[one], records), _side(other, nets_b[other], records)) for one, other in matched.items()
    ]
    return Comparison(
        pairs,
        shifts,
        _settings(pairs),
        [label for label in nets_a if label not in matched],
        [label for label in nets_b if label not in matched.values()],
        len({record.identity for record in of_a} & {record.identity for record in of_b}),
    )


def _side(label: str, runs: Sequence[Run], records: dict[Path, RunRecord]) -> ComparedNet:
    finished = tuple(records[run.folder] for run in runs if run.folder in records)
    return ComparedNet(label, runs, Net(finished).errors["running"] if finished else None)


def _shifts(a: Sequence[RunRecord], b: Sequence[RunRecord]) -> list[Shift]:
    """The differences that both verdicts rest on: at depths that both studies have, if there are two or more."""
    kinds = [_at_common_depths(*sides) for sides in zip(_judged(a), _judged(b), strict=True)]
    of_a, of_b = (changes(*families) for families in zip(*kinds, strict=True))
    found = []
    for quantity, one in of_a.items():
        if other := of_b.get(quantity):
            terms = [*other.terms, *((-weight, mean) for weight, mean in one.terms)]
            at = one.at if one.at == other.at else f"{one.at}; {other.at}"
            found.append(Shift(quantity, at, one.difference, other.difference, contrast(terms), p_value(terms)))
    return found


def _judged(records: Sequence[RunRecord]) -> tuple[Family | None, Family | None]:
    """The plain and the residual family that a study is judged by."""
    names = family_names(records)
    of_families = [replace(record, family=names[record.run.folder.parent]) for record in records]
    nets = grouped(of_families, lambda record: record.run.folder.parent)
    plain, residual, _ = judged(families([Net(tuple(runs)) for runs in nets.values()]))
    return plain, residual


def _at_common_depths(a: Family | None, b: Family | None) -> tuple[Family | None, Family | None]:
    """Both families without the nets whose depths the other lacks; as they are where less than two would be left."""
    common = a.errors.keys() & b.errors.keys() if a and b else set()
    if not (a and b) or len(common) < 2:
        return a, b
    of_a, of_b = (tuple(net for net in family.nets if net.depth in common) for family in (a, b))
    return replace(a, nets=of_a), replace(b, nets=of_b)


def _settings(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    """The differing keys, with the nets that differ so."""
    differing = []
    for pair in pairs:
        a, b = _configuration(pair.a.runs), _configuration(pair.b.runs)
        keys = [key for key in dict.fromkeys((*a, *b)) if a.get(key) != b.get(key)]
        differing += [(pair.a.label, {"key": key, "a": a.get(key), "b": b.get(key)}) for key in keys]
    alike = grouped(differing, lambda entry: repr(entry[1])).values()
    return [same[0][1] | {"nets": [label for label, _ in same]} for same in alike]


def _configuration(runs: Sequence[Run]) -> dict[str, Any]:
    """Every value of a net's configuration by its dotted key, and its seeds."""
    config = load_run(runs[0].config_path).model_dump(mode="json", exclude={"seed"})
    return {**flat(config), "seeds": [run.seed for run in runs]}
