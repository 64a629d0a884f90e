"""How a study differs from the paper: departures from its recipe, and readings of what it leaves open."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from resexp.paper import Departure, Reading
from resexp.report.formatting import listed
from resexp.report.stats import Net

EntryT = TypeVar("EntryT", bound=Hashable)


@dataclass(frozen=True)
class Shared(Generic[EntryT]):
    """Entries that several nets share."""

    nets: str
    entries: list[EntryT]


@dataclass(frozen=True)
class Deviations:
    """Both lists, grouped by the nets that share them."""

    departures: list[Shared[Departure]]
    readings: list[Shared[Reading]]
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


def _shared(nets: Sequence[Net], entries: Callable[[Net], list[EntryT]]) -> list[Shared[EntryT]]:
    having: dict[EntryT, list[str]] = {}
    for net in nets:
        for entry in entries(net):
            having.setdefault(entry, []).append(net.label)
    groups: dict[tuple[str, ...], list[EntryT]] = {}
    for entry, labels in having.items():
        groups.setdefault(tuple(labels), []).append(entry)
    return [
        Shared("all nets" if len(labels) == len(nets) else listed(labels), together)
        for labels, together in groups.items()
    ]


def markdown(name: str, found: Deviations) -> str:
    """deviations.md."""
    lines = [f"# {name}: deviations from He et al. 2015 (arXiv 1512.03385)", ""]
    if found.comparable:
        lines += [f"Comparable with the paper: {found.comparable}.", ""]
    if found.unpublished:
        lines += [f"By the paper's recipe, but without a number in the paper: {found.unpublished}.", ""]
    lines += ["## Departures from the paper", ""]
    lines += [] if found.departures else ["None.", ""]
    for group in found.departures:
        rows = [(f"{d.what} (`{d.key}`)", d.paper, d.ours, d.source) for d in group.entries]
        lines += _table(group.nets, rows)
    lines += ["## What the paper leaves open, or Caffe does otherwise", ""]
    for reading in found.readings:
        rows = [(r.topic, r.paper, r.ours, r.source) for r in reading.entries]
        lines += _table(reading.nets, rows)
    return "\n".join(lines)


def _table(nets: str, rows: list[tuple[str, str, str, str]]) -> list[str]:
    cells = [("what", "the paper", "this study", "source"), ("---",) * 4, *rows]
    return [f"For {nets}:", "", *(f"| {' | '.join(cell.replace('|', '/') for cell in row)} |" for row in cells), ""]
