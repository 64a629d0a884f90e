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

import pandas as pd

from resexp.report.estimates import Estimate, contrast, minus, rise_terms
from resexp.report.families import Family, without
from resexp.report.figure import Plot, family_looks, styled
from resexp.report.formatting import NOTHING
from resexp.report.plots import depth_axis
from resexp.report.probes.results import PageSection
from resexp.report.stats import ItemT, grouped
from resexp.utils.text import listed

THEORY = "theory for ReLU nets without convolutions: -1.5, Jelassi et al. 2023"
"""The exponent of depth in the largest learning rate with bounded updates (arXiv 2305.07810)."""
PAPERS = 0.1
"""The paper's rate. Where it was not tried, the largest that every net was trained with stands for it."""
Errors = Mapping[tuple[str, int], Estimate]
"""By kind and depth."""


@dataclass(frozen=True)
class Tuned:
    """The nets of one kind and depth at the rate that is best for them."""

    rates: tuple[float, ...]
    """The rate with the lowest mean error over the other seeds, for each seed."""
    error: Estimate
    """The errors of the seeds at these rates."""


def tune(errors: pd.DataFrame) -> Tuned:
    """Choose a rate for each seed by the other seeds; a single seed chooses its own.

    `errors` are those of the nets of one depth, percent: a row for each seed, a column for each rate. A rate that lost
    a seed is not chosen.
    """
    whole = _complete(errors)
    others = {seed: whole.drop(index=seed) if len(whole) > 1 else whole for seed in whole.index}
    rates = {seed: rest.mean().idxmin() for seed, rest in others.items()}
    return Tuned(tuple(rates.values()), Estimate(tuple(whole.at[seed, rate] for seed, rate in rates.items())))


def _complete(errors: pd.DataFrame) -> pd.DataFrame:
    """The rates that have the most seeds, and the seeds that all of these have."""
    return errors.loc[:, errors.count() == errors.count().max()].dropna()


def slope(tuned: Mapping[int, Tuned]) -> float | None:
    """The exponent of depth in the best rate, by least squares on logarithms.

    Each depth is one point, the mean over its seeds, whose rates are chosen from nearly the same errors. None for fewer
    than three depths, and where one rate is best for all.
    """
    if len(tuned) < 3 or len({rate for at_depth in tuned.values() for rate in at_depth.rates}) == 1:
        return None
    depths = [math.log(depth) for depth in tuned]
    rates = [statistics.fmean(map(math.log, at_depth.rates)) for at_depth in tuned.values()]
    return statistics.linear_regression(depths, rates).slope


def section(families: Sequence[Family]) -> PageSection | None:
    """Both curves of each kind, at one rate and at the best; None if a study does not vary the rate."""
    errors = _errors(families)
    if not errors:
        return None
    tuned = {net: tune(table) for net, table in errors.items()}
    best = {net: at_best.error for net, at_best in tuned.items()}
    tried = [set(table) for table in errors.values()]
    common = set.intersection(*tried) or set.union(*tried)
    single = PAPERS if PAPERS in common else float(max(common))
    fixed = {net: Estimate(tuple(table[single].dropna())) for net, table in errors.items() if single in table}
    sentences = [f"With the rate that is best for each depth, {_changes(best)}."]
    if changes := _changes(fixed):
        sentences.append(f"With a rate of {single:g} at every depth, {changes}.")
    ends = [
        f"{kind}-{depth}"
        for (kind, depth), table in errors.items()
        if {min(table), max(table)} & set(tuned[kind, depth].rates)
    ]
    if ends:
        sentences.append(f"The best rate is the lowest or highest that was tried in {listed(ends)}.")
    slopes = {kind: exponent for kind, depths in _by_kind(tuned).items() if (exponent := slope(depths))}
    if slopes:
        exponents = " and ".join(f"{exponent:.1f} in {kind} nets" for kind, exponent in slopes.items())
        sentences.append(f"The best of these rates goes with depth roughly to the power of {exponents} ({THEORY}).")
    single_seed = [f"{kind}-{depth}" for (kind, depth), at_best in tuned.items() if len(at_best.rates) == 1]
    chosen = "by the other seeds" if len(single_seed) < len(tuned) else "by the same seed, so the error is too low"
    if 0 < len(single_seed) < len(tuned):
        chosen += f" (by the one seed of {listed(single_seed)}, whose error is too low)"
    rows = [
        [
            f"{kind}-{depth}",
            listed([f"{rate:g}" for rate in sorted(set(at_best.rates))]),
            str(at_best.error),
            str(fixed.get((kind, depth), NOTHING)),
        ]
        for (kind, depth), at_best in tuned.items()
    ]
    return PageSection(
        "The best rate for each depth",
        " ".join(sentences),
        f"Running training error, mean over seeds; bars are standard deviations. Each seed's rate is chosen {chosen}, "
        f"from {listed([f'{rate:g}' for rate in sorted(set.union(*tried))])}. A rate with fewer seeds than another one "
        "is left out. The choices for the seeds depend on each other, so the intervals are too narrow: in simulations "
        "they held the true value in about 90 % of studies of three seeds, and in 80 to 90 % of ten.",
        {"tuned-rates": _plot(best, fixed, single)},
        (["net", "best rate", "training error at it, %", f"at a rate of {single:g}, %"], rows),
        lead=sentences[0] if len(_by_kind(tuned)) > 1 else "",
    )


def _errors(families: Sequence[Family]) -> dict[tuple[str, int], pd.DataFrame]:
    """The errors, as `tune` takes them, by kind and depth: of the first families of each kind that differ in the
    learning rate alone, at several rates and depths."""
    errors: dict[tuple[str, int], pd.DataFrame] = {}
    for kind in ("plain", "residual"):
        of_kind = [family for family in families if family.kind == kind and _rate(family) is not None]
        alike = grouped(of_kind, lambda family: str(sorted(without(family.settings, ["train.lr"]).items())))
        group = next((group for group in alike.values() if len(set(map(_rate, group))) > 1), [])
        rows = [
            (net.depth, _rate(family), run.config.seed, run.errors["running"])
            for family in group
            for net in family.nets
            for run in net.runs
        ]
        runs = pd.DataFrame(rows, columns=["depth", "rate", "seed", "error"])
        tables = {
            (kind, int(depth)): of_depth.pivot_table("error", "seed", "rate", aggfunc="last")
            for depth, of_depth in runs.groupby("depth")
            if of_depth.rate.nunique() > 1
        }
        tables = {net: table for net, table in tables.items() if len(_complete(table))}
        errors |= tables if len(tables) > 1 else {}
    return errors


def _rate(family: Family) -> float | None:
    """The learning rate; None if it is a power of the depth."""
    rate = family.nets[0].config.train.lr
    return rate if isinstance(rate, float) else None


def _by_kind(values: Mapping[tuple[str, int], ItemT]) -> dict[str, dict[int, ItemT]]:
    kinds: dict[str, dict[int, ItemT]] = {}
    for (kind, depth), value in values.items():
        kinds.setdefault(kind, {})[depth] = value
    return kinds


def _changes(errors: Errors) -> str:
    """What depth does to each kind, and the interaction."""
    of_kinds = {kind: depths for kind, depths in _by_kind(errors).items() if len(depths) > 1}
    rises = {kind: rise_terms(depths) for kind, depths in of_kinds.items()}
    layers = {kind: f" from {min(depths)} to {max(depths)} layers" for kind, depths in of_kinds.items()}
    common = next(iter(layers.values()), "") if len(set(layers.values())) == 1 else ""
    changes = [f"by {contrast(terms)} in {kind} nets{'' if common else layers[kind]}" for kind, terms in rises.items()]
    text = f"the training error changes{common} {' and '.join(changes)}" if changes else ""
    if len(rises) > 1:
        text += f": a difference of {contrast(minus(*rises.values()))}"
    return text


@styled
def _plot(best: Errors, fixed: Errors, rate: float) -> Plot:
    title = "Training error at one rate, and at the best for each depth"
    plot = Plot(title, "depth (layers)", "training error (%)", (7.0, 4.2))
    looks = family_looks(_by_kind(best))
    thin: dict[str, Any] = {"linewidth": 0.8, "marker": "s", "markerfacecolor": "none"}
    for label, lines, style in ((f"rate {rate:g}", fixed, thin), ("best rate", best, {"marker": "o"})):
        for kind, errors in _by_kind(lines).items():
            means, bars = [e.mean for e in errors.values()], [e.std or 0 for e in errors.values()]
            look: dict[str, Any] = {**looks[kind], **style}
            series = f"{kind}, {label}"
            plot.errorbar(list(errors), means, series, yerr=bars, capsize=3, **look)
            for depth, error in errors.items():
                tip = f"{kind}-{depth}, {label}: {error} %, n = {len(error.values)}"
                plot.line([depth], [error.mean], series, tip, **look)
    plot.axes.set_ylim(bottom=0)
    plot.legend(2, "medium")
    depth_axis(plot, sorted({depth for _, depth in best}))
    return plot
