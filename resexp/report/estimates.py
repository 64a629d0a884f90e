"""Means, differences and trends over seeds, with confidence intervals and p values."""

from __future__ import annotations

import math
import statistics
from bisect import bisect_left
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations

from scipy import special, stats

CONFIDENCE = 0.95
"""Confidence level of all intervals."""
MIN_SEEDS = 3
"""Smallest number of seeds for the interval of a mean."""


def t_critical(freedom: float, confidence: float) -> float:
    """The two-sided quantile of Student's t; degrees of freedom may be fractional."""
    return float(stats.t.ppf((1 + confidence) / 2, freedom))


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, in percent."""

    values: tuple[float, ...]
    runs: tuple[Hashable, ...] = ()
    """The run of each value, where other means may be of the same runs."""

    @cached_property
    def mean(self) -> float:
        """The mean."""
        return statistics.fmean(self.values)

    @cached_property
    def std(self) -> float | None:
        """The standard deviation over seeds; None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval by Student's t of the logits, so it lies within 0 and 100 %.

        None for fewer than MIN_SEEDS seeds, and where a value is 0 or 100 %, which has no logit.
        """
        if len(self.values) < MIN_SEEDS or not all(0 < value < 100 for value in self.values):
            return None
        logits = [float(special.logit(value / 100)) for value in self.values]
        half = t_critical(len(logits) - 1, CONFIDENCE) * statistics.stdev(logits) / math.sqrt(len(logits))
        middle = statistics.fmean(logits)
        return 100 * float(special.expit(middle - half)), 100 * float(special.expit(middle + half))

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"


@dataclass(frozen=True)
class Difference:
    """A difference between means, in points, with its 95 % interval where there are seeds enough."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def sign(self) -> int:
        """+1 or -1 where the interval leaves zero out, else 0."""
        if self.low is None or self.high is None:
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    @property
    def range(self) -> str:
        """The interval in words."""
        if self.low is None or self.high is None:
            return ""
        return f"between {signed(self.low)} and {signed(self.high)} points"

    @property
    def brackets(self) -> str:
        """The interval in points: ``[+1.0, +2.5]``, or nothing."""
        return "" if self.low is None or self.high is None else f"[{signed(self.low)}, {signed(self.high)}]"

    @property
    def in_cell(self) -> str:
        """``+1.7 [+1.0, +2.5]``, for a table whose header says that these are points."""
        return f"{signed(self.value)} {self.brackets}".rstrip()

    def __truediv__(self, by: float) -> Difference:
        if self.low is None or self.high is None:
            return Difference(self.value / by)
        return Difference(self.value / by, *sorted((self.low / by, self.high / by)))

    def __str__(self) -> str:
        return f"{signed(self.value)} points {self.brackets}".rstrip()


def signed(points: float) -> str:
    """A difference, or an end of its interval, to a tenth. Closer to zero to its first digit, as its sign counts:
    ``-0.04``."""
    return f"{points:+.1g}" if 0.001 <= abs(points) < 0.05 else f"{points:+z.1f}"


Term = tuple[float, Estimate]
"""A mean and what it is multiplied by."""


def contrast(terms: Sequence[Term], confidence: float = CONFIDENCE) -> Difference:
    """A weighted sum of means with the interval of Welch (1947) and Satterthwaite (1946).

    For two means it is Welch's t interval. Runs are independent; a run that occurs in several means counts once. No
    interval where a sample has one run. The ends are cut where no percentages could give more.
    """
    value, samples = math.fsum(weight * mean.mean for weight, mean in terms), _samples(terms)
    if any(len(sample) == 1 for sample in samples):
        return Difference(value)
    error, freedom = _welch(samples)
    half = t_critical(freedom, confidence) * error if error else 0.0
    weights = [weight for sample in samples for weight, _ in sample.values()]
    most = 100 * math.fsum(weight for weight in weights if weight > 0)
    least = 100 * math.fsum(weight for weight in weights if weight < 0)
    return Difference(value, max(value - half, least), min(value + half, most))


def p_value(terms: Sequence[Term]) -> float | None:
    """Two-sided p of Welch's t test that a weighted sum of means is zero; see `contrast`.

    None if a sample has one run, or where none has any spread.
    """
    samples = _samples(terms)
    if any(len(sample) == 1 for sample in samples):
        return None
    error, freedom = _welch(samples)
    if not error:
        return None
    return 2 * float(stats.t.sf(abs(math.fsum(weight * mean.mean for weight, mean in terms)) / error, freedom))


Sample = dict[Hashable, tuple[float, float]]
"""Runs of one net, each with its weight in a sum and its value."""


def _samples(terms: Sequence[Term]) -> list[Sample]:
    """The runs of the terms, each once. Means that share runs are of one net, and make one sample.

    Samples whose weights are all zero are left out.
    """
    samples: list[Sample] = []
    for weight, mean in terms:
        runs = mean.runs or [(id(mean), number) for number in range(len(mean.values))]
        sample: Sample = {run: (weight / len(runs), v) for run, v in zip(runs, mean.values, strict=True)}
        for other in [other for other in samples if other.keys() & sample.keys()]:
            samples.remove(other)
            sample |= {run: (w + sample.get(run, (0.0, v))[0], v) for run, (w, v) in other.items()}
        samples.append(sample)
    return [sample for sample in samples if any(weight for weight, _ in sample.values())]


def _welch(samples: Sequence[Sample]) -> tuple[float, float]:
    """Standard error of a sum of samples, and its degrees of freedom; zeros where no sample has any spread."""
    parts = [
        (statistics.variance(v for _, v in sample.values()) * math.fsum(w**2 for w, _ in sample.values()), len(sample))
        for sample in samples
    ]
    variance = math.fsum(part for part, _ in parts)
    squares = math.fsum(part**2 / (runs - 1) for part, runs in parts)
    return (math.sqrt(variance), variance**2 / squares) if squares > 0 else (0.0, 0.0)


def interaction_terms(plain: tuple[Estimate, Estimate], residual: tuple[Estimate, Estimate]) -> list[Term]:
    """The rise of plain nets minus that of residual nets, for `contrast`; each kind's shallow net comes first."""
    return [(1, plain[1]), (-1, plain[0]), (-1, residual[1]), (1, residual[0])]


def difference(a: Estimate, b: Estimate, confidence: float = CONFIDENCE) -> Difference:
    """a - b with Welch's interval."""
    return contrast([(1, a), (-1, b)], confidence)


@dataclass(frozen=True)
class Rise:
    """How much the error of a family of nets rises to its deepest net."""

    shallowest: int
    best: int
    """The shallower depth with the lowest error."""
    deepest: int
    overall: Difference
    """Deepest minus shallowest."""
    from_best: Difference
    """Deepest minus best, with an interval that allows for the choice of the best."""
    depths: int
    """How many there are."""

    def __truediv__(self, by: float) -> Rise:
        return replace(self, overall=self.overall / by, from_best=self.from_best / by)

    def under(self, margin: float) -> bool:
        """Whether the upper end of the interval of `from_best`, which covers all shallower depths, is below `margin`
        points."""
        return self.from_best.high is not None and self.from_best.high < margin


def rise(by_depth: Mapping[int, Estimate]) -> Rise:
    """The rise of a family's error to its deepest net, from the shallowest and from the best; of two depths or more.

    The interval of the rise from the best holds whichever depth is truly the best. Its lower end is the highest lower
    end of the deepest net's differences from all others, corrected for their number (Bonferroni). Its upper end is the
    highest upper end, which needs no correction: all differences must lie under it at once.
    """
    shallowest, *_, deepest = depths = sorted(by_depth)
    others = depths[:-1]
    best = min(others, key=lambda depth: by_depth[depth].mean)
    corrected = 1 - (1 - CONFIDENCE) / len(others)
    wide = [difference(by_depth[deepest], by_depth[depth], corrected).low for depth in others]
    plain = [difference(by_depth[deepest], by_depth[depth]).high for depth in others]
    lows, highs = [low for low in wide if low is not None], [high for high in plain if high is not None]
    from_best = Difference(by_depth[deepest].mean - by_depth[best].mean)
    if len(lows) == len(highs) == len(others):
        from_best = replace(from_best, low=max(lows), high=max(highs))
    overall = difference(by_depth[deepest], by_depth[shallowest])
    return Rise(shallowest, best, deepest, overall, from_best, len(depths))


EXACT_PAIRS = 5000
"""Pairs of runs up to which a trend's p counts arrangements; of more, the normal distribution is as near as matters."""


@dataclass(frozen=True)
class Trend:
    """Does a quantity rise with depth? The Jonckheere-Terpstra test, one-sided."""

    depths: tuple[int, ...]
    """The depths over which it rises most clearly."""
    statistic: int
    """Pairs of runs of different depth in which the deeper one has the higher value."""
    pairs: int
    """Pairs of runs of different depth."""
    p: float
    """One-sided p value: the share of permutations with at least `statistic` rising pairs (normal approximation above
    EXACT_PAIRS), times `choices` (Bonferroni)."""
    choices: int = 1
    """Depths from which the trend might have been taken."""

    def __str__(self) -> str:
        return f"p {f'= {self.p:.3f}' if self.p >= 0.001 else '< 0.001'}"


def trend(by_depth: Mapping[int, Sequence[float]]) -> Trend | None:
    """The Jonckheere-Terpstra test of "the values rise with depth" over the values of each depth, one a seed.

    An error that first falls with depth and then rises has its trend from the depth on where it is clearest; p is
    corrected for the number of depths to choose from (Bonferroni). None for fewer than three depths.
    """
    depths = tuple(sorted(by_depth))
    tails = [_trend({depth: by_depth[depth] for depth in depths[first:]}) for first in range(len(depths) - 2)]
    if not tails:
        return None
    clearest = min(tails, key=lambda tail: tail.p)
    return replace(clearest, p=min(1.0, len(tails) * clearest.p), choices=len(tails))


def _trend(by_depth: Mapping[int, Sequence[float]]) -> Trend:
    """The test over these depths.

    Up to EXACT_PAIRS pairs the p value counts every arrangement of the values and draws none at random, so one seed a
    depth will do; of more it is the normal approximation. The same values always give the same p. Two equal values
    count as no rise: that can make p larger, never smaller.
    """
    groups = [sorted(values) for values in by_depth.values()]
    sizes = [len(group) for group in groups]
    statistic = sum(bisect_left(below, y) for below, above in combinations(groups, 2) for y in above)
    pairs = sum(m * n for m, n in combinations(sizes, 2))
    if pairs <= EXACT_PAIRS:
        counts = _arrangements(sizes, pairs)
        return Trend(tuple(by_depth), statistic, pairs, sum(counts[statistic:]) / sum(counts))
    total = sum(sizes)
    variance = (total**2 * (2 * total + 3) - sum(n**2 * (2 * n + 3) for n in sizes)) / 72
    chance = statistics.NormalDist(pairs / 2, math.sqrt(variance))
    return Trend(tuple(by_depth), statistic, pairs, 1 - chance.cdf(statistic - 0.5))


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
