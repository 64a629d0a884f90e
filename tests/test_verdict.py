"""What a study shows: intervals, the trend over all depths, and the verdict that rests on both."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import permutations

import pytest

from resexp.records import Plan
from resexp.report import estimates
from resexp.report.estimates import Estimate, difference, trend
from resexp.report.summary import summarise
from resexp.store import StudyFolder
from tests.test_report import DEGRADES, add_family, study, write_run

__all__ = ["study"]

# -- numbers ----------------------------------------------------------------------------------------------------------


def test_welchs_interval_against_a_textbook_case() -> None:
    """Means 20 and 10, standard errors 1 and 1, 2 + 2 degrees of freedom: 10 ± 2.776 * sqrt(2)."""
    root3 = 3**0.5
    a, b = Estimate((20 - root3, 20.0, 20 + root3)), Estimate((10 - root3, 10.0, 10 + root3))
    result = difference(a, b)
    assert (result.low, result.high) == pytest.approx((10 - 2.776 * 2**0.5, 10 + 2.776 * 2**0.5))
    assert difference(Estimate((5.0,)), b).low is None


def test_the_interval_of_a_mean_against_a_textbook_case() -> None:
    """Mean 20, standard deviation 2, four seeds, 3 degrees of freedom: 20 ± 3.182 * 2 / 2."""
    root = 3**0.5
    estimate = Estimate((20 - root, 20 - root, 20 + root, 20 + root))
    assert estimate.std == pytest.approx(2)
    assert estimate.interval == pytest.approx((20 - 3.182, 20 + 3.182))
    assert Estimate((5.0,)).interval is None


# -- the trend over all depths ----------------------------------------------------------------------------------------


def test_with_one_seed_a_depth_the_trend_counts_the_orders_of_the_depths() -> None:
    """Of the six orders of three values one rises throughout, three have two rising pairs or more."""
    found = [trend({8: [a], 20: [b], 32: [c]}) for a, b, c in ((1, 2, 3), (1, 3, 2), (3, 2, 1))]
    assert [t.statistic for t in found if t] == [3, 2, 0]
    assert [t.p for t in found if t] == pytest.approx([1 / 6, 3 / 6, 1])
    four = trend({8: [1], 20: [2], 32: [3], 56: [4]})
    assert four is not None
    assert four.p == pytest.approx(1 / 24)


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


def test_two_depths_have_no_trend() -> None:
    assert trend({8: [1, 2], 20: [3, 4]}) is None


# -- the verdict ------------------------------------------------------------------------------------------------------


def plain_and_residual(plain: list[list[float]], residual: list[list[float]]) -> dict[tuple[str, int], list[float]]:
    return {
        ("plain", 8): plain[0], ("plain", 44): plain[1], ("residual", 8): residual[0], ("residual", 44): residual[1],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("errors", "headline"),
    [
        (DEGRADES, "Plain nets degrade with depth; residual nets gain from it."),
        (
            plain_and_residual([[9, 10, 11], [58, 60, 62]], [[9, 10, 11], [9, 10, 11.5]]),
            "Plain nets degrade with depth; residual nets do not, within seed noise.",
        ),
        (
            plain_and_residual([[9, 10, 11], [58, 60, 62]], [[9, 10, 11], [19, 20, 21]]),
            "Plain nets degrade with depth; shortcuts take away 80 % of it.",
        ),
        (
            plain_and_residual([[9, 10, 11], [58, 60, 62]], [[9, 10, 11], [57, 59, 61]]),
            "Plain nets degrade with depth; whether shortcuts prevent it is inconclusive.",
        ),
        (
            plain_and_residual([[9, 10, 11], [9, 11, 13]], [[9, 10, 11], [4, 5, 6]]),
            "Inconclusive: the plain nets' training error does not change with depth by more than seed noise.",
        ),
        (
            plain_and_residual([[58, 60, 62], [9, 10, 11]], [[9, 10, 11], [4, 5, 6]]),
            "No degradation: the deepest plain net has a lower training error than the shallowest.",
        ),
        (
            plain_and_residual([[10], [60]], [[10], [5]]),
            "One seed, descriptive only: the plain nets' training error rises with depth.",
        ),
        (
            plain_and_residual([[9, 10, 11], [39, 40, 41]], [[1, 2, 3], [34, 35, 36]]),
            "Plain nets degrade with depth, and residual nets no less, from a lower level.",
        ),
        (
            plain_and_residual([[9, 10, 11], [39, 40, 41]], [[9, 10, 11], [59, 60, 61]]),
            "Plain nets degrade with depth; residual nets are worse still.",
        ),
        (
            {("plain", 8): [9, 10, 11], ("plain", 44): [39, 40, 41]},
            "Plain nets degrade with depth; no one family of residual nets has finished at the same depths.",
        ),
        (
            {("plain", 8): [10, 11]},
            "No verdict: it takes finished plain nets of at least two depths, alike but for that.",
        ),
    ],
)
def test_the_verdict(
    study: Callable[..., StudyFolder], errors: dict[tuple[str, int], list[float]], headline: str
) -> None:
    assert summarise(study(errors)).verdict.headline == headline


def test_a_verdict_on_part_of_a_study_says_so(study: Callable[..., StudyFolder]) -> None:
    folder = study(DEGRADES)
    runs = folder.plan().runs
    runs.append(write_run(folder.folder, "plain", 56, 0, 0.3, state="diverged"))
    folder.write_plan(Plan(name="study", runs=runs))
    verdict = summarise(folder).verdict
    assert verdict.headline == "So far: plain nets degrade with depth; residual nets gain from it."
    assert verdict.sentences[-1] == "Not counted, since not finished: plain-56 seed 0 (diverged)."


def test_a_kind_that_has_one_variant_is_judged_by_it(study: Callable[..., StudyFolder]) -> None:
    assert summarise(study(DEGRADES, variant="-width8")).verdict.headline.startswith("Plain nets degrade")


def test_of_several_variants_the_papers_shortcut_is_judged(study: Callable[..., StudyFolder]) -> None:
    folder = study({net: errors for net, errors in DEGRADES.items() if net[0] == "plain"})
    runs = folder.plan().runs
    for option, deep in (("A", 0.05), ("B", 0.5)):
        for depth, error in ((8, 0.1), (44, deep)):
            for seed in range(3):
                options = {"variant": f"-shortcut{option}", "model": {"shortcut": option}}
                runs.append(write_run(folder.folder, "residual", depth, seed, error + seed / 100, **options))
    folder.write_plan(Plan(name="study", runs=runs))
    verdict = summarise(folder).verdict
    assert verdict.residual is not None
    assert verdict.residual.value == pytest.approx(-5.0)


def test_what_must_be_known_of_a_finished_run_stands_under_the_verdict(study: Callable[..., StudyFolder]) -> None:
    verdict = summarise(study(DEGRADES, message="its warm-up never ended")).verdict
    assert "plain-8 seed 0: its warm-up never ended." in verdict.sentences


def test_the_verdict_gives_its_numbers(study: Callable[..., StudyFolder]) -> None:
    verdict = summarise(study(DEGRADES)).verdict
    # Standard errors 1/sqrt(3) and 2/sqrt(3): Welch's degrees of freedom are 2.94, t(2) = 4.303 is taken.
    assert verdict.sentences[0] == (
        "Plain nets: training error 10.0 % at depth 8, 60.0 % at depth 44: +50.0 points [+44.4, +55.6], 3 and 3 seeds."
    )
    assert verdict.gap is not None
    assert verdict.gap.value == pytest.approx(55.0)


def test_the_verdict_states_the_trend_over_all_depths(study: Callable[..., StudyFolder]) -> None:
    """Three depths with two seeds, in order throughout: one of 90 arrangements."""
    errors = {("plain", 8): [10, 11], ("plain", 20): [12, 13], ("plain", 44): [60, 61]}
    verdict = summarise(study(errors)).verdict
    assert verdict.plain_trend is not None
    assert verdict.plain_trend.p == pytest.approx(1 / 90)
    assert verdict.sentences[1] == (
        "Plain nets, trend over depths 8, 20 and 44: "
        "the deeper has the higher error in 12 of 12 pairs of runs, p = 0.011 (Jonckheere-Terpstra, one-sided)."
    )
    assert verdict.headline.startswith("Plain nets degrade with depth")


def test_one_seed_a_net_is_descriptive_but_for_its_trend(study: Callable[..., StudyFolder]) -> None:
    verdict = summarise(study({("plain", depth): [depth] for depth in (8, 20, 32, 44)})).verdict
    assert verdict.headline == (
        "One seed, descriptive only: the plain nets' training error rises with depth (trend: p = 0.042)."
    )


def test_degradation_is_not_claimed_from_the_extremes_alone(study: Callable[..., StudyFolder]) -> None:
    errors = {("plain", 8): [10, 11], ("plain", 20): [6, 7], ("plain", 32): [4, 5], ("plain", 44): [30, 31]}
    verdict = summarise(study(errors)).verdict
    assert verdict.plain is not None
    assert verdict.plain.sign == 1
    assert verdict.headline == (
        "Inconclusive: the plain nets' training error is not shown to rise over all depths (p = 0.549), "
        "but the deepest is above the shallowest by more than seed noise."
    )


def test_degradation_is_not_claimed_from_the_trend_alone(study: Callable[..., StudyFolder]) -> None:
    errors = {("plain", 8): [10, 14], ("plain", 20): [15, 16], ("plain", 32): [17, 18], ("plain", 44): [19, 24]}
    assert summarise(study(errors)).verdict.headline == (
        "Inconclusive: the plain nets' training error rises over all depths (p < 0.001), "
        "but the deepest is not above the shallowest by more than seed noise."
    )


def test_residual_nets_are_not_said_to_hold_where_their_trend_rises(study: Callable[..., StudyFolder]) -> None:
    errors = {("plain", 8): [10, 11], ("plain", 20): [40, 41], ("plain", 44): [90, 91]}
    errors |= {("residual", 8): [10, 14], ("residual", 20): [15, 16], ("residual", 44): [17, 22]}
    assert summarise(study(errors)).verdict.headline == (
        "Plain nets degrade with depth; for residual nets it is inconclusive: the residual nets' training error rises "
        "over all depths (p = 0.011), but the deepest is not above the shallowest by more than seed noise."
    )


def test_of_variants_alike_the_one_named_first_is_judged_and_the_verdict_says_so(
    study: Callable[..., StudyFolder],
) -> None:
    folder = study(DEGRADES, variant="-precisionfp32")
    add_family(folder, "precisionbf16", DEGRADES, train={"precision": "bf16"})
    verdict = summarise(folder).verdict
    assert verdict.families == ["plain precisionfp32", "residual precisionfp32"]
    assert verdict.sentences[-1] == (
        "Judged: plain precisionfp32 and residual precisionfp32. "
        "No part of the verdict: plain precisionbf16, residual precisionbf16."
    )
