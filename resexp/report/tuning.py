"""Training error against depth at the learning rate that is best for each depth.

One rate for all depths may suit shallow nets better than deep ones. So where a study varies `train.lr` alone, each
depth also gets the rate that suits it. A rate is chosen without the seed whose error it is shown with: the lowest of
several noisy means is too low.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from scipy import stats

from resexp.config import TrainConfig
from resexp.report.estimates import CONFIDENCE, Difference, Estimate, contrast, interaction_terms, t_critical
from resexp.report.families import Family, without
from resexp.report.figure import Plot, family_colours, styled
from resexp.report.formatting import NOTHING, Table
from resexp.report.plots import depth_axis
from resexp.report.probes.results import PageSection
from resexp.report.stats import grouped
from resexp.utils.text import listed

THEORY = "theory for ReLU nets without convolutions: -1.5, Jelassi et al. 2023"
"""The exponent of depth in the largest learning rate with bounded updates (arXiv 2305.07810)."""


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


def slope(tuned: Mapping[int, Tuned]) -> Difference | None:
    """The exponent of depth in the best rate, by least squares on logarithms, with its interval by Student's t.

    None for fewer than three depths, and where one rate is best for all.
    """
    if len(tuned) < 3 or len({rate for at_depth in tuned.values() for rate in at_depth.rates}) == 1:
        return None
    points = [(math.log(depth), math.log(rate)) for depth, at_depth in tuned.items() for rate in at_depth.rates]
    fit = stats.linregress([x for x, _ in points], [y for _, y in points])
    half = t_critical(len(points) - 2, CONFIDENCE) * float(fit.stderr)
    return Difference(float(fit.slope), float(fit.slope) - half, float(fit.slope) + half)


def section(families: Sequence[Family]) -> PageSection | None:
    """Both curves of each kind, at one rate and at the best; None if a study does not vary the rate."""
    errors = _errors(families)
    if not errors:
        return None
    tuned = {kind: {depth: tune(table) for depth, table in depths.items()} for kind, depths in errors.items()}
    best = {kind: {depth: at_best.error for depth, at_best in depths.items()} for kind, depths in tuned.items()}
    single = _common_rate(errors)
    fixed = {
        kind: {d: Estimate(tuple(table[single].dropna())) for d, table in depths.items() if single in table}
        for kind, depths in errors.items()
    }
    sentences = [f"With the rate that is best for each depth, {_changes(best)}."]
    if changes := _changes(fixed):
        sentences.append(f"With a rate of {single:g} at every depth, {changes}.")
    ends = [
        f"{kind}-{depth}"
        for kind, depths in tuned.items()
        for depth, at_best in depths.items()
        if {min(errors[kind][depth]), max(errors[kind][depth])} & set(at_best.rates)
    ]
    if ends:
        sentences.append(f"The best rate is the lowest or highest that was tried in {listed(ends)}.")
    slopes = {kind: exponent for kind, depths in tuned.items() if (exponent := slope(depths))}
    if slopes:
        exponents = [f"{s.value:.2f} [{s.low:.2f}, {s.high:.2f}] in {kind} nets" for kind, s in slopes.items()]
        sentences.append(f"The best rate goes with depth to the power of {' and '.join(exponents)} ({THEORY}).")
    seeds = min(len(at_best.rates) for depths in tuned.values() for at_best in depths.values())
    chosen = "by the other seeds" if seeds > 1 else "by the same seed, so the error is too low"
    rates = sorted({rate for depths in errors.values() for table in depths.values() for rate in table})
    return PageSection(
        "The best rate for each depth",
        " ".join(sentences),
        f"Running training error, mean over seeds; bars are standard deviations. Each seed's rate is chosen {chosen}, "
        f"from {listed([f'{rate:g}' for rate in rates])}. A rate with fewer seeds than another one is left out. "
        "The choices for the seeds depend on each other, so intervals are approximate.",
        {"tuned-rates": _plot(best, fixed, single)},
        _table(tuned, fixed, single),
        lead=sentences[0],
    )


def _errors(families: Sequence[Family]) -> dict[str, dict[int, pd.DataFrame]]:
    """The errors, as `tune` takes them, by kind and depth: of the first families of each kind that differ in the
    learning rate alone, at several rates and depths."""
    errors: dict[str, dict[int, pd.DataFrame]] = {}
    for kind in ("plain", "residual"):
        of_kind = [family for family in families if family.kind == kind and _rate(family) is not None]
        alike = grouped(of_kind, lambda family: frozenset(without(family.recipe, ["train.lr"]).items()))
        group = next((group for group in alike.values() if len(set(map(_rate, group))) > 1), [])
        rows = [
            (net.depth, _rate(family), run.config.seed, run.errors["running"])
            for family in group
            for net in family.nets
            for run in net.runs
        ]
        runs = pd.DataFrame(rows, columns=["depth", "rate", "seed", "error"])
        tables = {
            int(depth): of_depth.pivot_table("error", "seed", "rate", aggfunc="last")
            for depth, of_depth in runs.groupby("depth")
            if of_depth.rate.nunique() > 1
        }
        tables = {depth: table for depth, table in tables.items() if len(_complete(table))}
        if len(tables) > 1:
            errors[kind] = tables
    return errors


def _rate(family: Family) -> float | None:
    """The learning rate; None if it is a power of the depth."""
    try:
        return float(family.recipe.get("train.lr", TrainConfig.model_fields["lr"].default))
    except ValueError:
        return None


def _common_rate(errors: Mapping[str, Mapping[int, pd.DataFrame]]) -> float:
    """The paper's rate where it was tried, else the largest that every net was trained with."""
    tried = [set(table) for depths in errors.values() for table in depths.values()]
    common = set.intersection(*tried) or set.union(*tried)
    default = float(TrainConfig.model_fields["lr"].default)
    return default if default in common else float(max(common))


def _changes(errors: Mapping[str, Mapping[int, Estimate]]) -> str:
    """What depth does to each kind, and the interaction."""
    ends = {kind: (depths[min(depths)], depths[max(depths)]) for kind, depths in errors.items() if len(depths) > 1}
    layers = {kind: f" from {min(errors[kind])} to {max(errors[kind])} layers" for kind in ends}
    common = next(iter(layers.values()), "") if len(set(layers.values())) == 1 else ""
    changes = [
        f"by {contrast([(1, deep), (-1, shallow)])} in {kind} nets{'' if common else layers[kind]}"
        for kind, (shallow, deep) in ends.items()
    ]
    text = f"the training error changes{common} {' and '.join(changes)}" if changes else ""
    if ends.keys() == {"plain", "residual"}:
        text += f": a difference of {contrast(interaction_terms(ends['plain'], ends['residual']))}"
    return text


@styled
def _plot(best: Mapping[str, Mapping[int, Estimate]], fixed: Mapping[str, Mapping[int, Estimate]], rate: float) -> Plot:
    plot = Plot(
        "Training error at one rate, and at the best for each depth", "depth (layers)", "training error (%)", (7.0, 4.2)
    )
    colours = family_colours(best)
    thin: dict[str, Any] = {"linewidth": 0.8, "marker": "s", "markerfacecolor": "none"}
    for label, lines, style in ((f"rate {rate:g}", fixed, thin), ("best rate", best, {"marker": "o"})):
        for kind, errors in lines.items():
            means, bars = [e.mean for e in errors.values()], [e.std or 0 for e in errors.values()]
            look: dict[str, Any] = {"color": colours[kind], **style}
            series = f"{kind}, {label}"
            plot.errorbar(list(errors), means, series, yerr=bars, capsize=3, **look)
            for depth, error in errors.items():
                tip = f"{kind}-{depth}, {label}: {error} %, n = {len(error.values)}"
                plot.line([depth], [error.mean], series, tip, **look)
    plot.axes.set_ylim(bottom=0)
    plot.legend(2, "medium")
    depth_axis(plot, sorted({depth for errors in best.values() for depth in errors}))
    return plot


def _table(tuned: Mapping[str, Mapping[int, Tuned]], fixed: Mapping[str, Mapping[int, Estimate]], rate: float) -> Table:
    rows = [
        [
            f"{kind}-{depth}",
            listed([f"{chosen:g}" for chosen in sorted(set(at_best.rates))]),
            str(at_best.error),
            str(fixed[kind][depth]) if depth in fixed[kind] else NOTHING,
        ]
        for kind, depths in tuned.items()
        for depth, at_best in depths.items()
    ]
    return ["net", "best rate", "training error at it, %", f"at a rate of {rate:g}, %"], rows
