"""Does what the study shows depend on what else it varies: precision, width, warm-up, the kind of shortcut?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from resexp.report.estimates import CONFIDENCE, Difference, Estimate, Term, contrast, interaction_terms
from resexp.report.families import Family, differing, recipe
from resexp.report.formatting import NOTHING, Table, alternatives
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
    """A difference of means and the depths that it is between."""

    difference: Difference
    at: str
    terms: tuple[Term, ...]
    """The means that it is made of."""


@dataclass(frozen=True)
class Control:
    """The differences that the verdict rests on, in one condition of the study."""

    condition: str
    """Such as ``precision=bf16``."""
    families: list[str]
    """The families that it compares."""
    changes: dict[str, Change]
    """By the names of QUANTITIES."""
    deepest: dict[str, tuple[int, Estimate]]
    """Depth and running training error of the deepest net, by kind."""


def controls(families: Sequence[Family]) -> list[Control]:
    """The differences that two conditions or more have, in the order of the study; empty if none are.

    A family of plain nets and its `partner` are one condition. Each further family of residual nets that differs in its
    branches alone, as in its shortcuts, is one more condition, with the same plain nets.
    """
    plains, residuals = ([family for family in families if family.kind == kind] for kind in ("plain", "residual"))
    found: dict[str, tuple[dict[str, Change], list[Family]]] = {}
    for plain in plains:
        partner = plain.partner(residuals)
        name = plain.condition or (partner.condition if partner else "") or "baseline"
        mutual = [partner] if partner and partner.partner(plains) is plain else []
        found[name] = _contrasts(plain, partner), [plain, *mutual]
    for residual in residuals:
        partner = residual.partner(plains)
        if partner and partner.partner(residuals) is not residual:
            found[residual.condition or "baseline"] = _contrasts(partner, residual), [residual]
    for changes, own in found.values():
        for family in own:
            changes |= _rise(family)
    counts = Counter(quantity for changes, _ in found.values() for quantity in changes)
    every = [
        Control(
            condition,
            [family.name for family in own],
            {name: changes[name] for name in QUANTITIES if name in changes and counts[name] > 1},
            {family.kind: _deepest(family) for family in own},
        )
        for condition, (changes, own) in found.items()
    ]
    return [control for control in every if control.changes]


def changes(plain: Family | None, residual: Family | None) -> dict[str, Change]:
    """The differences that a verdict on these families rests on, by the names of QUANTITIES."""
    found = _rise(plain) | _rise(residual) | _contrasts(plain, residual)
    return {quantity: found[quantity] for quantity in QUANTITIES if quantity in found}


def _change(at: str, *terms: Term) -> Change:
    return Change(contrast(terms), at, terms)


def _rise(family: Family | None) -> dict[str, Change]:
    if not family or len(family.errors) < 2:
        return {}
    errors = family.errors
    low, high = min(errors), max(errors)
    return {family.kind: _change(f"depths {low} and {high}", (1, errors[high]), (-1, errors[low]))}


def _deepest(family: Family) -> tuple[int, Estimate]:
    depth = max(family.errors)
    return depth, family.errors[depth]


def _contrasts(plain: Family | None, residual: Family | None) -> dict[str, Change]:
    a, b = (family.errors if family else {} for family in (plain, residual))
    if not (common := sorted(a.keys() & b.keys())):
        return {}
    low, high = common[0], common[-1]
    changes = {"gap": _change(f"depth {high}", (1, a[high]), (-1, b[high]))}
    if low < high:
        terms = interaction_terms((a[low], a[high]), (b[low], b[high]))
        changes["interaction"] = _change(f"depths {low} and {high}", *terms)
    return changes


def table(found: Sequence[Control]) -> Table:
    """A row for each condition, then one for its change from the first condition.

    A column for each quantity, in points, and for the error of the deepest net of each kind, in percent. The intervals
    of the changes are corrected for their number. A change whose interval leaves zero out has a star.
    """
    conditions = [control.condition for control in found]
    columns = [["points", *conditions, *(f"{condition}: change" for condition in conditions[1:])]]
    for quantity, words in IN_SHORT.items():
        if changes := {one.condition: one.changes[quantity] for one in found if quantity in one.changes}:
            places = {change.at for change in changes.values()}
            cells = {v: c.difference.in_cell + f" ({c.at})" * (len(places) > 1) for v, c in changes.items()}
            name = words if len(places) > 1 else f"{words}, {min(places)}"
            terms = {condition: change.terms for condition, change in changes.items()}
            columns.append([name, *_column(conditions, cells, terms)])
    for kind in ("plain", "residual"):
        errors = {one.condition: one.deepest[kind] for one in found if kind in one.deepest}
        if len(errors) > 1:
            depths = {depth for depth, _ in errors.values()}
            cells = {v: f"{error}" + f" (depth {depth})" * (len(depths) > 1) for v, (depth, error) in errors.items()}
            name = f"{kind} nets' error, %" + f", depth {min(depths)}" * (len(depths) == 1)
            columns.append([name, *_column(conditions, cells, {v: ((1, error),) for v, (_, error) in errors.items()})])
    header, *rows = map(list, zip(*columns, strict=True))
    return header, rows


def _column(conditions: Sequence[str], cells: dict[str, str], terms: dict[str, tuple[Term, ...]]) -> list[str]:
    """The cells of the conditions, and how the sum of `terms` changes from the first of them to each other one."""
    first, *others = conditions
    column = [cells.get(condition, NOTHING) for condition in conditions]
    for condition in others:
        if {first, condition} <= terms.keys():
            corrected = 1 - (1 - CONFIDENCE) / (len(terms) - 1)
            before = [(-weight, mean) for weight, mean in terms[first]]
            shift = contrast([*terms[condition], *before], corrected)
            column.append(shift.in_cell + " *" * bool(shift.sign))
        else:
            column.append(NOTHING)
    return column


def varied(families: Sequence[Family]) -> str:
    """What the study varies besides kind, depth and seed, such as ``precision or width``."""
    recipes = [((net.kind, net.depth), recipe(net.runs)) for family in families for net in family.nets]
    recipes += [((family.kind, 0), family.recipe) for family in families]
    alike = grouped(recipes, lambda entry: entry[0]).values()
    keys = sorted({key for entries in alike for key in differing(fields for _, fields in entries)})
    return alternatives(list(dict.fromkeys(key.rpartition(".")[2] for key in keys)))
