"""The verdict: does training error rise with depth by more than seed noise, and do shortcuts reverse that?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from resexp.report.stats import Estimate, Net


@dataclass(frozen=True)
class Difference:
    """A difference of two means, in points, with its 95 % interval by Welch's t test where there are seeds enough."""

    value: float
    low: float | None
    high: float | None

    @property
    def sign(self) -> int:
        """+1 or -1 where the interval leaves zero out, else 0."""
        if self.low is None or self.high is None:
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    def __str__(self) -> str:
        points = f"{self.value:+.1f} points"
        return points if self.low is None else f"{points} [{self.low:+.1f}, {self.high:+.1f}]"


# Two-sided 95 % quantiles of Student's t by degrees of freedom; between two, the smaller (wider interval) is taken.
_T95 = {
    1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228,
    12: 2.179, 15: 2.131, 20: 2.086, 30: 2.042, 60: 2.000, 120: 1.980,
}  # fmt: skip


def difference(a: Estimate, b: Estimate) -> Difference:
    """a - b with Welch's interval; none with fewer than two seeds on a side."""
    value = a.mean - b.mean
    if a.std is None or b.std is None:
        return Difference(value, None, None)
    (m, n), (var_a, var_b) = (len(a.values), len(b.values)), (a.std**2 / len(a.values), b.std**2 / len(b.values))
    squares = var_a**2 / (m - 1) + var_b**2 / (n - 1)
    freedom = (var_a + var_b) ** 2 / squares if squares > 0 else m + n - 2
    t = _T95[max(df for df in _T95 if df <= max(freedom, 1))]
    half = t * math.sqrt(var_a + var_b)
    return Difference(value, value - half, value + half)


@dataclass(frozen=True)
class Verdict:
    """What the study shows, in words with their numbers."""

    headline: str
    sentences: list[str] = field(default_factory=list)
    plain: Difference | None = None
    """Running training error, deepest plain net minus shallowest."""
    residual: Difference | None = None
    """The same for the residual nets of those depths."""
    gap: Difference | None = None
    """Plain minus residual at the deepest depth that both have."""


def judge(nets: Sequence[Net], missing: Sequence[str] = (), remarks: Sequence[str] = ()) -> Verdict:
    """Does training error rise with depth for plain nets by more than seed noise, and do shortcuts reverse that?

    The deepest plain net against the shallowest, the residual nets of the same two depths, and plain against residual
    at the deepest. Each is a difference of mean running training errors with a 95 % interval by Welch's t test over
    seeds. Of a kind with several variants, the nets without one are judged, or those with shortcut A. `missing` are the
    runs that could not be, `remarks` what must be known of those that were.
    """
    plain_nets, residual_nets = _of_kind("plain", nets), _of_kind("residual", nets)
    if len(plain_nets) < 2:
        return Verdict("No verdict: it takes finished plain nets of at least two depths, alike but for that.")
    low, high = min(plain_nets), max(plain_nets)
    plain = difference(plain_nets[high], plain_nets[low])
    sentences = [_rise("Plain", plain_nets, low, high, plain)]
    residual = gap = None
    if low in residual_nets and high in residual_nets:
        residual = difference(residual_nets[high], residual_nets[low])
        sentences.append(_rise("Residual", residual_nets, low, high, residual))
        gap = difference(plain_nets[high], residual_nets[high])
        sentences.append(f"At depth {high}, plain minus residual: {gap}.")
    headline = _headline(plain, residual, gap)
    if missing:
        headline = f"So far: {headline[0].lower()}{headline[1:]}"
        shown = ", ".join(missing[:6]) + (f" and {len(missing) - 6} more" if len(missing) > 6 else "")
        sentences.append(f"Not counted, since not finished: {shown}.")
    return Verdict(headline, [*sentences, *remarks], plain, residual, gap)


def _of_kind(kind: str, nets: Sequence[Net]) -> dict[int, Estimate]:
    """By depth, the running training error of the nets of a kind that differ in depth alone."""
    families = dict.fromkeys(net.family for net in nets if net.family.partition(" ")[0] == kind)
    family = next(iter(families)) if len(families) == 1 else kind
    if family not in families:
        family = f"{kind} shortcutA"  # the paper's choice on CIFAR
    return {net.depth: net.errors["running"] for net in nets if net.family == family}


def _rise(kind: str, nets: dict[int, Estimate], low: int, high: int, change: Difference) -> str:
    a, b = nets[low], nets[high]
    seeds = f"{len(a.values)} and {len(b.values)} seeds"
    errors = f"{a.mean:.1f} % at depth {low}, {b.mean:.1f} % at depth {high}"
    return f"{kind} nets: training error {errors}: {change}, {seeds}."


def _headline(plain: Difference, residual: Difference | None, gap: Difference | None) -> str:
    if plain.low is None:
        direction = "rises" if plain.value > 0 else "does not rise"
        return f"One seed, descriptive only: the plain nets' training error {direction} with depth."
    if plain.sign == 0:
        return "Inconclusive: the plain nets' training error does not change with depth by more than seed noise."
    if plain.sign < 0:
        return "No degradation: the deepest plain net has a lower training error than the shallowest."
    if residual is None or gap is None:
        return "Plain nets degrade with depth; no one family of residual nets has finished at the same depths."
    if residual.low is None or gap.low is None:
        return "Plain nets degrade with depth; for residual nets of the same depths there are not seeds enough to say."
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
