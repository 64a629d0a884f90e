"""Does what the study shows depend on what else it varies: precision, width, warm-up, the kind of shortcut?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from resexp.report.estimates import CONFIDENCE, Difference, Term, contrast, interaction_terms
from resexp.report.families import Family, differing, recipe
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
"""Variants that a sentence has the numbers of; the table has more, and the JSON has all."""


@dataclass(frozen=True)
class Change:
    """A difference of means and the depths that it is between."""

    difference: Difference
    at: str
    terms: tuple[Term, ...]
    """The means that it is made of."""


@dataclass(frozen=True)
class Control:
    """The differences that the verdict rests on, in one variant of the study."""

    variant: str
    """Such as ``precision=bf16``."""
    changes: dict[str, Change]
    """By the names of QUANTITIES."""


def controls(families: Sequence[Family]) -> list[Control]:
    """The differences that two variants or more have, in the order of the study; empty if none are.

    A variant is a family of plain nets and the one of residual nets that may be compared with it. Residual nets that
    differ in their branches alone, as in their shortcuts, are compared with the same plain nets.
    """
    plains, residuals = ([family for family in families if family.kind == kind] for kind in ("plain", "residual"))
    found: dict[str, dict[str, Change]] = {}
    for plain in plains:
        partner = plain.partner(residuals)
        name = plain.variant or (partner.variant if partner else "") or "no variant"
        mutual = partner if partner and partner.partner(plains) is plain else None
        found[name] = _rise(plain) | _rise(mutual) | _contrasts(plain, partner)
    for residual in residuals:
        partner = residual.partner(plains)
        if partner and partner.partner(residuals) is not residual:
            found[residual.variant or "no variant"] = _contrasts(partner, residual) | _rise(residual)
    counts = Counter(quantity for changes in found.values() for quantity in changes)
    kept = {v: {q: changes[q] for q in QUANTITIES if q in changes and counts[q] > 1} for v, changes in found.items()}
    return [Control(variant, changes) for variant, changes in kept.items() if changes]


def changes(plain: Family | None, residual: Family | None) -> dict[str, Change]:
    """The differences that a verdict on these families rests on, by the names of QUANTITIES."""
    found = _rise(plain) | _rise(residual) | _contrasts(plain, residual)
    return {quantity: found[quantity] for quantity in QUANTITIES if quantity in found}


def _change(at: str, *terms: Term) -> Change:
    return Change(contrast(terms), at, terms)


def _rise(family: Family | None) -> dict[str, Change]:
    if not family or len(family.running) < 2:
        return {}
    errors = family.running
    low, high = min(errors), max(errors)
    return {family.kind: _change(f"depths {low} and {high}", (1, errors[high]), (-1, errors[low]))}


def _contrasts(plain: Family | None, residual: Family | None) -> dict[str, Change]:
    a, b = (family.running if family else {} for family in (plain, residual))
    if not (common := sorted(a.keys() & b.keys())):
        return {}
    low, high = common[0], common[-1]
    changes = {"gap": _change(f"depth {high}", (1, a[high]), (-1, b[high]))}
    if low < high:
        terms = interaction_terms((a[low], a[high]), (b[low], b[high]))
        changes["interaction"] = _change(f"depths {low} and {high}", *terms)
    return changes


def table(found: Sequence[Control]) -> Table:
    """A row for each variant, then one for its change from the first variant; a column for each quantity, in points.

    The intervals of the changes are corrected for their number. A change whose interval leaves zero out has a star.
    """
    first, *others = variants = [control.variant for control in found]
    columns = [["points", *variants, *(f"{variant}: change" for variant in others)]]
    for quantity, words in IN_SHORT.items():
        if changes := {one.variant: one.changes[quantity] for one in found if quantity in one.changes}:
            places = {change.at for change in changes.values()}
            cells = {v: c.difference.in_cell + f" ({c.at})" * (len(places) > 1) for v, c in changes.items()}
            name = words if len(places) > 1 else f"{words}, {min(places)}"
            shifts = [_shift(changes, first, variant) for variant in others]
            columns.append([name, *(cells.get(variant, NOTHING) for variant in variants), *shifts])
    header, *rows = map(list, zip(*columns, strict=True))
    return header, rows


def _shift(changes: dict[str, Change], first: str, variant: str) -> str:
    if not {first, variant} <= changes.keys():
        return NOTHING
    corrected = 1 - (1 - CONFIDENCE) / (len(changes) - 1)
    before = [(-weight, mean) for weight, mean in changes[first].terms]
    shift = contrast([*changes[variant].terms, *before], corrected)
    return shift.in_cell + " *" * bool(shift.sign)


def varied(families: Sequence[Family]) -> str:
    """What the study varies besides kind, depth and seed, such as ``precision and width``."""
    recipes = [((net.kind, net.depth), recipe(net.runs)) for family in families for net in family.nets]
    recipes += [((family.kind, 0), family.recipe) for family in families]
    alike = grouped(recipes, lambda entry: entry[0]).values()
    keys = sorted({key for entries in alike for key in differing(fields for _, fields in entries)})
    return " and ".join(dict.fromkeys(key.rpartition(".")[2] for key in keys))
