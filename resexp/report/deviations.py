"""How a study differs from the paper: departures from its recipe, and readings of what it leaves open."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from resexp.paper import Departure, Reading
from resexp.report.formatting import listed
from resexp.report.stats import Net, grouped

EntryT = TypeVar("EntryT", bound=Hashable)


@dataclass(frozen=True)
class Deviations:
    """Both lists, grouped by the nets that share them, which are named together."""

    departures: list[tuple[str, list[Departure]]]
    readings: list[tuple[str, list[Reading]]]
    comparable: str
    """Nets that may be compared with the paper. Empty: none."""
    unpublished: str
    """Nets that follow the recipe but have no number in the paper. Empty: none."""


def deviations(nets: Sequence[Net]) -> Deviations:
    """The departures and readings of the nets of a study."""
    alike = [net for net in nets if not net.departures]
    return Deviations(
        _shared(nets, lambda net: net.departures),
        _shared(nets, lambda net: net.readings),
        listed([net.label for net in alike if net.published]),
        listed([net.label for net in alike if not net.published]),
    )


def _shared(nets: Sequence[Net], entries: Callable[[Net], list[EntryT]]) -> list[tuple[str, list[EntryT]]]:
    having: dict[EntryT, list[str]] = {}
    for net in nets:
        for entry in entries(net):
            having.setdefault(entry, []).append(net.label)
    groups = grouped(having, lambda entry: tuple(having[entry]))
    return [
        ("all nets" if len(labels) == len(nets) else listed(labels), together) for labels, together in groups.items()
    ]
