"""The verdict: does depth cost plain nets more than residual nets, and does the error of either rise with it?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from resexp.report import estimates
from resexp.report.controls import changes
from resexp.report.estimates import Difference, Rise, Term, Trend, rises_less, signed, why_no_interval
from resexp.report.families import Family
from resexp.report.stats import grouped
from resexp.utils.text import MAX_NAMES, counted, listed

PAPER_MARGIN = 1.0
"""Points that a rise may have at the paper's recipe and count as none, where the study does not say."""
SHARE = 0.1
"""The same elsewhere, as a part of the plain nets' rise."""


@dataclass(frozen=True)
class Verdict:
    """What the study shows, in words with their numbers."""

    headline: str
    sentences: list[str] = field(default_factory=list)
    families: list[str] = field(default_factory=list)
    """The families judged: one of plain nets, one of residual nets, or both."""
    interaction: Difference | None = None
    """The rise of the running training error with depth in plain nets minus that in residual nets."""
    interaction_depths: tuple[int, int] | None = None
    """The shallowest and the deepest depth that both families have."""
    plain: Rise | None = None
    residual: Rise | None = None
    gap: Difference | None = None
    """Plain minus residual at the deepest depth that both have."""
    margin: float | None = None
    """The rise in points that counts as none; see `ReportConfig.margin`. By default a part of the plain nets' rise."""
    plain_trend: Trend | None = None
    """Whether the error rises over the depths; None for fewer than three."""
    residual_trend: Trend | None = None
    condition: str = ""
    """What tells the families that are judged apart from others of the study."""


def judge(
    families: Sequence[Family],
    missing: Sequence[str],
    remarks: Sequence[str],
    margin: float | None,
    diverged: Sequence[str] = (),
) -> Verdict:
    """What the running training errors of the families show.

    The paper's claim is an interaction, and leads: the error of plain nets rises more from the shallowest depth to the
    deepest than that of residual nets. Nets "degrade" if the interval of their rise, from the shallowest
    or from the best depth, lies above zero. They "do not degrade" if it lies below the `margin`, from every
    depth; not if the deepest only guess. The default margin is a tenth of the plain nets' rise, whose noise counts.
    `missing` names runs that have not ended, `diverged` counts the runs of each net that
    diverged; both are left out. `remarks` are what a reader must know about the others.
    """
    plain, residual, obstacle = judged_families(families)
    kinds = [family for family in (plain, residual) if family]
    ended = f" Diverged, so not in these numbers: {listed(diverged, 6)}." if diverged else ""
    not_counted = [f"Not counted, since not finished: {listed(missing, 6)}."] if missing else []
    if not kinds:
        return Verdict(_so_far(f"No verdict: {obstacle}.{ended}", missing), not_counted)
    first = kinds[0]
    found = changes(plain, residual)
    interaction = gap = None
    ends: tuple[int, int] | None = None
    if "interaction" in found:
        interaction, gap = found["interaction"].difference, found["gap"].difference
        low, high = found["interaction"].depths
        ends = low, high
    elif len(kinds) > 1:
        obstacle = "plain and residual nets have not finished at two depths in common"
    allowed = _allowed(margin, kinds)

    sentences = []
    if interaction:
        names = [f"({kind}-{high} minus {kind}-{low})" for kind in ("plain", "residual")]
        sentences.append(f"Difference of the rises, {' minus '.join(names)}: {interaction}.")
    for family in kinds:
        sentences += _about(family)
    if gap:
        sentences.append(f"At depth {high}, plain minus residual: {gap}.")
    if guessing := [net.label for family in kinds for net in family.nets if net.guesses]:
        sentences.append(f"About as bad as guessing, so that the error can hardly rise: {listed(guessing)}.")
    if plain and residual:
        sentences += _parameters(plain, residual)
    sentences += _warmups(kinds)
    if allowed and any(family.rise and family.rise.overall.low is not None for family in kinds):
        sentences.append(allowed.sentence)
    if lone := [net.label for family in kinds for net in family.nets if net.depth not in family.errors]:
        sentences.append(f"Left out of the verdict, with one seed each: {listed(lone)}.")
    names = [family.name for family in kinds]
    others = [family for family in families if family not in kinds]
    if others:
        sentences.append(f"The verdict is on the {'families' if names[1:] else 'family'} {' and '.join(names)}.")
        left_out = grouped(others, lambda other: tuple(other.differs(first)))
        because = ", since they differ" if any(left_out) else ""
        parts = [
            listed([family.name for family in apart], 6) + (f" ({', '.join(fields)})" if fields else "")
            for fields, apart in left_out.items()
        ]
        sentences.append(f"Left out of the verdict{because}: {'; '.join(parts)}.")
    other_kind = "residual" if plain else "plain"
    without = "" if interaction else f". No verdict on {other_kind} nets: {obstacle}"
    if first.rise and first.rise.overall.low is not None and not (interaction and interaction.low is None):
        headline = _claim(kinds, interaction, ends, allowed)
    else:
        terms = found["interaction" if interaction else first.kind].terms
        headline = f"{why_no_interval(terms)}, descriptive only: {_described(kinds if interaction else kinds[:1])}"
    headline = f"{headline}{without}."
    condition = first.condition if others else ""
    if condition:
        headline = f"With {condition}: {headline[0].lower()}{headline[1:]}"
    headline = _so_far(f"{headline}{ended}", missing)
    sentences += [*not_counted, *remarks[:MAX_NAMES]]
    if remarks[MAX_NAMES:]:
        sentences.append(f"{len(remarks):,} messages of runs; `resexp status --json` shows all.")
    return Verdict(
        headline, sentences, names, interaction, ends, plain.rise if plain else None,
        residual.rise if residual else None, gap, allowed.points if allowed else None, plain.trend if plain else None,
        residual.trend if residual else None, condition,
    )  # fmt: skip


def judged_families(families: Sequence[Family]) -> tuple[Family | None, Family | None, str]:
    """The plain and the residual family that are judged, and why one of them is missing.

    The plain family is the first that shares two depths or more with a residual family; otherwise the first of two
    depths. Without plain nets it is the first residual family of two depths. `families` begin with the settings that
    have the fewest departures from the paper.
    """
    plains, residuals = ([family for family in families if family.kind == kind] for kind in ("plain", "residual"))
    if not plains:
        return None, next((family for family in residuals if len(family.nets) > 1), None), "no plain net has finished"
    deep = [plain for plain in plains if len(plain.nets) > 1]
    if not deep:
        return None, None, _one_depth(plains)
    pairs = [(plain, plain.partner(residuals)) for plain in deep]
    for plain, residual in pairs:
        if residual and len(plain.errors.keys() & residual.errors.keys()) > 1:
            return plain, residual, ""
    plain, residual = pairs[0]
    if residual or not residuals:
        return plain, residual, "no residual net has finished"
    return plain, None, _differ(plain, residuals[0])


def _one_depth(plains: Sequence[Family]) -> str:
    first = plains[0]
    for other in plains[1:]:
        if first.nets[0].depth != other.nets[0].depth:
            return _differ(*sorted((first, other), key=lambda family: family.nets[0].depth))
    return f"it takes plain nets of two depths, and all that have finished have depth {first.nets[0].depth}"


def _differ(a: Family, b: Family) -> str:
    return f"{a.nets[0].label} and {b.nets[0].label} differ in {listed(a.differs(b))}"


def _about(family: Family) -> list[str]:
    """The rise from the shallowest depth and from the best, the trend, and what else varies with depth."""
    rise, trend, errors = family.rise, family.trend, family.errors
    if not rise:
        return []
    a, b = errors[rise.shallowest], errors[rise.deepest]
    seeds = f"{len(a.values)} seeds each" if len(a.values) > 1 else "one seed each"
    if len(a.values) != len(b.values):
        seeds = f"{len(a.values)} and {len(b.values)} seeds"
    ends = f"{a.mean:.1f} % at depth {rise.shallowest}, {b.mean:.1f} % at depth {rise.deepest}"
    name = f"{family.kind.capitalize()} nets"
    found = [f"{name}: training error {ends}: {rise.overall}, {seeds}."]
    if rise.best != rise.shallowest:
        allowed = "" if rise.from_best.low is None else "; the interval is corrected for the choice of the depth"
        found.append(f"{name}, compared with their best depth, {rise.best}: {rise.from_best}{allowed}.")
    if trend:
        *others, deepest = trend.depths
        many = f"{others[0]} to {deepest} ({len(trend.depths)} of them)"
        depths = many if len(others) >= MAX_NAMES else f"{', '.join(map(str, others))} and {deepest}"
        pairs = f"in {trend.statistic} of {trend.pairs} pairs, the deeper run has the higher error"
        corrected = f"; p is corrected for the choice among {trend.choices} starting depths" * (trend.choices > 1)
        test = f"Jonckheere-Terpstra, one-sided{corrected}"
        found.append(f"{name}, trend over depths {depths}: {pairs}, {trend} ({test}).")
    if family.excused:
        found.append(f"{name} of different depth differ in {listed(family.excused)}, too, as in the paper.")
    return found


class _Allowed(NamedTuple):
    """The largest rise that counts as none."""

    points: float
    limit: float | tuple[Term, ...]
    """The same for `rises_less`."""
    words: str
    sentence: str


def _allowed(margin: float | None, kinds: Sequence[Family]) -> _Allowed | None:
    """The `margin` of the study or the default; None if plain nets are not shown to rise, so that it has no size."""
    reason = "the margin that the study fixes (report.margin)"
    if margin is None and not any(net.departures for family in kinds for net in family.nets):
        margin, reason = PAPER_MARGIN, "the default at the paper's recipe"
    if margin is not None:
        sentence = f"A rise counts as none if its whole interval is below {_points(margin)}, {reason}."
        return _Allowed(margin, float(margin), _points(margin), sentence)
    if kinds[0].kind != "plain":
        return None
    common = set.intersection(*(set(family.errors) for family in kinds))
    errors = {depth: error for depth, error in kinds[0].errors.items() if depth in common or len(common) < 2}
    rise = estimates.rise(errors) if len(errors) > 1 else None
    if not rise or rise.from_best.sign <= 0:
        return None
    points = SHARE * rise.from_best.value
    sentence = (
        f"A rise counts as none if it is shown to be below a tenth of the plain nets' rise, {_points(points)} here."
    )
    limit = (SHARE, errors[rise.deepest]), (-SHARE, errors[rise.best])
    return _Allowed(points, limit, "a tenth of the plain nets'", sentence)


def _warmups(families: Sequence[Family]) -> list[str]:
    """By which step the warm-up of each net had ended, where the net's own error ends it."""
    ends, endless, late = [], [], False
    for net in (net for family in families for net in family.nets):
        if steps := sorted(run.warmup_end for run in net.runs if run.warmup_end is not None):
            if steps[-1] == math.inf:
                endless.append(f"{net.label} ({steps.count(math.inf)} of {counted(len(steps), 'run')})")
            if ended := [f"{step:,}" for step in steps if step < math.inf]:
                ends.append(f"{net.label} {' to '.join(dict.fromkeys((ended[0], ended[-1])))}")
            late |= bool(net.config.train.milestones) and steps[-1] > net.config.train.final_from
    if not (ends or endless):
        return []
    found = ["The warm-up ends by each net's own error, so the schedules differ."]
    if ends:
        found[0] += f" It had ended by step: {listed(ends)}."
    if endless:
        found.append(f"It never ended, so that its rate trained them throughout: {listed(endless)}.")
    return [
        *found,
        *late * ["A warm-up that outlasts the last drop of the rate is part of the running training error."],
    ]


def _parameters(plain: Family, residual: Family) -> list[str]:
    """Where plain and residual nets of a depth are not equal in parameters, as with projections."""
    counts = {net.depth: net.parameters for net in plain.nets}
    more = {net.depth: net.parameters / counts[net.depth] - 1 for net in residual.nets if net.depth in counts}
    if not any(more.values()):
        return []
    shares = listed([f"{share:+.1%} at depth {depth}" for depth, share in more.items()])
    return [f"Residual nets have other numbers of parameters: {shares}."]


def _claim(
    kinds: Sequence[Family], interaction: Difference | None, ends: tuple[int, ...] | None, allowed: _Allowed | None
) -> str:
    """What the intervals of the rises and of their difference, taken from one end to the other, allow to say."""
    of_kinds = {family.kind: _direction(family, family.rise, allowed) for family in kinds if family.rise}
    if not (interaction and ends):
        return f"{kinds[0].kind.capitalize()} nets {of_kinds[kinds[0].kind]}"
    whole = {family.kind: (family.rise.shallowest, family.rise.deepest) for family in kinds if family.rise}
    elsewhere = set(whole.values()) != {ends}
    where = {kind: f" ({a} to {b} layers)" if elsewhere else "" for kind, (a, b) in whole.items()}
    if len(set(of_kinds.values())) == 1 and not elsewhere:
        directions = f"both kinds {of_kinds['plain']}"
    else:
        directions = "; ".join(f"{kind} nets{where[kind]} {of}" for kind, of in of_kinds.items())
    if not interaction.sign:
        depths = f" from {ends[0]} to {ends[1]} layers" if elsewhere else ""
        return (
            f"No difference between the rises of plain and residual nets{depths} is shown ({interaction.range}): "
            f"{directions}"
        )
    more, less = ("plain", "residual") if interaction.sign > 0 else ("residual", "plain")
    size = f"{interaction if interaction.sign > 0 else -interaction}".removeprefix("+")
    both_fall = all(family.rise.overall.value < 0 for family in kinds if family.rise)
    change = f"falls by {size} less" if both_fall else f"rises by {size} more"
    claim = f"the training error {change} in {more} nets than in {less} nets: {directions}"
    return f"From {ends[0]} to {ends[1]} layers, {claim}"


def _direction(family: Family, found: Rise, allowed: _Allowed | None) -> str:
    """What the interval of their rise allows to say of nets."""
    if all(net.guesses for net in family.nets):
        return "only guess, at every depth"
    if not family.nets[-1].guesses and rises_less(family.errors, allowed.limit if allowed else 0.0):
        below = f"do not degrade (any rise is below {allowed.words})" if allowed else ""
        return "gain from depth" if found.overall.sign < 0 else below
    if found.overall.sign > 0:
        return "degrade"
    if found.from_best.sign > 0:
        return f"degrade from depth {found.best} on"
    if found.overall.sign < 0:
        return "have a lower error at the deepest than at the shallowest depth"
    if found.depths > 2 and found.from_best.range:
        return f"are not shown to rise from their best depth ({found.from_best.range})"
    return f"are not shown to rise ({found.overall.range})"


def _described(kinds: Sequence[Family]) -> str:
    """The change of each kind, without a claim."""
    rises = {family.kind: family.rise for family in kinds if family.rise}
    depths = {kind: f"from depth {rise.shallowest} to {rise.deepest}" for kind, rise in rises.items()}
    changes = {kind: f"by {signed(rise.overall.value)} points in {kind} nets" for kind, rise in rises.items()}
    if len(set(depths.values())) == 1:
        text = f"{depths[kinds[0].kind]} the training error changes {' and '.join(changes.values())}"
    else:
        text = f"the training error changes {' and '.join(f'{changes[kind]} {depths[kind]}' for kind in rises)}"
    trend = f" ({kinds[0].kind} trend: {kinds[0].trend})" if kinds[0].trend else ""
    return f"{text}{trend}"


def _so_far(headline: str, missing: Sequence[str]) -> str:
    return f"So far: {headline[0].lower()}{headline[1:]}" if missing else headline


def _points(margin: float) -> str:
    """A margin in words: ``5.0 points``, ``0.25 points``."""
    return f"{margin:.1f} points" if margin >= 1 or math.isclose(margin, round(margin, 1)) else f"{margin:.2g} points"
