"""Training error against depth at the learning rate that is best for each depth.

One rate for all depths may suit shallow nets better than deep ones. So where a study varies `train.lr` alone, each
depth also gets the rate that suits it. A rate is chosen without the seed whose error it is shown with: the lowest of
several noisy means is too low.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from scipy import stats

from resexp.config import TrainConfig
from resexp.report.estimates import CONFIDENCE, Difference, Estimate, contrast
from resexp.report.families import Family
from resexp.report.figure import Plot, family_colours, styled
from resexp.report.formatting import NOTHING, Table, listed
from resexp.report.plots import depth_axis
from resexp.report.probes.results import Section

Errors = Mapping[float, Mapping[int, float]]
"""Running training errors of the nets of one depth, percent, by rate and seed."""


@dataclass(frozen=True)
class Tuned:
    """The nets of one kind and depth at the rate that is best for them."""

    rates: tuple[float, ...]
    """The rate with the lowest mean error over the other seeds, for each seed."""
    error: Estimate
    """The errors of the seeds at these rates."""


def tune(errors: Errors) -> Tuned:
    """Choose a rate for each seed by the other seeds; a single seed chooses its own."""
    most = max(len(of_rate) for of_rate in errors.values())
    whole = {rate: of_rate for rate, of_rate in errors.items() if len(of_rate) == most}
    seeds = sorted(set.intersection(*(set(of_rate) for of_rate in whole.values())))

    def best(without: int) -> float:
        others = [seed for seed in seeds if seed != without] or seeds
        return min(whole, key=lambda rate: statistics.fmean(whole[rate][seed] for seed in others))

    rates = tuple(best(seed) for seed in seeds)
    return Tuned(rates, Estimate(tuple(whole[rate][seed] for rate, seed in zip(rates, seeds, strict=True))))


def slope(tuned: Mapping[int, Tuned]) -> Difference | None:
    """The exponent of depth in the best rate, by least squares on logarithms, with its interval by Student's t.

    None for fewer than three depths, and where one rate is best for all.
    """
    if len(tuned) < 3 or len({rate for found in tuned.values() for rate in found.rates}) == 1:
        return None
    points = [(math.log(depth), math.log(rate)) for depth, found in tuned.items() for rate in found.rates]
    fit = stats.linregress([x for x, _ in points], [y for _, y in points])
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, len(points) - 2)) * float(fit.stderr)
    return Difference(float(fit.slope), float(fit.slope) - half, float(fit.slope) + half)


def by_kind(families: Sequence[Family]) -> dict[str, dict[int, Errors]]:
    """The errors by kind and depth of the first families of each kind that differ in the learning rate alone."""
    found: dict[str, dict[int, Errors]] = {}
    for kind in ("plain", "residual"):
        groups: dict[tuple[tuple[str, str], ...], dict[float, Family]] = {}
        for family in families:
            rate = _rate(family)
            if family.kind == kind and rate is not None:
                rest = tuple(sorted(item for item in family.recipe.items() if item[0] != "train.lr"))
                groups.setdefault(rest, {})[rate] = family
        of_rates = next((group for group in groups.values() if len(group) > 1), None)
        if of_rates:
            found[kind] = _by_depth(of_rates)
    return found


def _rate(family: Family) -> float | None:
    """The learning rate; None where it is a power of the depth."""
    try:
        return float(family.recipe.get("train.lr", TrainConfig.model_fields["lr"].default))
    except ValueError:
        return None


def _by_depth(of_rates: Mapping[float, Family]) -> dict[int, Errors]:
    found: dict[int, dict[float, dict[int, float]]] = {}
    for rate, family in sorted(of_rates.items()):
        for net in family.nets:
            errors = zip(net.runs, net.errors["running"].values, strict=True)
            found.setdefault(net.depth, {})[rate] = {run.config.seed: error for run, error in errors}
    return {depth: errors for depth, errors in sorted(found.items()) if len(errors) > 1}


def section(families: Sequence[Family]) -> Section | None:
    """Both curves of each kind, at one rate and at the best; None where a study does not vary the rate."""
    errors = {kind: depths for kind, depths in by_kind(families).items() if len(depths) > 1}
    if not errors:
        return None
    tuned = {kind: {depth: tune(found) for depth, found in depths.items()} for kind, depths in errors.items()}
    single = _common_rate(errors)
    fixed = {
        kind: {depth: Estimate(tuple(found[single].values())) for depth, found in depths.items() if single in found}
        for kind, depths in errors.items()
    }
    best = {kind: {depth: found.error for depth, found in depths.items()} for kind, depths in tuned.items()}
    sentences = [
        f"With the rate that is best for each depth, {_changes(best)}.",
        f"With a rate of {single:g} at every depth, {_changes(fixed)}.",
    ]
    slopes = {kind: found for kind, depths in tuned.items() if (found := slope(depths))}
    if slopes:
        exponents = listed([f"{s.value:.2f} [{s.low:.2f}, {s.high:.2f}] in {kind} nets" for kind, s in slopes.items()])
        sentences.append(f"The best rate goes with depth to the power of {exponents}.")
    seeds = min(len(found.rates) for depths in tuned.values() for found in depths.values())
    chosen = "by the other seeds" if seeds > 1 else "by the same seed, so the error is too low"
    return Section(
        "The best rate for each depth",
        " ".join(sentences),
        f"Running training error, mean over seeds; bars are standard deviations. Each seed's rate is chosen {chosen}, "
        f"from {listed([f'{rate:g}' for rate in _rates(errors)])}.",
        {"tuned-rates": _plot(best, fixed, single)},
        _table(tuned, fixed, single),
    )


def _rates(errors: Mapping[str, Mapping[int, Errors]]) -> list[float]:
    return sorted({rate for depths in errors.values() for found in depths.values() for rate in found})


def _common_rate(errors: Mapping[str, Mapping[int, Errors]]) -> float:
    """The paper's rate where it was tried, else the largest that every net was trained with."""
    tried = [set(found) for depths in errors.values() for found in depths.values()]
    common = set.intersection(*tried) or set.union(*tried)
    default = float(TrainConfig.model_fields["lr"].default)
    return default if default in common else max(common)


def _changes(errors: Mapping[str, Mapping[int, Estimate]]) -> str:
    """What depth does to each kind, and the interaction."""
    ends = {kind: (depths[min(depths)], depths[max(depths)]) for kind, depths in errors.items() if len(depths) > 1}
    changes = [
        f"{kind} nets of {max(errors[kind])} layers have {contrast([(1, deep), (-1, shallow)])} of training error "
        f"against {min(errors[kind])} layers"
        for kind, (shallow, deep) in ends.items()
    ]
    if ends.keys() == {"plain", "residual"}:
        (a, b), (c, d) = ends["plain"], ends["residual"]
        changes.append(f"the difference is {contrast([(1, b), (-1, a), (-1, d), (1, c)])}")
    return listed(changes)


@styled
def _plot(best: Mapping[str, Mapping[int, Estimate]], fixed: Mapping[str, Mapping[int, Estimate]], rate: float) -> Plot:
    plot = Plot(
        "Training error at one rate, and at the best for each depth", "depth (layers)", "training error (%)", (7.0, 4.2)
    )
    colours = family_colours(best)
    for label, lines, style, marker in ((f"rate {rate:g}", fixed, ":", "s"), ("best rate", best, "-", "o")):
        for kind, errors in lines.items():
            means, bars = [e.mean for e in errors.values()], [e.std or 0 for e in errors.values()]
            look: dict[str, Any] = {"color": colours[kind], "linestyle": style, "marker": marker, "capsize": 3}
            series = f"{kind}, {label}"
            drawn = plot.axes.errorbar(list(errors), means, bars, label=series, **look)
            for artist in drawn.get_children():
                artist.set_gid(plot.mark(series))
            for depth, error in errors.items():
                tip = plot.mark(series, f"{kind}-{depth}, {label}: {error} %, n = {len(error.values)}")
                plot.axes.plot([depth], [error.mean], color=colours[kind], marker=marker, gid=tip)
    plot.axes.set_ylim(bottom=0)
    plot.legend(2, "medium")
    depth_axis(plot, sorted({depth for errors in best.values() for depth in errors}))
    return plot


def _table(tuned: Mapping[str, Mapping[int, Tuned]], fixed: Mapping[str, Mapping[int, Estimate]], rate: float) -> Table:
    rows = [
        [
            f"{kind}-{depth}",
            listed([f"{chosen:g}" for chosen in sorted(set(found.rates))]),
            str(found.error),
            str(fixed[kind][depth]) if depth in fixed[kind] else NOTHING,
        ]
        for kind, depths in tuned.items()
        for depth, found in depths.items()
    ]
    return ["net", "best rate", "training error at it, %", f"at a rate of {rate:g}, %"], rows
