"""What a study shows: intervals, the trend over all depths, and the verdict that rests on both."""

from __future__ import annotations

import math
import random
import statistics
import subprocess
from collections.abc import Callable
from itertools import permutations
from pathlib import Path

import pytest
from scipy import stats

from resexp.config import Cifar10Data, TrainConfig
from resexp.config.study import load
from resexp.report import estimates
from resexp.report.estimates import Difference, Estimate, Term, contrast, difference, rise, rises_less, trend
from resexp.report.families import BRANCH, differences
from resexp.report.summary import summarise
from resexp.runs.records import PlannedRun, StudyPlan
from resexp.runs.store import StudyFolder
from resexp.sweeping import create
from tests.conftest import REPOSITORY
from tests.test_report import DEGRADES, SMALL, add_family, study, write_run

__all__ = ["study"]

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

# -- numbers ----------------------------------------------------------------------------------------------------------

Means = dict[str, dict[int, tuple[float, float]]]
CPU_SMALL: Means = {
    "plain": {8: (38.2, 0.04), 20: (44.4, 0.47), 32: (56.1, 1.18), 56: (76.9, 2.88)},
    "residual": {8: (39.2, 0.46), 20: (33.8, 1.80), 32: (35.4, 1.86), 56: (40.9, 0.79)},
}
"""Means and standard deviations of a study in which residual nets rise by 7 points from depth 20 to 56."""


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((20.1, 21.4, 19.7), (10.3, 9.1, 12.6)),
        ((40.33, 41.45), (38.89, 39.54)),
        ((5.0, 9.0, 6.5), (1.0, 1.1, 1.2, 1.3, 1.4)),
    ],
)
def test_a_difference_has_welchs_interval(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    """Degrees of freedom are fractions: 3.9, 1.4 and 1.0 here."""
    low, high = stats.ttest_ind(a, b, equal_var=False).confidence_interval(0.95)
    found = difference(Estimate(a), Estimate(b))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert difference(Estimate((5.0,)), Estimate(b)).low is None


def test_the_sign_of_an_ends_last_digit_is_known() -> None:
    """A verdict may hang on it, so it is not rounded away; what is no more than rounding has none."""
    assert str(Difference(2.5, -0.043, 5.1)) == "+2.5 points [-0.04, +5.1]"
    assert Difference(-2.5, -5.1, 0.02).range == "between -5.1 and +0.02 points"
    assert Difference(-0.01, -1e-15, 0.05).in_cell == "-0.01 [+0.0, +0.1]"
    assert str(Difference(-0.04, -0.06, -0.02)) == "-0.04 points [-0.1, -0.02]"


def test_at_1_6_degrees_of_freedom_the_quantile_is_students() -> None:
    """Two seeds each, standard errors 1 and r: (1 + r²)² / (1 + r⁴) degrees of freedom."""
    r = (1 / 3) ** 0.5
    found = difference(Estimate((49.0, 51.0)), Estimate((30.0 - r, 30.0 + r)))
    assert found.value == pytest.approx(20)
    assert found.high == pytest.approx(20 + stats.t(1.6).ppf(0.975) * (1 + 1 / 3) ** 0.5)


def test_an_interaction_is_the_contrast_of_four_means() -> None:
    """The published study cpu-small: Welch-Satterthwaite's interval of (plain 56 - 20) - (residual 56 - 20)."""
    summary = summarise(StudyFolder(REPOSITORY / "results/published/cpu-small"))
    errors = {net.label: net.errors["running"] for net in summary.nets}
    four = [errors[name] for name in ("plain-56", "plain-20", "residual-56", "residual-20")]
    parts = [statistics.variance(one.values) / 5 for one in four]
    freedom = sum(parts) ** 2 / sum(part**2 / 4 for part in parts)
    half = stats.t(freedom).ppf(0.975) * sum(parts) ** 0.5
    value = four[0].mean - four[1].mean - four[2].mean + four[3].mean
    found = summary.verdict.interaction
    assert found is not None
    assert (found.value, found.low, found.high) == pytest.approx((value, value - half, value + half))


@pytest.mark.parametrize(
    ("a", "b"),
    [((5.0,), (1.0, 2.0)), ((5.0, 9.0), (1.0, 1.1, 1.2)), ((90.0, 90.0, 90.0), (10.0, 10.0, 10.0)), ((5.0,), (1.0,))],
)
def test_too_few_seeds_or_none_that_differ_give_no_interval(a: tuple[float, ...], b: tuple[float, ...]) -> None:
    found = difference(Estimate(a), Estimate(b))
    assert (found.low, found.high, found.sign) == (None, None, 0)
    assert found.value == pytest.approx(statistics.fmean(a) - statistics.fmean(b))


def test_a_mean_that_stands_on_both_sides_cancels() -> None:
    a, b, c = Estimate((1.0, 2.0)), Estimate((3.0, 5.0)), Estimate((30.0, 50.0))
    assert contrast([(1, a), (-1, c), (-1, b), (1, c)]) == difference(a, b)
    assert contrast([(1, a), (-1, c), (-1, b), (1, Estimate((30.0, 50.0)))]) != difference(
        a, b
    )  # other runs, alike by chance


def test_no_interval_holds_what_no_percentages_can_give() -> None:
    wide = difference(Estimate((40.0, 99.0)), Estimate((1.0, 2.0)))
    assert (wide.low, wide.high) == (-100, 100)


def test_the_interval_of_a_mean_is_of_the_logits() -> None:
    values = (95.0, 99.0, 99.9)
    logits = [math.log(value / (100 - value)) for value in values]
    low, high = stats.ttest_1samp(logits, 0).confidence_interval(0.95)
    assert Estimate(values).interval == pytest.approx((100 / (1 + math.exp(-low)), 100 / (1 + math.exp(-high))))
    assert 0 < (Estimate(values).interval or (0, 0))[0] < (Estimate(values).interval or (0, 0))[1] < 100


@pytest.mark.parametrize("values", [(5.0,), (5.0, 6.0), (0.0, 1.0, 2.0), (98.0, 99.0, 100.0)])
def test_a_mean_of_few_seeds_or_at_the_end_of_the_scale_has_no_interval(values: tuple[float, ...]) -> None:
    assert Estimate(values).interval is None


# -- the rise from the best depth -------------------------------------------------------------------------------------


def test_a_rise_is_from_the_shallowest_and_from_the_best_depth() -> None:
    by_depth = {8: Estimate((39.0, 40.0)), 20: Estimate((33.0, 34.0)), 56: Estimate((40.0, 41.5))}
    found = rise(by_depth)
    assert (found.shallowest, found.best, found.deepest) == (8, 20, 56)
    assert found.overall == difference(by_depth[56], by_depth[8])
    assert found.from_best.value == pytest.approx(7.25)
    # Of two depths to choose from: the lower end at 97.5 %, the upper at 95 %.
    assert found.from_best.low == difference(by_depth[56], by_depth[20], 0.975).low
    assert found.from_best.high == difference(by_depth[56], by_depth[20]).high


def draw(seeds: int, chance: random.Random, means: Means = CPU_SMALL) -> dict[str, dict[int, Estimate]]:
    """The errors of one study with these means and deviations, by kind and depth."""
    return {
        kind: {d: Estimate(tuple(chance.gauss(*of) for _ in range(seeds))) for d, of in depths.items()}
        for kind, depths in means.items()
    }


def tenth_of(by_depth: dict[int, Estimate]) -> tuple[Term, Term]:
    """The default margin."""
    found = rise(by_depth)
    return (0.1, by_depth[found.deepest]), (-0.1, by_depth[found.best])


@pytest.mark.parametrize("seeds", [2, 3, 5, 10])
def test_nets_that_rise_by_7_points_are_said_not_to_in_under_5_of_100_studies(seeds: int) -> None:
    chance = random.Random(seeds)
    studies = [draw(seeds, chance) for _ in range(400)]
    wrong = sum(rises_less(s["residual"], tenth_of(s["plain"])) for s in studies)
    assert wrong < 0.05 * len(studies)


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("deviation", [0.1, 2.0])
def test_the_noise_of_the_margin_counts(seeds: int, deviation: float) -> None:
    """A residual rise of just a tenth of the plain one is not below it, however little residual nets vary."""
    chance = random.Random(seeds)
    means = {"plain": {20: (40.0, 3.0), 56: (70.0, 6.0)}, "residual": {20: (30.0, deviation), 56: (33.0, deviation)}}
    studies = [draw(seeds, chance, means) for _ in range(1000)]
    wrong = sum(rises_less(s["residual"], tenth_of(s["plain"])) for s in studies)
    assert wrong <= 40  # 2.5 % are nominal
    if (seeds, deviation) == (10, 0.1):
        as_if_known = sum(rises_less(s["residual"], rise(s["plain"]).from_best.value / 10) for s in studies)
        assert as_if_known > 100


def test_enough_seeds_find_the_rise_from_the_best_depth() -> None:
    chance = random.Random(0)
    studies = [draw(5, chance) for _ in range(200)]
    assert sum(rise(s["residual"]).from_best.sign > 0 for s in studies) > 190


def test_without_a_rise_it_is_found_in_at_most_5_of_100_studies() -> None:
    chance = random.Random(0)
    flat = [
        rise({d: Estimate(tuple(chance.gauss(30, 2) for _ in range(3))) for d in (8, 20, 32, 56)}) for _ in range(1000)
    ]
    assert sum(found.overall.sign > 0 or found.from_best.sign > 0 for found in flat) <= 50


# -- the trend over all depths ----------------------------------------------------------------------------------------


def test_with_one_seed_a_depth_the_trend_counts_the_orders_of_the_depths() -> None:
    """Of the six orders of three values one rises throughout, three have two rising pairs or more."""
    found = [trend({8: [a], 20: [b], 32: [c]}) for a, b, c in ((1, 2, 3), (1, 3, 2), (3, 2, 1))]
    assert [t.statistic for t in found if t] == [3, 2, 0]
    assert [t.p for t in found if t] == pytest.approx([1 / 6, 3 / 6, 1])
    four = trend({8: [1], 20: [2], 32: [3], 56: [4]})
    assert four is not None
    assert (four.p, four.choices) == (pytest.approx(2 / 24), 2)


def test_the_trend_against_hollander_and_wolfes_case() -> None:
    """Motivational effect of knowledge of performance: J = 79 of three groups of six, P(J >= 79) = 0.0231.

    Their ties, which count a half each there, are broken here so that J is the same.
    """
    none, rough, accurate = [40.1, 35, 38, 43, 44.1, 41], [38.1, 40, 47, 44, 39.9, 42], [48, 40.3, 45, 43.1, 46, 43.9]
    found = trend({8: none, 20: rough, 32: accurate})
    assert found is not None
    assert (found.statistic, found.pairs) == (79, 108)
    assert found.p == pytest.approx(0.0231, abs=5e-5)


@pytest.mark.parametrize("values", [(3, 1, 4, 2, 6, 5), (1, 2, 3, 4, 5, 6), (1, 3, 2, 6, 5, 4)])
def test_the_trend_is_the_share_of_all_arrangements_that_rise_as_much(values: tuple[float, ...]) -> None:
    def rising(of: tuple[float, ...]) -> int:
        a, b, c = of[:1], of[1:4], of[4:]
        return sum(y > x for low, high in ((a, b), (a, c), (b, c)) for x in low for y in high)

    all_of_them = [rising(order) for order in permutations(values)]
    found = trend({8: values[:1], 20: values[1:4], 32: values[4:]})
    assert found is not None
    assert found.p == pytest.approx(sum(j >= rising(values) for j in all_of_them) / len(all_of_them))


def test_equal_values_are_no_rise() -> None:
    found = trend({8: [0, 0], 20: [0, 0], 32: [0, 0]})
    assert found is not None
    assert (found.statistic, found.p) == (0, 1)


def test_of_thousands_of_pairs_the_normal_distribution_is_as_near_as_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(0)
    values = {depth: [draw.gauss(depth / 100, 1) for _ in range(20)] for depth in (8, 20, 32, 44, 56)}
    exact = trend(values)
    monkeypatch.setattr(estimates, "EXACT_PAIRS", 0)
    near = trend(values)
    assert exact is not None
    assert near is not None
    assert (near.statistic, near.pairs) == (exact.statistic, exact.pairs) == (exact.statistic, 4000)
    assert near.p == pytest.approx(exact.p, abs=0.001)


def test_an_error_that_falls_first_has_its_trend_from_where_it_rises() -> None:
    later = {20: [32.5, 35.0], 32: [34.0, 36.7], 56: [40.3, 41.5]}
    alone, after = trend(later), trend({8: [38.9, 39.5], **later})
    assert alone is not None
    assert after is not None
    assert (alone.statistic, alone.pairs, after.depths) == (11, 12, (20, 32, 56))
    assert alone.p == pytest.approx(0.0333, abs=1e-4)
    assert after.p == pytest.approx(2 * alone.p)


def test_two_depths_have_no_trend() -> None:
    assert trend({8: [1, 2], 20: [3, 4]}) is None


# -- the verdict ------------------------------------------------------------------------------------------------------


def plain_and_residual(plain: list[list[float]], residual: list[list[float]]) -> dict[tuple[str, int], list[float]]:
    return {
        ("plain", 8): plain[0], ("plain", 44): plain[1], ("residual", 8): residual[0], ("residual", 44): residual[1],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("errors", "says"),
    [
        (
            DEGRADES,
            "From 8 to 44 layers, the training error rises by 55.0 points [+51.1, +58.9] "
            "more in plain nets than in residual nets: "
            "plain nets degrade; residual nets gain from depth.",
        ),
        (
            plain_and_residual([[9, 10, 11], [58, 60, 62]], [[9, 10, 11], [9, 10, 11.5]]),
            "From 8 to 44 layers, the training error rises by 49.8 points [+45.9, +53.8] "
            "more in plain nets than in residual nets: "
            "plain nets degrade; residual nets do not degrade (any rise is below a tenth of the plain nets').",
        ),
        (
            plain_and_residual([[9, 10, 11], [28, 30, 32]], [[9, 10, 11], [9, 10, 11.5]]),
            "From 8 to 44 layers, the training error rises by 19.8 points [+15.9, +23.8] "
            "more in plain nets than in residual nets: "
            "plain nets degrade; residual nets are not shown to rise (between -2.5 and +2.8 points).",
        ),
        (
            {
                **plain_and_residual([[9, 10, 11], [28, 30, 32]], [[9, 10, 11], [9, 10, 11.5]]),
                ("plain", 20): [15, 16, 17],
                ("residual", 20): [8.5, 9.5, 11],
            },
            "From 8 to 44 layers, the training error rises by 19.8 points [+15.9, +23.8] "
            "more in plain nets than in residual nets: "
            "plain nets degrade; "
            "residual nets are not shown to rise from their best depth (between -3.1 and +3.4 points).",
        ),
        (
            plain_and_residual([[9, 10, 11], [58, 60, 62]], [[9, 10, 11], [19, 20, 21]]),
            "From 8 to 44 layers, the training error rises by 40.0 points [+36.1, +43.9] "
            "more in plain nets than in residual nets: "
            "both kinds degrade.",
        ),
        (
            plain_and_residual([[9, 10, 11], [58, 60, 62]], [[9, 10, 11], [57, 59, 61]]),
            "No difference between the rises of plain and residual nets is shown (between -3.5 and +5.5 points): "
            "both kinds degrade.",
        ),
        (
            plain_and_residual([[9, 10, 11], [9, 11, 13]], [[9, 10, 11], [4, 5, 6]]),
            "From 8 to 44 layers, the training error rises by 6.0 points [+2.1, +9.9] "
            "more in plain nets than in residual nets: "
            "plain nets are not shown to rise (between -3.2 and +5.2 points); residual nets gain from depth.",
        ),
        (
            plain_and_residual([[58, 60, 62], [9, 10, 11]], [[9, 10, 11], [4, 5, 6]]),
            "From 8 to 44 layers, the training error falls by 45.0 points [+41.1, +48.9] "
            "less in residual nets than in plain nets: "
            "both kinds gain from depth.",
        ),
        (  # a depth of two seeds has no interval next to depths of three
            {
                **plain_and_residual([[9, 10, 11], [28, 30, 32]], [[9, 10, 11], [9, 10, 11.5]]),
                ("residual", 20): [8.5, 9.5],
            },
            "From 8 to 44 layers, the training error rises by 19.8 points [+15.9, +23.8] "
            "more in plain nets than in residual nets: "
            "plain nets degrade; residual nets are not shown to rise (between -2.5 and +2.8 points).",
        ),
        (  # a tenth of a rise that is not shown is no margin
            plain_and_residual([[5, 25, 60], [20, 40, 65]], [[9.9, 10, 10.1], [9.9, 10, 10.1]]),
            "No difference between the rises of plain and residual nets is shown (between -46.7 and +70.1 points): "
            "plain nets are not shown to rise (between -46.7 and +70.1 points); "
            "residual nets are not shown to rise (between -0.2 and +0.2 points).",
        ),
        (  # an error that can't rise further
            plain_and_residual([[29, 30, 31], [79, 80, 81]], [[86, 86.3, 86.6], [89.8, 90, 90.2]]),
            "From 8 to 44 layers, the training error rises by 46.3 points [+44.1, +48.5] "
            "more in plain nets than in residual nets: "
            "both kinds degrade.",
        ),
        (
            plain_and_residual([[10], [60]], [[10], [5]]),
            "One seed, descriptive only: from depth 8 to 44 the training error changes by +50.0 points in plain nets "
            "and by -5.0 points in residual nets.",
        ),
        (
            plain_and_residual([[10, 11], [60, 61]], [[10], [5]]),
            "Too few seeds, descriptive only: from depth 8 to 44 the training error changes by +50.0 points in plain "
            "nets and by -5.0 points in residual nets.",
        ),
        (
            plain_and_residual([[9, 10, 11], [39, 40, 41]], [[9, 10, 11], [59, 60, 61]]),
            "From 8 to 44 layers, the training error rises by 20.0 points [+17.3, +22.7] "
            "more in residual nets than in plain nets: "
            "both kinds degrade.",
        ),
        (
            {("plain", 8): [9, 10, 11], ("plain", 44): [39, 40, 41]},
            "Plain nets degrade. No verdict on residual nets: no residual net has finished.",
        ),
        (
            {("plain", 8): [9, 10, 11], ("plain", 44): [39, 40, 41], ("residual", 44): [5, 6]},
            "Plain nets degrade. No verdict on residual nets: plain and residual nets have not finished at two depths "
            "in common.",
        ),
        (
            {("plain", 8): [10, 11]},
            "No verdict: it takes plain nets of two depths, and all that have finished have depth 8.",
        ),
        (
            {("residual", 8): [10, 11], ("residual", 44): [10, 11]},
            "Residual nets are not shown to rise (between -3.0 and +3.0 points). No verdict on plain nets: no plain "
            "net has finished.",
        ),
        ({("residual", 8): [10, 11]}, "No verdict: no plain net has finished."),
    ],
)
def test_the_verdict(study: Callable[..., StudyFolder], errors: dict[tuple[str, int], list[float]], says: str) -> None:
    assert summarise(study(errors)).verdict.headline == says


def test_residual_nets_alone_have_their_rise(study: Callable[..., StudyFolder]) -> None:
    folder = study({("residual", 8): [10, 11], ("residual", 44): [13, 14]})
    add_family(folder, "C", {("residual", 8): [10, 11], ("residual", 44): [20, 21]}, model={"shortcut": "C"})
    found = summarise(folder)
    assert found.verdict.headline.startswith("Residual nets are not shown to rise (between -0.04 and +6.0 points). No ")
    assert found.verdict.sentences[0] == (
        "Residual nets: training error 10.5 % at depth 8, 13.5 % at depth 44: +3.0 points [-0.04, +6.0], 2 seeds each."
    )
    assert found.verdict.sentences[1] == "The verdict is on the family residual."
    assert found.in_other_conditions == "With C: residual nets' rise +10.0 points [+7.0, +13.0]."


def test_the_margin_is_the_studys_where_it_says_one(study: Callable[..., StudyFolder]) -> None:
    folder = study(plain_and_residual([[9, 10, 11], [28, 30, 32]], [[9, 10, 11], [9, 10, 11.5]]))
    assert summarise(folder).verdict.margin == pytest.approx(2.0)  # a tenth of 20
    folder.write_plan(folder.plan().model_copy(update={"margin": 3.0}))
    verdict = summarise(folder).verdict
    assert verdict.margin == 3.0
    assert verdict.headline.endswith("residual nets do not degrade (any rise is below 3.0 points).")
    fixed = "below 3.0 points, the margin that the study fixes (report.margin)."
    assert f"A rise counts as none if its whole interval is {fixed}" in verdict.sentences


def test_at_the_papers_recipe_the_margin_is_one_point(study: Callable[..., StudyFolder]) -> None:
    paper = {"data": Cifar10Data(), "train": TrainConfig(), "dataset": "cifar10"}
    errors = plain_and_residual([[1.3, 1.4, 1.5], [5.7, 5.8, 5.9]], [[0.7, 0.8], [0.1, 0.2]])
    assert summarise(study(errors, **paper)).verdict.margin == 1.0


# -- what may be compared ---------------------------------------------------------------------------------------------


def with_steps(folder: StudyFolder, kind: str, depth: int, steps: int, errors: list[float]) -> list[PlannedRun]:
    train = TrainConfig(steps=steps, log_every=1)
    return [write_run(folder.folder, kind, depth, seed, e / 100, train=train) for seed, e in enumerate(errors)]


def test_nets_that_differ_in_more_than_depth_have_no_verdict(study: Callable[..., StudyFolder]) -> None:
    folder = study({})
    runs = with_steps(folder, "plain", 8, 80, [9, 10]) + with_steps(folder, "plain", 14, 8, [60, 61])
    folder.write_plan(StudyPlan(name="study", runs=runs))
    summary = summarise(folder)
    assert summary.verdict.headline == "No verdict: plain-8 and plain-14 differ in train.steps."
    assert {net.family for net in summary.nets} == {"plain steps=80", "plain steps=8"}


def test_plain_and_residual_nets_are_compared_only_if_they_differ_in_kind_alone(
    study: Callable[..., StudyFolder],
) -> None:
    folder = study({})
    runs = [run for depth, e in ((8, 9.0), (14, 60.0)) for run in with_steps(folder, "plain", depth, 80, [e, e + 1])]
    runs += [run for depth in (8, 14) for run in with_steps(folder, "residual", depth, 40, [9, 10])]
    folder.write_plan(StudyPlan(name="study", runs=runs))
    assert summarise(folder).verdict.headline == (
        "Plain nets degrade. No verdict on residual nets: plain-8 and residual-8 differ in train.steps."
    )


def test_the_images_and_the_precision_count_whatever_the_configuration_says(study: Callable[..., StudyFolder]) -> None:
    folder = study({("plain", 8): [9, 10], ("plain", 44): [58, 60]})
    for run in folder.runs():
        record = run.manifest()
        assert record is not None
        if "plain-44" in str(run.folder):
            record.data.fingerprint = "other"
            record.attempts[0].precision = "bf16"
            run.write_manifest(record)
    assert summarise(folder).verdict.headline == ("No verdict: plain-8 and plain-44 differ in images, train.precision.")


def test_the_papers_warmup_at_depth_110_does_not_part_a_family_and_is_said(study: Callable[..., StudyFolder]) -> None:
    folder = study({("residual", 20): [9, 10], ("plain", 20): [9, 10], ("plain", 110): [60, 62]})
    warm = SMALL.model_copy(update={"warmup_lr": 0.01})
    runs = folder.plan().runs
    runs += [write_run(folder.folder, "residual", 110, seed, 0.05 + seed / 100, train=warm) for seed in range(2)]
    folder.write_plan(StudyPlan(name="study", runs=runs))
    verdict = summarise(folder).verdict
    assert verdict.families == ["plain", "residual"]
    assert verdict.interaction is not None
    assert verdict.interaction.value == pytest.approx(51.5 + 4.0)
    assert "Residual nets of different depth differ in train.warmup_lr, too, as in the paper." in verdict.sentences


def test_depth_110_with_and_without_warmup_are_two_families(study: Callable[..., StudyFolder]) -> None:
    folder = study({("residual", 20): [9, 10], ("residual", 110): [6, 7]})
    warm = SMALL.model_copy(update={"warmup_lr": 0.01})
    runs = [*folder.plan().runs, write_run(folder.folder, "residual", 110, 0, 0.05, train=warm, variant="-warm")]
    folder.write_plan(StudyPlan(name="study", runs=runs))
    assert [net.family for net in summarise(folder).nets] == ["residual", "residual", "residual warm"]


@pytest.mark.parametrize("margin", ["-1", "0", "101"])
def test_a_margin_that_is_none_gets_one_line(here: Cli, margin: str) -> None:
    done = here("sweep", "--config", "quickstart", "--set", f"report.margin={margin}")
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "report.margin: should be " in done.stderr


def test_the_margin_of_a_study_stands_in_its_plan(tmp_path: Path) -> None:
    study, cells = load("quickstart", ["report.margin=2.5"])
    create(study, cells[0], tmp_path)
    assert StudyFolder(tmp_path / "quickstart").plan().margin == 2.5


# -- what else stands in it -------------------------------------------------------------------------------------------


def test_a_verdict_on_part_of_a_study_says_so(study: Callable[..., StudyFolder]) -> None:
    folder = study(DEGRADES)
    runs = folder.plan().runs
    runs.append(write_run(folder.folder, "plain", 56, 0, 0.3, state="interrupted"))
    folder.write_plan(StudyPlan(name="study", runs=runs))
    verdict = summarise(folder).verdict
    assert verdict.headline.startswith("So far: from 8 to 44 layers, the training error rises by 55.0 points")
    assert verdict.sentences[-1] == "Not counted, since not finished: plain-56 seed 0 (interrupted)."


def test_runs_that_diverged_are_a_result(study: Callable[..., StudyFolder]) -> None:
    """They have ended, so the verdict is no "so far"; and without them it may say the contrary of what they show."""
    folder = study({("plain", 8): [10, 11, 12], ("plain", 44): [10, 11, 12.2]})
    runs = folder.plan().runs
    runs += [
        write_run(folder.folder, "plain", 56, seed, 0.9, state="diverged" if seed else "finished") for seed in (0, 1)
    ]
    folder.write_plan(StudyPlan(name="study", runs=runs))
    assert summarise(folder).verdict.headline.endswith(". Diverged, so not in these numbers: 1 of 2 runs of plain-56.")


def test_a_kind_that_has_one_variant_is_judged_by_it(study: Callable[..., StudyFolder]) -> None:
    assert summarise(study(DEGRADES, variant="-width8")).verdict.families == ["plain width8", "residual width8"]


def test_of_several_variants_the_papers_shortcut_is_judged(study: Callable[..., StudyFolder]) -> None:
    folder = study({net: errors for net, errors in DEGRADES.items() if net[0] == "plain"})
    runs = folder.plan().runs
    for option, deep in (("A", 0.05), ("B", 0.5)):
        for depth, error in ((8, 0.1), (44, deep)):
            for seed in range(3):
                options = {"variant": f"-shortcut{option}", "model": {"shortcut": option}}
                runs.append(write_run(folder.folder, "residual", depth, seed, error + seed / 100, **options))
    folder.write_plan(StudyPlan(name="study", runs=runs))
    verdict = summarise(folder).verdict
    assert verdict.residual is not None
    assert verdict.residual.overall.value == pytest.approx(-5.0)


def test_what_must_be_known_of_a_finished_run_stands_under_the_verdict(study: Callable[..., StudyFolder]) -> None:
    verdict = summarise(study(DEGRADES, message="its warm-up never ended")).verdict
    told = [sentence for sentence in verdict.sentences if "warm-up" in sentence]
    seeds = ", ".join(f"plain-{depth} seed {seed}" for depth in (8, 44) for seed in range(3))
    assert told == [f"{seeds} and 6 more: its warm-up never ended."]  # once, not once per run


def test_the_verdict_gives_its_numbers(study: Callable[..., StudyFolder]) -> None:
    verdict = summarise(study(DEGRADES)).verdict
    low, high = stats.ttest_ind([58, 60, 62], [9, 10, 11], equal_var=False).confidence_interval(0.95)
    assert verdict.sentences == [
        "Difference of the rises, (plain-44 minus plain-8) minus (residual-44 minus residual-8): +55.0 points [+51.1, "
        "+58.9].",
        "Plain nets: training error 10.0 % at depth 8, 60.0 % at depth 44: "
        f"+50.0 points [{low:+.1f}, {high:+.1f}], 3 seeds each.",
        "Residual nets: training error 10.0 % at depth 8, 5.0 % at depth 44: -5.0 points [-7.3, -2.7], 3 seeds each.",
        "At depth 44, plain minus residual: +55.0 points [+50.8, +59.2].",
        "A rise counts as none if it is shown to be below a tenth of the plain nets' rise, 5.0 points here.",
    ]


def test_the_verdict_states_the_trend_over_all_depths(study: Callable[..., StudyFolder]) -> None:
    """Three depths with two seeds, in order throughout: one of 90 arrangements."""
    errors = {("plain", 8): [10, 11], ("plain", 20): [12, 13], ("plain", 44): [60, 61]}
    verdict = summarise(study(errors)).verdict
    assert verdict.plain_trend is not None
    assert verdict.plain_trend.p == pytest.approx(1 / 90)
    assert verdict.sentences[1] == (
        "Plain nets, trend over depths 8, 20 and 44: "
        "in 12 of 12 pairs, the deeper run has the higher error, p = 0.011 (Jonckheere-Terpstra, one-sided)."
    )


def test_many_depths_of_a_trend_are_counted(study: Callable[..., StudyFolder]) -> None:
    errors = {("plain", 8 + 6 * i): [10.0 + i] for i in range(50)}
    assert "Plain nets, trend over depths 8 to 302 (50 of them): in 1225 of 1225 pairs, " in "".join(
        summarise(study(errors)).verdict.sentences
    )


def test_one_seed_a_net_is_descriptive_but_for_its_trend(study: Callable[..., StudyFolder]) -> None:
    verdict = summarise(study({("plain", depth): [depth] for depth in (8, 20, 44)})).verdict
    assert verdict.headline == (
        "One seed, descriptive only: from depth 8 to 44 the training error changes by +36.0 points in plain nets "
        "(plain trend: p = 0.167). No verdict on residual nets: no residual net has finished."
    )


def test_an_error_that_falls_and_then_rises_degrades_from_its_best_depth_on(study: Callable[..., StudyFolder]) -> None:
    errors = {("plain", 8): [30, 31], ("plain", 20): [6, 7], ("plain", 32): [4, 5], ("plain", 44): [30, 31]}
    verdict = summarise(study(errors)).verdict
    assert verdict.headline.startswith("Plain nets degrade from depth 32 on.")
    assert verdict.sentences[1].startswith("Plain nets, compared with their best depth, 32: +26.0 points [+20.")


def test_unequal_numbers_of_parameters_are_named(study: Callable[..., StudyFolder]) -> None:
    folder = study(DEGRADES)
    for run in folder.runs():
        record = run.manifest()
        assert record is not None
        if "residual-8" in str(run.folder):
            run.write_manifest(record.model_copy(update={"parameters": 9_280}))
    sentence = "Residual nets have other numbers of parameters: +16.0% at depth 8, +0.0% at depth 44."
    assert sentence in summarise(folder).verdict.sentences


def test_nets_of_one_seed_are_left_out_where_others_have_several(study: Callable[..., StudyFolder]) -> None:
    verdict = summarise(study(DEGRADES | {("plain", 56): [90]})).verdict
    assert verdict.plain is not None
    assert verdict.plain.deepest == 44
    assert "Left out of the verdict, with one seed each: plain-56." in verdict.sentences


def test_of_variants_alike_the_one_named_first_is_judged_and_the_verdict_says_so(
    study: Callable[..., StudyFolder],
) -> None:
    folder = study(DEGRADES, variant="-precisionfp32")
    add_family(folder, "precisionbf16", DEGRADES, train={"precision": "bf16"})
    verdict = summarise(folder).verdict
    assert verdict.families == ["plain precisionfp32", "residual precisionfp32"]
    assert verdict.sentences[-2:] == [
        "The verdict is on the families plain precisionfp32 and residual precisionfp32.",
        "Left out of the verdict, since they differ: plain precisionbf16, residual precisionbf16 (train.precision).",
    ]


@pytest.mark.parametrize("field", ["shortcut", "residual_init", "residual_scale", "drop_path"])
def test_what_only_residual_branches_have_keeps_no_plain_net_from_being_compared(field: str) -> None:
    assert differences([{}, {f"model.{field}": "another"}], BRANCH) == []
