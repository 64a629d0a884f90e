"""The best rate for each depth: how it is chosen, what is shown of it, and what a study without several rates shows."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from resexp.report import build_report
from resexp.report.estimates import Estimate, difference
from resexp.report.summary import summarise
from resexp.report.tuning import Tuned, section, slope, tune
from resexp.runs.store import StudyFolder
from tests.test_report import SMALL, Errors, add_family, study

__all__ = ["study"]

Make = Callable[..., StudyFolder]

AT_PAPERS: Errors = {
    ("plain", 8): [20, 22], ("plain", 20): [30, 33], ("plain", 44): [60, 66],
    ("residual", 8): [18, 19], ("residual", 20): [17, 18], ("residual", 44): [16, 18],
}  # fmt: skip
LOWER: Errors = {
    ("plain", 8): [25, 26], ("plain", 20): [28, 29], ("plain", 44): [50, 52],
    ("residual", 8): [22, 23], ("residual", 20): [21, 22], ("residual", 44): [20, 21],
}  # fmt: skip


@pytest.fixture
def two_rates(study: Make) -> StudyFolder:
    folder = study(AT_PAPERS, variant="-lr=0.1")
    add_family(folder, "lr=0.01", LOWER, train={"lr": 0.01})
    return folder


def test_a_rate_is_chosen_without_the_seed_that_it_is_shown_with() -> None:
    """Rate 1 is best on the means; without seed 2 it is, and without 0 or 1 rate 2 is."""
    found = tune(pd.DataFrame({1.0: {0: 10, 1: 10, 2: 40}, 2.0: {0: 30, 1: 30, 2: 5}}))
    assert found.rates == (2.0, 2.0, 1.0)
    assert found.error.values == (30, 30, 40)


def test_choosing_does_not_make_noise_look_like_gain() -> None:
    """Ten rates that do the same: the lowest of ten means is too low, the error shown is not."""
    rng = np.random.default_rng(0)
    shown, lowest = [], []
    for _ in range(400):
        values = 50 + rng.normal(size=(10, 3))
        shown.append(tune(pd.DataFrame(values.T)).error.mean)
        lowest.append(values.mean(axis=1).min())
    assert abs(np.mean(shown) - 50) < 3 * np.std(shown) / 20
    assert np.mean(lowest) < 49.3


def test_a_rate_that_lost_a_seed_is_not_chosen() -> None:
    assert tune(pd.DataFrame({1.0: {0: 10.0}, 2.0: {0: 30.0, 1: 30.0}})).rates == (2.0, 2.0)


def test_the_exponent_is_that_of_least_squares() -> None:
    error = Estimate((1.0, 2.0))
    exact = {depth: Tuned((depth**-1.5,) * 2, error) for depth in (8, 20, 56)}
    assert slope(exact) == pytest.approx(-1.5)
    noisy = {8: Tuned((0.3, 0.1), error), 20: Tuned((0.1, 0.1), error), 56: Tuned((0.03, 0.01), error)}
    x = [math.log(depth) for depth in (8, 20, 56)]
    y = [math.log(rate) for rate in (math.sqrt(0.3 * 0.1), 0.1, math.sqrt(0.03 * 0.01))]
    assert slope(noisy) == pytest.approx(stats.linregress(x, y).slope)
    assert slope({8: noisy[8], 20: noisy[20]}) is None
    assert slope({depth: Tuned((0.1, 0.1), error) for depth in (8, 20, 56)}) is None


@pytest.mark.parametrize(("seeds", "least", "most"), [(3, 0.84, 0.93), (10, 0.74, 0.85)])
def test_the_intervals_are_as_narrow_as_the_caption_says(seeds: int, least: float, most: float) -> None:
    """Five rates that are equally good, at two depths: the worst case of the simulations."""
    chance, studies, held = np.random.default_rng(99 + seeds), 300, 0
    for _ in range(studies):
        errors = [chance.normal(mean, deviation, (seeds, 5)) for mean, deviation in ((52, 1), (78, 2))]
        shallow, deep = (tune(pd.DataFrame(of_depth)).error for of_depth in errors)
        found = difference(deep, shallow)
        assert found.low is not None
        assert found.high is not None
        held += found.low <= 26 <= found.high
    assert least <= held / studies <= most


def test_both_verdicts_are_told(two_rates: StudyFolder) -> None:
    found = section(summarise(two_rates).all_families)
    assert found
    best, fixed, ends, exponent = found.headline.split(". ", 3)
    assert best.startswith(
        "With the rate that is best for each depth, the training error changes from 8 to 44 layers by "
    )
    assert "+30.0 points" in best
    assert ": a difference of +31.5 points" in best  # 51 - 21 and 17 - 18.5
    assert found.lead == f"{best}."
    assert fixed.startswith(
        "With a rate of 0.1 at every depth, the training error changes from 8 to 44 layers by +42.0 "
    )
    assert ends.startswith("The best rate is the lowest or highest that was tried in plain-8, plain-20, plain-44, ")
    assert exponent.startswith("The best of these rates goes with depth roughly to the power of -1.4 in plain nets")
    assert "theory for ReLU nets without convolutions: -1.5, Jelassi et al. 2023" in exponent
    assert found.table
    assert found.table[1][2] == ["plain-44", "0.01", "51.00 ± 1.41", "63.00 ± 4.24"]


def test_the_verdict_is_on_the_rate_of_the_paper_whatever_the_order_of_the_study(study: Make) -> None:
    folder = study(LOWER, variant="-lr=0.01", train=SMALL.model_copy(update={"lr": 0.01}))
    add_family(folder, "lr=0.1", AT_PAPERS)
    summary = summarise(folder)
    assert summary.verdict.families == ["plain lr=0.1", "residual lr=0.1"]
    assert [control.condition for control in summary.controls] == ["lr=0.1", "lr=0.01"]
    assert summary.verdict.headline.startswith("With lr=0.1: from 8 to 44 layers, the training error rises by ")
    assert summary.seen.startswith("Training error from 8 to 44 layers with lr=0.1: +42.0 points in plain nets")


def test_rates_of_plain_nets_alone_do_not_lead_the_page(study: Make) -> None:
    folder = study(AT_PAPERS)
    add_family(
        folder, "lr=0.01", {net: errors for net, errors in LOWER.items() if net[0] == "plain"}, train={"lr": 0.01}
    )
    found = section(summarise(folder).all_families)
    assert found
    assert (found.lead, "best for each depth" in found.headline) == ("", True)


def test_the_page_has_a_section_and_a_figure(two_rates: StudyFolder) -> None:
    build_report(two_rates, two_rates.folder / "report")
    assert "The best rate for each depth" in (two_rates.folder / "report/index.html").read_text()
    assert (two_rates.folder / "report/figures/tuned-rates.png").exists()


def test_a_depth_whose_rates_have_finished_other_seeds_is_left_out(two_rates: StudyFolder) -> None:
    plan = two_rates.plan()
    lost = {("plain-20-lr=0.1", "seed0"), ("plain-20-lr=0.01", "seed1")}
    runs = [run for run in plan.runs if (run.label, run.folder.rpartition("/")[2]) not in lost]
    two_rates.write_plan(plan.model_copy(update={"runs": runs}))
    found = section(summarise(two_rates).all_families)
    assert found
    assert found.table
    assert [row[0] for row in found.table[1]] == ["plain-8", "plain-44", "residual-8", "residual-20", "residual-44"]


def test_one_rate_has_no_section(study: Make) -> None:
    assert section(summarise(study(AT_PAPERS)).all_families) is None


def test_families_that_differ_in_more_than_the_rate_are_not_one_choice(study: Make) -> None:
    folder = study(AT_PAPERS)
    add_family(folder, "lr=0.01-gamma", LOWER, train={"lr": 0.01, "gamma": 0.5})
    assert section(summarise(folder).all_families) is None
