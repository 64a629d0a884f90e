"""Which nets may be compared: a family differs in depth alone, two families that are judged together in kind alone.

What a net is comes from its configuration, the images that it saw and the precision that it was trained in, never from
what a study calls it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from resexp.config import RunConfig
from resexp.config.model import BRANCHES
from resexp.report.estimates import Estimate
from resexp.report.stats import Net, RunRecord, grouped

BRANCH = ("model.shortcut", *(f"model.{field}" for field in BRANCHES))
"""Fields of residual branches, ignored when plain and residual families are matched."""

Recipe = Mapping[str, str]
"""Fields of the configuration that are not at their defaults, by dotted key, except kind and depth."""


def recipe(records: Sequence[RunRecord]) -> Recipe:
    """The measured fields of a net that differ from the defaults, with its images and precision."""
    config = records[0].config
    sections = {"data": config.data, "model": config.model, "train": config.train}
    fields = {f"{name}.{key}": str(v) for name, section in sections.items() for key, v in section.changed().items()}
    for key in ("model.kind", "model.depth"):
        fields.pop(key, None)
    if config.model.params:  # the width follows from it, and from the depth
        fields["model.width"] = f"of {config.model.params:,} parameters"
    if config.model.norm == "fixup":  # a norm that plain nets can't have: theirs is none
        fields |= {"model.norm": "none", "model.residual_init": "fixup"}
    fields["images"] = _together(record.manifest.data.fingerprint for record in records)
    fields["train.precision"] = _together(a.precision for record in records for a in record.manifest.attempts)
    return fields


def _together(values: Iterable[str]) -> str:
    return " and ".join(sorted(set(values)))


def varied_by_the_paper(config: RunConfig) -> tuple[str, ...]:
    """The fields that the paper itself varies with depth, where they are as in the paper at this depth.

    The warm-up at depth 110 (section 4.2); on ImageNet, blocks and shortcuts (Table 1).
    """
    if config.model.variant == "imagenet":
        return "model.block", "model.shortcut", "model.stride_conv"
    warmup = (config.model.depth, config.train.warmup_lr, config.train.warmup_until_error)
    return ("train.warmup_lr",) if warmup == (110, 0.01, 0.8) else ()


@dataclass(frozen=True)
class Family:
    """Nets of one kind that differ in depth alone, and in what the paper varies with it."""

    name: str
    """Such as ``plain`` or ``residual B``."""
    nets: tuple[Net, ...]
    """Those with finished runs, the shallowest first."""
    recipe: Recipe
    """What they share."""
    excused: tuple[str, ...]
    """Fields in which they differ, as the paper's nets do."""

    @property
    def kind(self) -> str:
        """``plain``, ``residual``, ``preact`` or ``vgg``."""
        return self.nets[0].kind

    @property
    def condition(self) -> str:
        """What tells the family apart from others of its kind, if anything does."""
        return self.name.removeprefix(self.kind).strip()

    @cached_property
    def errors(self) -> dict[int, Estimate]:
        """Its running training errors by depth. Nets of one seed are left out, unless fewer than two nets have several:
        their errors have no interval."""
        every = {net.depth: net.errors["running"] for net in self.nets}
        several = {depth: error for depth, error in every.items() if len(error.values) > 1}
        return several if len(several) > 1 else every

    def partner(self, others: Sequence[Family]) -> Family | None:
        """The first of the `others` with the same recipe; if there is none, the first that differs in residual branches
        alone."""
        found = (other for but in ((), BRANCH) for other in others if not differences(self.recipe, other.recipe, but))
        return next(found, None)


def without(fields: Recipe, left_out: Sequence[str]) -> Recipe:
    """A recipe without some of its fields."""
    return {key: value for key, value in fields.items() if key not in left_out}


def differences(a: Recipe, b: Recipe, left_out: Sequence[str] = ()) -> list[str]:
    """The fields in which two recipes differ."""
    return [key for key in sorted(a.keys() | b.keys()) if a.get(key) != b.get(key) and key not in left_out]


def differing(recipes: Iterable[Recipe]) -> list[str]:
    """The fields in which any of the recipes differ."""
    first, *others = recipes
    return sorted({key for other in others for key in differences(first, other)})


def family_names(records: Sequence[RunRecord]) -> dict[Path, str]:
    """The name of the family of each net, by the folder of the net, in the order of the records.

    Nets of one recipe are a family. Nets whose recipes differ in what the paper varies with depth join it, unless it
    has a net of their depth already.
    """
    nets = {
        folder: Net(tuple(runs)) for folder, runs in grouped(records, lambda record: record.run.folder.parent).items()
    }
    recipes = {folder: recipe(net.runs) for folder, net in nets.items()}

    def shared(folder: Path) -> Hashable:
        net = nets[folder]
        return net.kind, frozenset(without(recipes[folder], varied_by_the_paper(net.runs[0].config)).items())

    members: list[list[Path]] = []
    for alike in grouped(nets, shared).values():
        joined: list[list[Path]] = []
        for part in grouped(alike, lambda folder: frozenset(recipes[folder].items())).values():
            depths = {nets[folder].depth for folder in part}
            room = [family for family in joined if not depths & {nets[folder].depth for folder in family}]
            if room:
                room[0].extend(part)
            else:
                joined.append(part)
        members += joined
    names: dict[Path, str] = {}
    for name, namesakes in grouped(members, lambda family: _name(nets[family[0]])).items():
        of_first = [recipes[family[0]] for family in namesakes]
        apart = differing(of_first)
        for family, own in zip(namesakes, of_first, strict=True):
            values = [f"{key.rpartition('.')[2]}={own.get(key, 'default')}" for key in apart]
            names |= dict.fromkeys(family, " ".join([name, *values]))
    return names


def _name(net: Net) -> str:
    """Its kind, and what its label has besides kind and depth."""
    return f"{net.kind} {net.label.removeprefix(f'{net.kind}-{net.depth}').strip('-')}".strip()


def families(nets: Sequence[Net]) -> list[Family]:
    """The families in the order of the nets, but those with the fewest departures from the paper first."""
    found = []
    for name, namesakes in grouped(nets, lambda net: net.family).items():
        alike = sorted(namesakes, key=lambda net: net.depth)
        excused = tuple(dict.fromkeys(key for net in alike for key in varied_by_the_paper(net.runs[0].config)))
        recipes = [recipe(net.runs) for net in alike]
        apart = differing(recipes)
        shared = without(recipes[0], excused)
        found.append(Family(name, tuple(alike), shared, tuple(key for key in excused if key in apart)))
    candidates = [family for family in found if family.kind == "plain"] or found
    closest = min(candidates, key=lambda family: max(len(net.departures) for net in family.nets), default=None)
    return sorted(found, key=lambda family: closest is not None and bool(differences(family.recipe, closest.recipe)))
