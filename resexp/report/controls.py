"""Does what the study shows depend on what else it varies: precision, width, warm-up, the kind of shortcut?"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from resexp.report.estimates import Difference, Estimate, difference
from resexp.report.stats import Net, running_by_depth
from resexp.report.words import listed

QUANTITIES = {
    "degradation": "deepest plain net minus shallowest",
    "gap": "plain minus residual, deepest",
}
"""The differences of running training error that a Control may have, in words."""


@dataclass(frozen=True)
class Change:
    """A difference and the depths that it is between."""

    difference: Difference
    at: str


@dataclass(frozen=True)
class Control:
    """The differences that the verdict rests on, in one variant of the study."""

    variant: str
    """Such as ``precisionbf16``."""
    changes: dict[str, Change]
    """By the names of QUANTITIES."""


def controls(nets: Sequence[Net]) -> list[Control]:
    """The differences that two variants or more have, in the order of the study; empty where none are.

    Where a variant is of one kind alone, as a kind of shortcut is, it is set beside the nets of the other kind that
    have no variant.
    """
    variants = list(dict.fromkeys(net.variant for net in nets))
    running = running_by_depth(nets)
    found = {variant: _changes(running, variant) for variant in variants}
    counts = Counter(quantity for changes in found.values() for quantity in changes)
    shared = {v: {q: change for q, change in changes.items() if counts[q] > 1} for v, changes in found.items()}
    return [Control(variant or "no variant", changes) for variant, changes in shared.items() if changes]


def _changes(running: Mapping[str, dict[int, Estimate]], variant: str) -> dict[str, Change]:
    own_plain, own_residual = (running.get(f"{kind} {variant}".strip(), {}) for kind in ("plain", "residual"))
    plain, residual = own_plain or running.get("plain", {}), own_residual or running.get("residual", {})
    changes = {}
    if len(own_plain) > 1:
        low, high = min(own_plain), max(own_plain)
        changes["degradation"] = Change(difference(own_plain[high], own_plain[low]), f"depths {low} and {high}")
    if common := plain.keys() & residual.keys():
        deepest = max(common)
        changes["gap"] = Change(difference(plain[deepest], residual[deepest]), f"depth {deepest}")
    return changes


def sentences(found: Sequence[Control]) -> list[str]:
    """For each quantity, its value in every variant and whether the intervals tell them apart."""
    having = {
        quantity: [(control.variant, control.changes[quantity]) for control in found if quantity in control.changes]
        for quantity in QUANTITIES
    }
    return [_sentence(words, having[quantity]) for quantity, words in QUANTITIES.items() if having[quantity]]


def _sentence(words: str, having: list[tuple[str, Change]]) -> str:
    (first, reference), *others = having
    one_place = len({change.at for _, change in having}) == 1
    where = f" (at {reference.at})" if one_place else ""
    values = listed([f"{c.difference} with {variant}{'' if one_place else f' (at {c.at})'}" for variant, c in having])
    apart = [variant for variant, change in others if change.difference.overlaps(reference.difference) is False]
    signs = {change.difference.sign for _, change in having}
    if any(change.difference.low is None for _, change in having):
        says = "where there is one seed there is no interval, so this is descriptive only"
    elif apart:
        says = f"not overlapping with the interval of {first}: {listed(apart)}, so it makes a difference"
    else:
        says = f"all intervals overlap with that of {first}, so no difference is shown"
        if signs in ({1}, {-1}):
            says += f", and all lie {'above' if signs == {1} else 'below'} zero"
    return f"{words[0].upper()}{words[1:]}{where}: {values}; {says}."


def varied(nets: Sequence[Net]) -> str:
    """What the study varies besides kind, depth and seed, such as ``precision and width``."""
    values: dict[tuple[str, int, str], set[str]] = defaultdict(set)
    for net in nets:
        config = net.runs[0].config
        fields: dict[str, Any] = {**config.data.science(), **config.model.science(), **config.train.science()}
        for name, value in fields.items():
            values[net.kind, net.depth, name].add(str(value))
    names = dict.fromkeys(name for (_, _, name), different in values.items() if len(different) > 1)
    return " and ".join(name.replace("_", " ") for name in names)
