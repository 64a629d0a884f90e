"""Means, differences and trends over seeds, each with what chance alone could do to it."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations

# Two-sided 95 % quantiles of Student's t by degrees of freedom; between two, the smaller (wider interval) is taken.
_T95 = {
    1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228,
    12: 2.179, 15: 2.131, 20: 2.086, 30: 2.042, 60: 2.000, 120: 1.980,
}  # fmt: skip


def _t95(freedom: float) -> float:
    return _T95[max(df for df in _T95 if df <= max(freedom, 1))]


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, in percent."""

    values: tuple[float, ...]

    @cached_property
    def mean(self) -> float:
        """The mean."""
        return statistics.fmean(self.values)

    @cached_property
    def std(self) -> float | None:
        """The standard deviation over seeds; None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval of the mean by Student's t; None for one seed."""
        if self.std is None:
            return None
        half = _t95(len(self.values) - 1) * self.std / math.sqrt(len(self.values))
        return self.mean - half, self.mean + half

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"


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

    def overlaps(self, other: Difference) -> bool | None:
        """Whether the two intervals have a point in common; None where one of them has no interval."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return None
        return self.low <= other.high and other.low <= self.high

    def __str__(self) -> str:
        points = f"{self.value:+.1f} points"
        return points if self.low is None else f"{points} [{self.low:+.1f}, {self.high:+.1f}]"


def difference(a: Estimate, b: Estimate) -> Difference:
    """a - b with Welch's interval; none with fewer than two seeds on a side."""
    value = a.mean - b.mean
    if a.std is None or b.std is None:
        return Difference(value, None, None)
    (m, n), (var_a, var_b) = (len(a.values), len(b.values)), (a.std**2 / len(a.values), b.std**2 / len(b.values))
    squares = var_a**2 / (m - 1) + var_b**2 / (n - 1)
    freedom = (var_a + var_b) ** 2 / squares if squares > 0 else m + n - 2
    half = _t95(freedom) * math.sqrt(var_a + var_b)
    return Difference(value, value - half, value + half)


EXACT_PAIRS = 5000
"""Pairs of runs up to which a trend's p counts arrangements; of more, the normal distribution is as near as matters."""


@dataclass(frozen=True)
class Trend:
    """Does a quantity rise with depth? The Jonckheere-Terpstra test, one-sided."""

    depths: tuple[int, ...]
    statistic: int
    """Pairs of runs of different depth in which the deeper one has the higher value."""
    pairs: int
    """Pairs of runs of different depth."""
    p: float
    """The share of all ways to deal the values out to the runs that have as many such pairs, or more."""

    @property
    def rises(self) -> bool:
        """Whether p < 0.05."""
        return self.p < 0.05

    def __str__(self) -> str:
        return f"p {f'= {self.p:.3f}' if self.p >= 0.001 else '< 0.001'}"


def trend(by_depth: Mapping[int, Sequence[float]]) -> Trend | None:
    """The Jonckheere-Terpstra test of "the values rise with depth" over the values of each depth, one a seed.

    None for fewer than three depths. Up to EXACT_PAIRS pairs the p value counts every arrangement of the values and
    draws none at random, so one seed a depth will do; of more it is the normal approximation. The same values always
    give the same p. Two equal values count as no rise: that can make p larger, never smaller.
    """
    depths = tuple(sorted(by_depth))
    if len(depths) < 3:
        return None
    groups = [sorted(by_depth[depth]) for depth in depths]
    sizes = [len(group) for group in groups]
    statistic = sum(bisect_left(below, y) for below, above in combinations(groups, 2) for y in above)
    pairs = sum(m * n for m, n in combinations(sizes, 2))
    if pairs <= EXACT_PAIRS:
        counts = _arrangements(sizes, pairs)
        return Trend(depths, statistic, pairs, sum(counts[statistic:]) / sum(counts))
    total = sum(sizes)
    variance = (total**2 * (2 * total + 3) - sum(n**2 * (2 * n + 3) for n in sizes)) / 72
    chance = statistics.NormalDist(pairs / 2, math.sqrt(variance))
    return Trend(depths, statistic, pairs, 1 - chance.cdf(statistic - 0.5))


def _arrangements(sizes: Sequence[int], pairs: int) -> list[int]:
    """How many arrangements of distinct values in groups of these sizes have 0, 1, ... `pairs` rising pairs.

    They are the coefficients of the q-multinomial: the product of (1 - q^i) for i up to the number of values, divided
    by the same product for each group.
    """
    counts = [1] + [0] * pairs
    for i in range(1, sum(sizes) + 1):
        for k in range(pairs, i - 1, -1):
            counts[k] -= counts[k - i]
    for size in sizes:
        for i in range(1, size + 1):
            for k in range(i, pairs + 1):
                counts[k] += counts[k - i]
    return counts
