"""The verdict: does training error rise with depth by more than seed noise, and do shortcuts reverse that?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from resexp.report.estimates import Difference, Estimate, Trend, difference, trend
from resexp.report.stats import Net, running_by_depth
from resexp.report.words import MOST, listed


@dataclass(frozen=True)
class Verdict:
    """What the study shows, in words with their numbers."""

    headline: str
    sentences: list[str] = field(default_factory=list)
    families: list[str] = field(default_factory=list)
    """The families judged: one of plain nets, and one of residual nets where there is one to set beside it."""
    plain: Difference | None = None
    """Running training error, deepest plain net minus shallowest."""
    residual: Difference | None = None
    """The same for the residual nets of those depths."""
    gap: Difference | None = None
    """Plain minus residual at the deepest depth that both have."""
    plain_trend: Trend | None = None
    """Whether the running training error rises over all depths of the plain nets; None for fewer than three depths."""
    residual_trend: Trend | None = None
    """The same for the residual nets."""


def judge(nets: Sequence[Net], missing: Sequence[str] = (), remarks: Sequence[str] = ()) -> Verdict:
    """Does training error rise with depth for plain nets by more than seed noise, and do shortcuts reverse that?

    The deepest plain net against the shallowest, the residual nets of the same two depths, and plain against residual
    at the deepest: differences of mean running training errors with a 95 % interval by Welch's t test over seeds. Plain
    nets are only said to degrade where the trend over all depths agrees, so that no one pair of depths decides. Of a
    kind with several variants one is judged (see `judged`). `missing` are the runs that could not be, `remarks` what
    must be known of those that were.
    """
    families = judged(nets)
    if not families:
        return Verdict("No verdict: it takes finished plain nets of at least two depths, alike but for that.")
    running = running_by_depth(nets)
    plain_nets = running[families[0]]
    residual_nets = running[families[1]] if len(families) > 1 else {}
    low, high = min(plain_nets), max(plain_nets)
    plain, plain_trend = difference(plain_nets[high], plain_nets[low]), _trend(plain_nets)
    sentences = [_rise("Plain", plain_nets, low, high, plain), *_trend_sentence("Plain", plain_trend)]
    residual = gap = None
    residual_trend = _trend(residual_nets)
    if low in residual_nets and high in residual_nets:
        residual = difference(residual_nets[high], residual_nets[low])
        gap = difference(plain_nets[high], residual_nets[high])
        sentences.append(_rise("Residual", residual_nets, low, high, residual))
    sentences += _trend_sentence("Residual", residual_trend)
    if gap is not None:
        sentences.append(f"At depth {high}, plain minus residual: {gap}.")
    others = [family for family in dict.fromkeys(net.family for net in nets) if family not in families]
    if others:
        sentences.append(f"Judged: {' and '.join(families)}. No part of the verdict: {listed(others)}.")
    headline = _headline(plain, residual, gap, plain_trend, residual_trend)
    if missing:
        headline = f"So far: {headline[0].lower()}{headline[1:]}"
        sentences.append(f"Not counted, since not finished: {listed(missing, 6)}.")
    sentences += remarks[:MOST]
    if remarks[MOST:]:
        sentences.append(f"So much must be known of {len(remarks) - MOST:,} more; `resexp status --json` says it.")
    return Verdict(headline, sentences, families, plain, residual, gap, plain_trend, residual_trend)


def judged(nets: Sequence[Net]) -> list[str]:
    """The plain family that is judged and, behind it, the residual one beside it; empty without a plain one.

    Plain: the nets without a variant, else the variant that the study names first, of those with two depths or more.
    Residual: the nets of the same variant, else those without one, else those with the paper's shortcut A, else the
    only ones there are.
    """
    families = list(dict.fromkeys(net.family for net in nets))
    running = running_by_depth(nets)
    plains = [f for f in families if f.startswith("plain") and len(running[f]) > 1]
    residuals = [f for f in families if f.startswith("residual")]
    if not plains:
        return []
    plain = "plain" if "plain" in plains else plains[0]
    beside = (plain.replace("plain", "residual", 1), "residual", "residual shortcutA")
    chosen = [family for family in beside if family in residuals] or (residuals if len(residuals) == 1 else [])
    return [plain, *chosen[:1]]


def _trend(nets: dict[int, Estimate]) -> Trend | None:
    return trend({depth: error.values for depth, error in nets.items()})


def _rise(kind: str, nets: dict[int, Estimate], low: int, high: int, change: Difference) -> str:
    a, b = nets[low], nets[high]
    seeds = f"{len(a.values)} and {len(b.values)} seeds"
    errors = f"{a.mean:.1f} % at depth {low}, {b.mean:.1f} % at depth {high}"
    return f"{kind} nets: training error {errors}: {change}, {seeds}."


def _trend_sentence(kind: str, found: Trend | None) -> list[str]:
    if found is None:
        return []
    depths = f"{', '.join(map(str, found.depths[:-1]))} and {found.depths[-1]}"
    pairs = f"the deeper has the higher error in {found.statistic} of {found.pairs} pairs of runs"
    return [f"{kind} nets, trend over depths {depths}: {pairs}, {found} (Jonckheere-Terpstra, one-sided)."]


def _headline(
    plain: Difference,
    residual: Difference | None,
    gap: Difference | None,
    plain_trend: Trend | None,
    residual_trend: Trend | None,
) -> str:
    if plain.low is None:
        direction = "rises" if plain.value > 0 else "does not rise"
        over_all = f" (trend: {plain_trend})" if plain_trend else ""
        return f"One seed, descriptive only: the plain nets' training error {direction} with depth{over_all}."
    if plain_trend and plain_trend.rises != (plain.sign > 0):
        return f"Inconclusive: {_disagreement('plain', plain, plain_trend)}."
    if plain.sign == 0:
        return "Inconclusive: the plain nets' training error does not change with depth by more than seed noise."
    if plain.sign < 0:
        return "No degradation: the deepest plain net has a lower training error than the shallowest."
    if residual is None or gap is None:
        return "Plain nets degrade with depth; no one family of residual nets has finished at the same depths."
    if residual.low is None or gap.low is None:
        return "Plain nets degrade with depth; for residual nets of the same depths there are not seeds enough to say."
    if residual_trend and residual_trend.rises and residual.sign <= 0:
        why = _disagreement("residual", residual, residual_trend)
        return f"Plain nets degrade with depth; for residual nets it is inconclusive: {why}."
    if residual.sign < 0:
        return "Plain nets degrade with depth; residual nets gain from it."
    if gap.sign < 0:
        return "Plain nets degrade with depth; residual nets are worse still."
    if gap.sign == 0:
        return "Plain nets degrade with depth; whether shortcuts prevent it is inconclusive."
    if residual.sign == 0:
        return "Plain nets degrade with depth; residual nets do not, within seed noise."
    if residual.value >= plain.value:
        return "Plain nets degrade with depth, and residual nets no less, from a lower level."
    share = 100 * (1 - residual.value / plain.value)
    return f"Plain nets degrade with depth; shortcuts take away {share:.0f} % of it."


def _disagreement(kind: str, change: Difference, over_all: Trend) -> str:
    trend_says = "rises" if over_all.rises else "is not shown to rise"
    pair_says = {1: "above", 0: "not above", -1: "below"}[change.sign]
    return (
        f"the {kind} nets' training error {trend_says} over all depths ({over_all}), but the deepest is {pair_says} "
        "the shallowest by more than seed noise"
    )
