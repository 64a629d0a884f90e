"""Does what the study shows depend on what else it varies: precision, width, warm-up, the kind of shortcut?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from resexp.report.estimates import CONFIDENCE, Difference, Term, contrast, minus, rise_terms
from resexp.report.families import Family, differences, without
from resexp.report.formatting import NOTHING, Table
from resexp.report.stats import grouped

QUANTITIES = {
    "interaction": "rise of plain nets minus rise of residual nets",
    "plain": "rise of plain nets, deepest minus shallowest",
    "residual": "rise of residual nets, deepest minus shallowest",
    "gap": "plain minus residual, deepest",
}
"""The differences of running training error that a Control may have, in words."""
IN_SHORT = {
    "interaction": "difference of the rises",
    "plain": "plain nets' rise",
    "residual": "residual nets' rise",
    "gap": "plain minus residual",
}
"""The same for tables."""

IN_SENTENCE = 6
"""Conditions that a sentence has the numbers of; the table has more, and the JSON has all."""


@dataclass(frozen=True)
class Change:
    """A weighted sum of running training errors: an error, a rise, or a difference of rises."""

    depths: tuple[int, ...]
    """Where it is read: one depth, or the shallowest and the deepest."""
    terms: tuple[Term, ...]

    @cached_property
    def difference(self) -> Difference:
        """Its value."""
        return contrast(self.terms)

    @property
    def at(self) -> str:
        """The depths in words."""
        return f"depth{'s' * (len(self.depths) > 1)} {' and '.join(map(str, self.depths))}"

    @property
    def in_cell(self) -> str:
        """The error in percent, or the difference in points."""
        return self.difference.in_cell if len(self.terms) > 1 else str(self.terms[0][1])


@dataclass(frozen=True)
class Control:
    """The differences that the verdict rests on, in one condition of the study."""

    condition: str
    """Such as ``precision=bf16``."""
    families: list[Family]
    """The families that it compares."""
    changes: dict[str, Change]
    """By the names of QUANTITIES."""

    @property
    def deepest(self) -> dict[str, Change]:
        """The error of the deepest net, by kind."""
        return {
            family.kind: Change((depth,), ((1, family.errors[depth]),))
            for family in self.families
            for depth in [max(family.errors)]
        }


def controls(families: Sequence[Family]) -> list[Control]:
    """The differences that two conditions or more have, in the order of the study; empty if none are.

    A family of plain nets and its `partner` are one condition. Each further family of residual nets that differs in its
    branches alone, as in its shortcuts, is one more condition, with the same plain nets. So is one without plain nets
    of the same settings.
    """
    plains, residuals = ([family for family in families if family.kind == kind] for kind in ("plain", "residual"))
    pairs: list[tuple[str, list[Family], dict[str, Change]]] = []
    for plain in plains:
        partner = plain.partner(residuals)
        mutual = [partner] if partner and partner.partner(plains) is plain else []
        condition = plain.condition or (partner.condition if partner else "")
        pairs.append((condition, [plain, *mutual], changes(plain, partner)))
    for residual in residuals:
        partner = residual.partner(plains)
        if partner is None or partner.partner(residuals) is not residual:
            pairs.append((residual.condition, [residual], changes(partner, residual)))
    found = dict[str, tuple[list[Family], dict[str, Change]]]()
    for condition, own, of_pair in pairs:
        name = condition or "baseline"
        name = f"{name} ({own[0].kind} nets)" if name in found else name  # each kind alone, in conditions of one name
        found[name] = own, without(of_pair, {"plain", "residual"} - {family.kind for family in own})
    counts = Counter(quantity for _, of_condition in found.values() for quantity in of_condition)
    once = [quantity for quantity, count in counts.items() if count == 1]
    every = [Control(name, own, without(of_condition, once)) for name, (own, of_condition) in found.items()]
    return [control for control in every if control.changes]


def changes(plain: Family | None, residual: Family | None) -> dict[str, Change]:
    """The differences that a verdict on these families rests on, by the names of QUANTITIES."""
    a, b = (family.errors if family else {} for family in (plain, residual))
    common = sorted(a.keys() & b.keys())
    found = {}
    if len(common) > 1:
        rises = (rise_terms({depth: errors[depth] for depth in common}) for errors in (a, b))
        found["interaction"] = Change((common[0], common[-1]), minus(*rises))
    for kind, errors in (("plain", a), ("residual", b)):
        if len(errors) > 1:
            found[kind] = Change((min(errors), max(errors)), rise_terms(errors))
    if common:
        found["gap"] = Change((common[-1],), ((1, a[common[-1]]), (-1, b[common[-1]])))
    return found


def table(found: Sequence[Control]) -> Table:
    """A row for each condition, then one for its change from the first condition.

    A column for each quantity, in points, and for the error of the deepest net of each kind, in percent. The intervals
    of the changes are corrected for their number. A star means that the interval does not contain zero. No change is
    shown between different depths.
    """
    conditions = [control.condition for control in found]
    quantities = {
        f"{words}, points": {one.condition: one.changes.get(name) for one in found} for name, words in IN_SHORT.items()
    }
    for kind in ("plain", "residual"):
        quantities[f"{kind} nets' error, %"] = {one.condition: one.deepest.get(kind) for one in found}
    columns = [["condition", *conditions, *(f"{condition}: change" for condition in conditions[1:])]]
    for words, of_conditions in quantities.items():
        known = {condition: change for condition, change in of_conditions.items() if change}
        if len(known) > 1:
            columns.append(_column(words, conditions, known))
    header, *rows = map(list, zip(*columns, strict=True))
    return header, rows


def _column(words: str, conditions: Sequence[str], changes: Mapping[str, Change]) -> list[str]:
    """A quantity in each condition, and how it changes from the first of them to each other one."""
    places = {change.at for change in changes.values()}
    everywhere = len(places) == 1
    column = [f"{words}, {min(places)}" if everywhere else words]
    for condition in conditions:
        change = changes.get(condition)
        where = "" if everywhere or not change else f" ({change.at})"
        column.append(f"{change.in_cell}{where}" if change else NOTHING)
    first, corrected = changes.get(conditions[0]), 1 - (1 - CONFIDENCE) / (len(changes) - 1)
    for condition in conditions[1:]:
        change = changes.get(condition)
        alike = change and first and change.depths == first.depths
        shift = contrast(minus(change.terms, first.terms), corrected) if change and first and alike else None
        column.append(f"{shift.in_cell}{' *' * bool(shift.sign)}" if shift else NOTHING)
    return column


def varied(families: Sequence[Family]) -> str:
    """What the study varies besides kind, depth and seed, such as ``precision or width``."""
    known = [((net.kind, net.depth), net.settings) for family in families for net in family.nets]
    known += [((family.kind, 0), family.settings) for family in families]
    alike = grouped(known, lambda entry: entry[0]).values()
    keys = sorted({key for entries in alike for key in differences(fields for _, fields in entries)})
    names = dict.fromkeys(key.rpartition(".")[2] for key in keys)
    return " or ".join(", ".join(names).rsplit(", ", 1))
