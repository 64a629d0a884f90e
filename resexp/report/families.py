"""Which nets may be compared: a family differs in depth alone, two families that are judged together in kind alone.

What a net is comes from its configuration, the images that it saw and the precision that it was trained in, never from
what a study calls it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from resexp.config.model import BRANCHES
from resexp.report import estimates
from resexp.report.estimates import Estimate, Rise, Trend
from resexp.report.stats import ItemT, Net, RunRecord, grouped, nets_of

BRANCH = ("model.shortcut", *(f"model.{field}" for field in BRANCHES))
"""Fields of residual branches, ignored when plain and residual families are matched."""


def differences(every: Iterable[Mapping[str, str]], left_out: Collection[str] = ()) -> list[str]:
    """The fields in which any of the settings differ."""
    every = list(every)
    keys = {key for settings in every for key in settings} - set(left_out)
    return sorted(key for key in keys if len({settings.get(key) for settings in every}) > 1)


def without(fields: Mapping[str, ItemT], left_out: Collection[str]) -> dict[str, ItemT]:
    """All but some of the fields."""
    return {key: value for key, value in fields.items() if key not in left_out}


def alike(nets: Iterable[Net], left_out: Callable[[Net], Collection[str]]) -> list[list[Net]]:
    """The nets by kind and by settings, without some fields of each."""
    return list(grouped(nets, lambda net: (net.kind, frozenset(without(net.settings, left_out(net)).items()))).values())


def varied_by_the_paper(net: Net) -> tuple[str, ...]:
    """The fields that the paper itself varies with depth, where they are as in the paper at this depth: the warm-up at
    depth 110 (section 4.2); on ImageNet, blocks and shortcuts (Table 1)."""
    if net.config.model.variant == "imagenet":
        return "model.block", "model.shortcut", "model.stride_conv"
    warmup = (net.depth, net.config.train.warmup_lr, net.config.train.warmup_until_error)
    return ("train.warmup_lr",) if warmup == (110, 0.01, 0.8) else ()


@dataclass(frozen=True)
class Family:
    """Nets of one kind that differ in depth alone, and in what the paper varies with it."""

    name: str
    """Such as ``plain`` or ``residual B``."""
    nets: tuple[Net, ...]
    """Those with finished runs, the shallowest first."""

    @property
    def kind(self) -> str:
        """``plain``, ``residual``, ``preact`` or ``vgg``."""
        return self.nets[0].kind

    @property
    def condition(self) -> str:
        """What tells the family apart from others of its kind, if anything does."""
        return self.name.removeprefix(self.kind).strip()

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """What its nets share."""
        return without(self.nets[0].settings, self.excused)

    @cached_property
    def excused(self) -> list[str]:
        """Fields in which its nets differ, as the paper's nets do."""
        varied = {key for net in self.nets for key in varied_by_the_paper(net)}
        return [key for key in differences(net.settings for net in self.nets) if key in varied]

    def differs(self, other: Family, but: Collection[str] = ()) -> list[str]:
        """The fields in which the nets of both differ. Fields that vary within a family are compared at common
        depths, if the paper does not vary them."""
        within = {*self.excused, *other.excused} - {*but}
        found = set(differences([self.settings, other.settings], {*within, *but}))
        theirs = {net.depth: net for net in other.nets}
        for pair in ((net, theirs[net.depth]) for net in self.nets if net.depth in theirs):
            varied = {key for net in pair for key in varied_by_the_paper(net)}
            found |= set(differences(net.settings for net in pair)) & within - varied
        return sorted(found)

    @cached_property
    def errors(self) -> dict[int, Estimate]:
        """Its running training errors by depth. Nets of one seed are left out, unless fewer than two nets have several:
        their errors have no interval."""
        every = {net.depth: net.errors["running"] for net in self.nets}
        several = {depth: error for depth, error in every.items() if len(error.values) > 1}
        return several if len(several) > 1 else every

    @cached_property
    def rise(self) -> Rise | None:
        """The rise of its errors; None for fewer than two depths."""
        return estimates.rise(self.errors) if len(self.errors) > 1 else None

    @cached_property
    def trend(self) -> Trend | None:
        """The trend of its errors; None for fewer than three depths."""
        return estimates.trend({depth: error.values for depth, error in self.errors.items()})

    def partner(self, others: Sequence[Family]) -> Family | None:
        """The first of the `others` with the same settings; if there is none, the first that differs in residual
        branches alone."""
        for but in ((), BRANCH):
            for other in others:
                if not self.differs(other, but):
                    return other
        return None


def in_families(records: Sequence[RunRecord]) -> list[RunRecord]:
    """The records with the names of their families.

    The nets of a family have the same settings. Nets that differ in what the paper varies with depth join it, unless
    it has a net of their depth already.
    """
    members: list[list[Net]] = []
    for nets in alike(nets_of(records), varied_by_the_paper):
        joined: list[list[Net]] = []
        for part in alike(nets, lambda _: ()):
            depths = {net.depth for net in part}
            room = [family for family in joined if not depths & {net.depth for net in family}]
            if room:
                room[0].extend(part)
            else:
                joined.append(part)
        members += joined
    names = dict[Path, str]()
    for name, namesakes in grouped(members, lambda family: _name(family[0])).items():
        apart = differences(family[0].settings for family in namesakes)
        for family in namesakes:
            values = [f"{key.rpartition('.')[2]}={family[0].settings.get(key, 'default')}" for key in apart]
            names |= {run.run.folder: " ".join([name, *values]) for net in family for run in net.runs}
    return [replace(record, family=names[record.run.folder]) for record in records]


def _name(net: Net) -> str:
    """Its kind, and what its label has besides kind and depth."""
    return f"{net.kind} {net.label.removeprefix(f'{net.kind}-{net.depth}').strip('-')}".strip()


def families(nets: Iterable[Net]) -> list[Family]:
    """The families in the order of the nets, but those with the fewest departures from the paper first."""
    found = [
        Family(name, tuple(sorted(namesakes, key=lambda net: net.depth)))
        for name, namesakes in grouped(nets, lambda net: net.family).items()
    ]
    candidates = [family for family in found if family.kind == "plain"] or found
    closest = min(candidates, key=lambda family: max(len(net.departures) for net in family.nets), default=None)
    return sorted(found, key=lambda family: closest is not None and family.settings != closest.settings)
