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
"""Smallest number of seeds for the interval of a mean, and for a difference from a mean of more seeds."""


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
        """Percent."""
        return statistics.fmean(self.values)

    @cached_property
    def std(self) -> float | None:
        """The standard deviation over seeds; None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @cached_property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % interval by Student's t of the logits, so it lies within 0 and 100 %; None for fewer than MIN_SEEDS
        seeds, and where a value is 0 or 100 %, which has no logit."""
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
        """+1 or -1 where the interval does not contain zero, else 0."""
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

    def __neg__(self) -> Difference:
        return Difference(-self.value, *(None if end is None else -end for end in (self.high, self.low)))

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
    interval where a sample has one run, or two and another sample more: it would be too narrow. None without any
    spread either. The ends are cut where no percentages could give more.
    """
    value, samples = math.fsum(weight * mean.mean for weight, mean in terms), _samples(terms)
    sizes = {len(sample) for sample in samples}
    if not sizes:  # both sides are of the same runs
        return Difference(value, value, value)
    error, freedom = (0.0, 0.0) if min(sizes) == 1 else _welch(samples)
    if not error or (min(sizes) < MIN_SEEDS and len(sizes) > 1):
        return Difference(value)
    half = t_critical(freedom, confidence) * error
    weights = [weight for sample in samples for weight, _ in sample.values()]
    most = 100 * math.fsum(weight for weight in weights if weight > 0)
    least = 100 * math.fsum(weight for weight in weights if weight < 0)
    return Difference(value, max(value - half, least), min(value + half, most))


def why_no_interval(terms: Sequence[Term]) -> str:
    """Why a sum of means has no interval, for the beginning of a sentence."""
    sizes = [len(sample) for sample in _samples(terms)]
    if max(sizes) == 1:
        return "One seed"
    return "Too few seeds" if min(sizes) < MIN_SEEDS else "No spread over seeds"


def shown_p(p: float) -> str:
    """``= 0.012`` or ``< 0.001``."""
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"


def p_value(terms: Sequence[Term]) -> float | None:
    """Two-sided p of Welch's t test that a sum is zero; None if a sample has one run, or none has any spread."""
    samples = _samples(terms)
    error, freedom = (0.0, 0.0) if any(len(sample) == 1 for sample in samples) else _welch(samples)
    value = math.fsum(weight * mean.mean for weight, mean in terms)
    return 2 * float(stats.t.sf(abs(value) / error, freedom)) if error else None


Sample = dict[Hashable, tuple[float, float]]
"""Runs of one net, each with its weight in a sum and its value."""


def _samples(terms: Sequence[Term]) -> list[Sample]:
    """The runs of the terms, each once; means that share runs are one sample. Samples without weight are left out."""
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
    parts = []
    for sample in samples:
        weights, values = zip(*sample.values(), strict=True)
        parts.append(statistics.variance(values) * math.fsum(weight**2 for weight in weights))
    variance = math.fsum(parts)
    squares = math.fsum(part**2 / (len(sample) - 1) for part, sample in zip(parts, samples, strict=True))
    return (math.sqrt(variance), variance**2 / squares) if squares > 0 else (0.0, 0.0)


def minus(a: Sequence[Term], b: Sequence[Term]) -> tuple[Term, ...]:
    """The terms of the sum `a` minus the sum `b`."""
    return *a, *((-weight, mean) for weight, mean in b)


def rise_terms(by_depth: Mapping[int, Estimate]) -> tuple[Term, ...]:
    """The deepest minus the shallowest, for `contrast`."""
    return (1, by_depth[max(by_depth)]), (-1, by_depth[min(by_depth)])


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


def rise(by_depth: Mapping[int, Estimate]) -> Rise:
    """The rise of a family's error to its deepest net, from the shallowest and from the best; of two depths or more.

    The interval of the rise from the best is valid whichever depth is best. Its lower end is the highest lower
    end of the deepest net's differences from all others, corrected for their number (Bonferroni). Its upper end is the
    highest upper end, which needs no correction: all differences must lie under it at once.
    """
    *others, deepest = sorted(by_depth)
    best = min(others, key=lambda depth: by_depth[depth].mean)
    corrected = 1 - (1 - CONFIDENCE) / len(others)
    wide = [difference(by_depth[deepest], by_depth[depth], corrected).low for depth in others]
    plain = [difference(by_depth[deepest], by_depth[depth]).high for depth in others]
    lows, highs = [low for low in wide if low is not None], [high for high in plain if high is not None]
    from_best = Difference(by_depth[deepest].mean - by_depth[best].mean)
    if len(lows) == len(highs) == len(others):
        from_best = replace(from_best, low=max(lows), high=max(highs))
    overall = difference(by_depth[deepest], by_depth[others[0]])
    return Rise(others[0], best, deepest, overall, from_best, len(by_depth))


def rises_less(by_depth: Mapping[int, Estimate], limit: float | Sequence[Term]) -> bool:
    """Whether the rise to the deepest net, from each shallower depth, is shown to be below `limit`: points, or a sum of
    means, whose own noise then counts."""
    *others, deepest = sorted(by_depth)
    points, terms = (limit, ()) if isinstance(limit, float) else (0.0, limit)
    ends = [contrast(minus(((1, by_depth[deepest]), (-1, by_depth[depth])), terms)).high for depth in others]
    return all(end is not None and end < points for end in ends)


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
    """All of them."""
    p: float
    """One-sided: the share of permutations with at least `statistic` rising pairs, times `choices` (Bonferroni)."""
    choices: int
    """Depths from which the trend might have been taken."""

    def __str__(self) -> str:
        return f"p {shown_p(self.p)}"


def trend(by_depth: Mapping[int, Sequence[float]]) -> Trend | None:
    """The Jonckheere-Terpstra test of "the values rise with depth" over the values of each depth, one a seed.

    An error that first falls with depth and then rises has its trend from the depth on where it is clearest; p is
    corrected for the number of depths to choose from (Bonferroni). None for fewer than three depths. Two equal values
    count as no rise: that can make p larger, never smaller.
    """
    depths = tuple(sorted(by_depth))
    choices = len(depths) - 2
    tails = []
    for first in range(choices):
        groups = [sorted(by_depth[depth]) for depth in depths[first:]]
        statistic = sum(bisect_left(below, y) for below, above in combinations(groups, 2) for y in above)
        sizes = [len(group) for group in groups]
        pairs = sum(m * n for m, n in combinations(sizes, 2))
        tails.append(Trend(depths[first:], statistic, pairs, choices * _share(statistic, sizes, pairs), choices))
    clearest = min(tails, key=lambda tail: tail.p, default=None)
    return clearest and replace(clearest, p=min(1.0, clearest.p))


def _share(statistic: int, sizes: Sequence[int], pairs: int) -> float:
    """The share of all arrangements of values in groups of these sizes that have at least `statistic` rising pairs."""
    if pairs <= EXACT_PAIRS:
        counts = _arrangements(sizes, pairs)
        return sum(counts[statistic:]) / sum(counts)
    total = sum(sizes)
    variance = (total**2 * (2 * total + 3) - sum(n**2 * (2 * n + 3) for n in sizes)) / 72
    return 1 - statistics.NormalDist(pairs / 2, math.sqrt(variance)).cdf(statistic - 0.5)


def _arrangements(sizes: Sequence[int], pairs: int) -> list[int]:
    """How many arrangements of distinct values in groups of these sizes have 0, 1, ... `pairs` rising pairs: the
    coefficients of the q-multinomial, the product of (1 - q^i) over all values divided by that over each group."""
    counts = [1] + [0] * pairs
    for i in range(1, sum(sizes) + 1):
        for k in range(pairs, i - 1, -1):
            counts[k] -= counts[k - i]
    for size in sizes:
        for i in range(1, size + 1):
            for k in range(i, pairs + 1):
                counts[k] += counts[k - i]
    return counts
