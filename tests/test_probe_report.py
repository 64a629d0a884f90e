"""What the report says of probes: the numbers of its sentences, and records that are missing, damaged or foreign."""

from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from resexp.report import build_report, formatting
from resexp.report.formatting import digits
from resexp.report.probes import PageSection, probe_sections, shattering
from resexp.report.probes.gradients import Gradients
from resexp.report.summary import summarise
from resexp.runs.logits import Logits
from resexp.runs.store import Run, StudyFolder
from resexp.training.probing import write_record
from tests.test_report import SMALL, add_family, study

__all__ = ["study"]

Study = Callable[..., StudyFolder]
END = SMALL.steps


@pytest.fixture
def folder(study: Study) -> StudyFolder:
    """Nets of 8 and 20 layers of both kinds, two seeds each."""
    return study({(kind, depth): [10.0, 12.0] for kind in ("plain", "residual") for depth in (8, 20)})


def run_of(folder: StudyFolder, label: str, seed: int = 0) -> Run:
    (run,) = (run for run in folder.runs() if run.title == f"{label} seed {seed}")
    return run


def put(folder: StudyFolder, label: str, seed: int, name: str, step: int, **record: Any) -> Path:
    run = run_of(folder, label, seed)
    write_record(run, {"probe": name, "step": step, **record})
    return run.probe_path(name, step)


def shown(folder: StudyFolder) -> tuple[dict[str, PageSection], list[str]]:
    sections, remarks = probe_sections(folder, summarise(folder))
    return {section.title: section for section in sections}, remarks


def gradients(
    norms: list[float],
    near: float,
    snr: float = 0.5,
    weights: list[float] | None = None,
    snrs: list[float] | None = None,
) -> dict[str, Any]:
    rows = zip(norms, weights or [1.0] * len(norms), snrs or [0.1] * len(norms), strict=True)
    layers = [
        {"layer": f"layer{n}", "norm": norm, "snr": ratio, "weight_norm": weight}
        for n, (norm, weight, ratio) in enumerate(rows)
    ]
    return {"layers": layers, "norm": 1.0, "snr": snr, "distances": [0.01, 0.1, 1.0], "agreement": [0.9, near, 0.0]}


def lines_of(section: PageSection, figure: str, panel: tuple[int, int] = (0, 0)) -> list[list[float]]:
    """What the lines of a panel show, without those that are there for the legend."""
    axes = section.plots[figure].panels[panel[0]][panel[1]]
    return [list(map(float, line.get_ydata())) for line in axes.lines if len(line.get_ydata())]


# -- sentences ---------------------------------------------------------------------------------------------------------


def test_gradients_times_weights_at_both_moments_before_the_classifier(folder: StudyFolder) -> None:
    """Seeds of 2 x 1 and 8 x 4 have a geometric mean of 8; six layers lie between those of plain-8, 18 of plain-20."""
    for seed, weight in ((0, 1.0), (1, 4.0)):
        record = gradients([2.0 + 6 * seed, 5.0, 1.0, 9.0], 0.8 - 0.2 * seed, weights=[weight, 1.0, 1.0, 1.0])
        put(folder, "plain-8", seed, "gradients", 0, **record)
        put(folder, "plain-20", seed, "gradients", 0, **gradients([100.0**seed * 50, 5.0, 0.5, 9.0], 0.1))
    put(folder, "residual-8", 0, "gradients", 0, **gradients([1.0, 5.0, 2.0, 9.0], 0.9))
    put(folder, "plain-20", 0, "gradients", END, **gradients([0.1, 5, 1.0, 9.0], 0.1, weights=[300.0, 9.0, 2.0, 1.0]))
    sections, remarks = shown(folder)
    assert remarks == []
    section = sections["Gradients"]
    assert section.headline == (
        "|g| |w| of the first layer, divided by that of the last layer before the classifier, is at initialisation "
        "1,000 (100 to 1.0e4) in plain-20, 0.50 in residual-8; trained 15 in plain-20. The largest |w| of a layer is "
        "at "
        "initialisation 1.0 in plain-20, 1.0 in residual-8; trained 300 in plain-20 (1 to 2 seeds). If noise of 10 % "
        "of "
        "an image's norm is added, the cosine between the old gradient and the new one is at initialisation, from the "
        "shallowest net to the deepest, 0.7 to 0.1 in plain nets of 8 to 20 layers, 0.9 in residual nets of 8 layers."
    )
    assert section.table is not None
    header, rows = section.table
    assert header[3:7] == [
        "norm of g, first / last", "times norm of w, first / last", "growth per layer", "largest norm of w"
    ]  # fmt: skip
    assert [row[:7] for row in rows] == [
        [
            "plain-8",
            "at initialisation",
            "2",
            "4.0 (2.0 to 8.0)",
            "8.0 (2.0 to 32)",
            "1.41 [0.08, 26.64]",
            "2.0 (1.0 to 4.0)",
        ],
        [
            "plain-20",
            "at initialisation",
            "2",
            "1,000 (100 to 1.0e4)",
            "1,000 (100 to 1.0e4)",
            "1.47 [0.29, 7.46]",
            "1.0",
        ],
        ["residual-8", "at initialisation", "1", "0.50", "0.50", "0.89", "1.0"],
        ["plain-20", "trained", "1", "0.10", "15", "1.16", "300"],
    ]
    assert lines_of(section, "probe-gradients-norm")[0] == pytest.approx([4, 5, 1, 9])
    assert lines_of(section, "probe-gradients-product")[0] == pytest.approx([8, 5, 1, 9])
    assert lines_of(section, "probe-gradients-weights") == pytest.approx(np.array([[2, 1, 1, 1], [1, 1, 1, 1]]))
    assert lines_of(section, "probe-gradients-product", (1, 0)) == [pytest.approx([30, 45, 2, 9])]
    assert lines_of(section, "probe-gradients-norm", (1, 1)) == []  # no trained residual net was looked at
    assert lines_of(section, "probe-gradients-agreement") == [[0.9, pytest.approx(0.7), 0], [0.9, 0.1, 0]]


@pytest.mark.parametrize(
    ("kind", "law", "exponent", "says"),
    [
        ("plain", lambda depth: 0.9 * 2 ** (-0.25 * (depth - 8)), -0.25, "2^(-0.25 [-0.25, -0.25] L)"),
        ("residual", lambda depth: 0.9 * (depth / 8) ** -0.5, -0.5, "L^(-0.50 [-0.50, -0.50])"),
    ],
)
def test_a_law_of_depth_has_its_exponent(kind: str, law: Callable[[int], float], exponent: float, says: str) -> None:
    exact = shattering.fit(kind, [(depth, law(depth)) for depth in (8, 20, 32, 56)])
    assert exact is not None
    assert exact.exponent.value == pytest.approx(exponent, abs=1e-6)
    assert str(exact) == says


def test_the_interval_of_an_exponent_holds_it_in_95_of_100_studies() -> None:
    """Agreements of plain nets with noise, which makes some of them negative."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        points = [(depth, 0.6 * 2 ** (-0.1 * (depth - 8)) + rng.normal(scale=0.02)) for depth in (8, 14, 20, 32) * 2]
        found = shattering.fit("plain", points)
        assert found is not None
        held += found.exponent.low <= -0.1 <= found.exponent.high  # type: ignore[operator]
    assert 0.92 < held / 400 < 0.98


@pytest.mark.parametrize(
    "points",
    [
        [(8, 0.9), (20, 0.5)],
        [(8, 0.9), (8, 0.8), (20, 0.5), (20, 0.6)],
        [(8, 0.01), (20, -0.02), (32, 0.02), (56, -0.01)],
        [(8, math.nan), (20, math.nan), (32, math.nan)],
        [(8, 0.0), (20, 0.0), (32, 0.0)],
    ],
    ids=["two nets", "two depths", "noise", "no gradient", "zero"],
)
def test_what_is_no_law_is_not_fitted(points: list[tuple[int, float]]) -> None:
    assert [shattering.fit(kind, points) for kind in ("plain", "residual", "vgg")] == [None, None, None]


def test_agreement_against_depth_with_theory(study: Study) -> None:
    folder = study({(kind, depth): [10.0] for kind in ("plain", "residual") for depth in (8, 14, 20)})
    for depth in (8, 14, 20):
        for kind, near in (("plain", 0.8 * 2 ** (-0.5 * (depth - 8))), ("residual", 0.8 * (8 / depth) ** 0.5)):
            record = gradients([1.0, 1.0, 1.0], 0.1) | {"distances": [0.01, 0.1], "agreement": [near, 0.1]}
            put(folder, f"{kind}-{depth}", 0, "gradients", 0, **record)
    section = shown(folder)[0]["Gradients"]
    assert section.headline.endswith(
        "With noise of 1 % the cosine falls with depth L as 2^(-0.50 [-0.50, -0.50] L) in plain nets (theory: 2^-L), "
        "L^(-0.50 [-0.50, -0.50]) in residual nets (theory: L^-0.5); the theory is for distant inputs."
    )
    measured, fitted, theory, *residual = lines_of(section, "probe-gradients-depth")
    assert measured == pytest.approx([0.8, 0.1, 0.0125])
    assert (fitted[0], fitted[-1]) == pytest.approx((0.8, 0.0125))
    assert (theory[0], theory[-1]) == pytest.approx((0.8, 0.8 / 4096))
    assert residual[1] == pytest.approx(residual[2])


def test_signal_to_noise_with_and_without_the_classifier(folder: StudyFolder) -> None:
    """A layer's |g|^2 is its signal and its noise: 3 and 1 make 4 with a ratio of 3, 4 and 5 make 9 with one of 0.8.

    Together they have 7 of signal and 6 of noise; the layer without a gradient has no part in it.
    """
    record = gradients([2.0, 3.0, 0.0, 9.0], 0.5, snr=50.0, snrs=[3.0, 0.8, math.nan, 99.0])
    put(folder, "plain-8", 0, "gradients", END, **record)
    section = shown(folder)[0]["Gradients"]
    whole, rest = (lines_of(section, "probe-gradients-snr", (0, panel)) for panel in (0, 1))
    assert (whole, rest) == ([[50.0]], [[pytest.approx(7 / 6)]])
    assert section.table is not None
    assert section.table[1][0][7:] == ["50", "1.2"]


def test_projections_are_no_step_of_the_way_back(study: Study) -> None:
    record = gradients([8.0, 4.0, 2.0, 77.0, 9.0], 0.5)
    record["layers"][3]["layer"] = "stages.2.0.shortcut.0"
    assert Gradients.model_validate({"probe": "gradients", "step": 0, **record}).rise("norm") == 4.0


def test_small_numbers_have_two_digits_and_large_ones_no_fraction() -> None:
    assert [formatting.number(value) for value in (0.0123, 9.96, 99.4, 99.6, 1234.5)] == [
        "0.012",
        "10",
        "99",
        "100",
        "1,234",
    ]


@pytest.mark.parametrize(
    ("value", "shown_as"),
    [
        (0.0123, "0.012"), (0.1, "0.10"), (0.996, "1.0"), (4.04, "4.0"), (9.96, "10"), (746.2, "750"),
        (1594.0, "1,600"), (9960.0, "1.0e4"), (38_095_315.0, "3.8e7"), (-0.0042, "-0.0042"), (4.2e-5, "4.2e-5"),
        (math.nan, "nan"), (math.inf, "inf"),
    ],
)  # fmt: skip
def test_numbers_that_span_decades_have_two_digits(value: float, shown_as: str) -> None:
    assert digits(value) == shown_as


def test_signals_at_both_moments(folder: StudyFolder) -> None:
    """Variances of 1.41e6 and 7.48e7 have a geometric mean of 1.0e7; their mean, 3.8e7, is half the second."""
    for seed, step, variances in ((0, 0, [0.1, 1.0]), (0, END, [2.0, 1.41e6]), (1, END, [8.0, 7.48e7])):
        layers = [{"layer": f"layer{n}", "mean": 0.0, "variance": v} for n, v in enumerate(variances)]
        put(folder, "plain-20", seed, "signals", step, layers=layers, blocks=[])
    section = shown(folder)[0]["Signals"]
    assert section.headline == (
        "The largest variance of a layer's output is at initialisation 1.0 in plain-20; trained 1.0e7 (1.4e6 to 7.5e7) "
        "in plain-20 (1 to 2 seeds)."
    )
    assert section.table == (
        ["net", "moment", "seeds", "smallest variance", "largest variance"],
        [
            ["plain-20", "at initialisation", "1", "0.10", "1.0"],
            ["plain-20", "trained", "2", "4.0 (2.0 to 8.0)", "1.0e7 (1.4e6 to 7.5e7)"],
        ],
    )


def test_responses_beside_fig_7_which_nets_of_another_recipe_are_not_comparable_with(folder: StudyFolder) -> None:
    for label, std in (("plain-8", 0.5), ("plain-20", 2.0)):
        layers = [{"layer": "conv", "std": std, "channel_std": std}, {"layer": "next", "std": 3 * std}]
        put(folder, label, 0, "responses", END, layers=layers, mean_std=2 * std)
    section = shown(folder)[0]["Layer responses"]
    assert section.headline == ("The standard deviation's mean over layers, trained: plain-8 1.00, plain-20 4.00.")
    assert lines_of(section, "probe-responses", (0, 1)) == [[1.5, 0.5], [6, 2]]


def test_branches_at_both_ends_of_the_axis(folder: StudyFolder) -> None:
    for label, ratios in (("residual-8", [0.5, 0.7, 9.0]), ("residual-20", [0.0, 0.2, math.inf])):
        blocks = [{"block": f"stages.{n}.0", "ratio": ratio} for n, ratio in enumerate(ratios)]
        put(folder, label, 0, "branches", END, blocks=blocks)
    section = shown(folder)[0]["Residual branches"]
    assert section.headline == (
        "The median of |F(x)| / |x| over the blocks of a net is 0.7 at depth 8, nan at depth 20 in residual nets, "
        "trained."
    )
    assert lines_of(section, "probe-branches")[1] == [
        pytest.approx(math.nan, nan_ok=True),
        0.2,
        pytest.approx(math.nan, nan_ok=True),
    ]


def test_lesions_at_all_depths_beside_what_is_left_up_to_guessing(folder: StudyFolder) -> None:
    """Of ten classes, guessing is wrong in 90 %; only blocks that keep their dimensions are counted."""

    def without(same: dict[str, float], changing: dict[str, float]) -> list[dict[str, Any]]:
        return [
            {"block": f"stages.{block}", "same": kept, "error": error}
            for kept, blocks in ((True, same), (False, changing))
            for block, error in blocks.items()
        ]

    put(folder, "plain-8", 0, "lesion", END, intact=0.1, without=without({"0.0": 0.9}, {}), swapped=[])
    blocks = {"0.0": 0.8, "0.1": 0.82, "1.1": 0.9}
    swapped = [{"block": "stages.0.1", "error": 0.85}]
    put(folder, "plain-20", 0, "lesion", END, intact=0.7, without=without(blocks, {}), swapped=swapped)
    put(folder, "plain-20", 1, "lesion", END, intact=0.8, without=without(blocks, {}), swapped=swapped)
    put(folder, "residual-8", 0, "lesion", END, intact=0.1, without=without({"0.0": 0.12}, {"1.0": 0.8}), swapped=[])
    section = shown(folder)[0]["Removing blocks"]
    assert section.headline == (
        "Without one block that keeps its dimensions, the training error rises by this many points (median over "
        "blocks): 80.0 in plain-8, 2.0 in residual-8, 7.0 in plain-20. With two neighbours exchanged, the training "
        "error rises by this many points (median over blocks): 10.0 in plain-20. Close to guessing already: plain-20. "
        "Without the one block within 3 points of guessing, so that the rise can hardly be larger: plain-8."
    )
    assert section.table
    header, rows = section.table
    assert header[2:] == [
        "points up to guessing", "without one block that keeps its dimensions", "with two neighbours exchanged"
    ]  # fmt: skip
    assert [[row[0], *row[2:]] for row in rows] == [
        ["plain-8", "80.0", "80.0", "–"], ["plain-20", "15.0", "7.0", "10.0"], ["residual-8", "80.0", "2.0", "–"]
    ]  # fmt: skip
    assert "guessing (90.0 %)" in section.caption
    deep = next(line for line in section.plots["probe-lesion"].axes.lines if len(line.get_xdata()) == 3)
    assert list(deep.get_xdata()) == pytest.approx([0, 1 / 8, 4 / 8])  # of nine blocks


def test_lesions_of_several_blocks_and_other_orders(folder: StudyFolder) -> None:
    """Means over draws and seeds; a record of an earlier version, which has none, stays readable."""
    one = [{"block": "stages.0.0", "same": True, "error": 0.2}, {"block": "stages.0.1", "same": True, "error": 0.4}]
    removed = [{"blocks": 2, "error": 0.5}, {"blocks": 2, "error": 0.7}]
    shuffled = [{"pairs": 1, "tau": 0.9, "error": 0.3}, {"pairs": 1, "tau": 0.7, "error": 0.5}]
    more = {"removed": removed, "shuffled": [*shuffled, {"pairs": 2, "tau": 0.5, "error": 0.9}]}
    put(folder, "residual-20", 0, "lesion", END, intact=0.1, without=one, swapped=[], **more)
    put(folder, "residual-20", 1, "lesion", END, intact=0.1, without=one, swapped=[])
    section = shown(folder)[0]["Removing blocks"]
    assert section.headline.endswith(
        "The training error is 30.0, 60.0 % in residual-20 without 1, 2 random blocks. With blocks in another order it "
        "is 40.0 % at Kendall's tau 0.80 to 90.0 % at Kendall's tau 0.50 in residual-20."
    )
    assert lines_of(section, "probe-lesion-several") == [pytest.approx([10, 30, 60])]
    drawn_elsewhere = pickle.loads(pickle.dumps(section.plots["probe-lesion-several"]))
    assert list(drawn_elsewhere.series) == ["20 layers"]
    assert lines_of(section, "probe-lesion-shuffled") == [pytest.approx([10, 40, 90])]
    put(folder, "residual-20", 0, "lesion", END, intact=0.1, without=one, swapped=[])
    older = shown(folder)[0]["Removing blocks"]
    assert list(older.plots) == ["probe-lesion"]
    assert "random blocks." not in older.headline


def test_the_landscape_is_counted_from_each_nets_own_loss(folder: StudyFolder) -> None:
    """2.2 is under ln 10, the loss of guessing, whatever the net's own; within a nat of 1.5, but not of 0.5."""
    steps = [-1.0, 0.0, 1.0]
    for label, low, own in (("plain-8", 5, 1.5), ("plain-20", 2, 1.5), ("residual-20", 3, 0.5)):
        loss = np.full(9, 50.0)
        loss[4] = own
        loss[:low] = 2.2
        put(folder, label, 0, "landscape", END, steps=steps, loss=loss.reshape(3, 3).tolist(), error=[])
    assert shown(folder)[0]["Loss landscape"].headline == (
        "On this share of the grid the loss is less than 1 nat above that of the net itself, trained: 33 % for "
        "plain-20 "
        "(its own loss: 1.50; guessing: 2.30), 11 % for residual-20 (its own loss: 0.50; guessing: 2.30) (1 seed). "
        "This "
        "is no measure of flatness: the loss changes little around a net that guesses."
    )


def test_ensembles_of_nets_and_of_families(folder: StudyFolder) -> None:
    labels = np.array([0, 1] * 10)  # test errors of 15 and 17 %, as write_run has them, are 3 of 20 and so on

    def keep(label: str, seed: int, wrong: list[int]) -> None:
        values = np.eye(2, dtype=np.float32)[labels]
        values[wrong] = values[wrong][:, ::-1] / 2
        run = run_of(folder, label, seed)
        lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
        lines[-1]["test_error"] = len(wrong) / 20
        run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        run.logits_path.write_bytes(Logits(values, labels, "f").pack())

    for net in ("plain-8", "plain-20"):
        keep(net, 0, [0, 1])
        keep(net, 1, [1, 2, 3, 4])
    keep("residual-8", 0, [0])  # alone
    sections, remarks = shown(folder)
    # A wrong net is half as sure: of two, an image is lost that both get wrong.
    assert sections["Ensembles"].headline == (
        "Mean test error of runs, and test error of their ensemble: plain-8 15.0 and 5.0 % (2 runs), plain-20 15.0 and "
        "5.0 % (2 runs), all plain 15.0 and 5.0 % (4 runs)."
    )
    assert remarks == []
    run_of(folder, "plain-8", 1).logits_path.write_bytes(b"PK")
    sections, remarks = shown(folder)
    assert "all plain" not in sections["Ensembles"].headline
    assert [remark.split("(")[0].rpartition("/")[2] for remark in remarks] == ["logits.npz: damaged "]


def put_identity(folder: StudyFolder, record: dict[str, Any]) -> Path:
    path = folder.folder / "probes/identity.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(record))
    return path


def member(folder: StudyFolder, label: str, seed: int) -> dict[str, str]:
    return {"run": str(run_of(folder, label, seed).folder.relative_to(folder.folder)), "label": label}


IDENTITY = "Deeper nets that begin as a shallower one"


def test_nets_that_were_handed_their_weights_beside_others_of_the_same_budget(study: Study) -> None:
    """Three donors of 1,000 steps; what follows them has 400, and the fresh nets have 1,400.

    Welch's interval of two means of three seeds with a standard deviation of 2 each: 2.776 x sqrt(8 / 3) = 4.53.
    """
    folder = study({("plain", 8): [14.0, 15.0, 16.0], ("plain", 20): [10.0, 12.0, 14.0]})
    add_family(folder, "new", {("plain", 20): [20.0, 22.0, 24.0]}, train={"steps": 1400})
    donors = [
        {
            **{"from": f"donor seed {seed}", "handed_error": 0.1 + seed / 100, "constructed_error": 0.11 + seed / 100},
            **{"changed_predictions": seed, "largest_logit_difference": 1e-6 * (seed + 1)},
            **{"trained_on": member(folder, "plain-8", seed), "continued": member(folder, "plain-20", seed)},
            "fresh": member(folder, "plain-20-new", seed),
        }
        for seed in range(3)
    ]
    record = {"kind": "plain", "depth": 20, "shallow": "plain-8", "steps": 1000, "donors": donors}
    put_identity(folder, record)
    sections, remarks = shown(folder)
    assert remarks == []
    section = sections[IDENTITY]
    assert section.headline == (
        "donor seed 0, donor seed 1, donor seed 2 have a mean clean training error of 11.0 %. The plain nets of 20 "
        "layers built from them start at 12.0 % (2 predictions changed; logits differ by at most 3e-06). After "
        "1,400 steps in all, the shallower net, trained further, is at 15.0 %, the net of 20 layers built from it "
        "is at 12.0 %, a new net of 20 layers is at 22.0 %. New minus built: +10.0 points [+5.5, +14.5]. Built "
        "minus shallower: -3.0 "
        "points "
        "[-7.2, +1.2]. The steps are equal, the schedules are not: the built net and the shallower one start again at "
        "the full learning rate after the donor's steps, and the new net has one schedule."
    )
    assert section.finding == (
        "plain-20 built from plain-8 starts at 12.0 % and ends at 12.0 %; plain-8 trained further ends at 15.0 %, a "
        "new "
        "plain-20 at 22.0 % (clean training error, 3 donors)."
    )
    assert section.table == (
        ["net", "steps in all", "clean training error (3 donors)"],
        [
            ["plain-8", "1,000", "11.00 ± 1.00"],
            ["plain-20: plain-8 with identity blocks", "1,000", "12.00 ± 1.00"],
            ["plain-8, trained further", "1,400", "15.00 ± 1.00"],
            ["plain-20: plain-8 with identity blocks, trained further", "1,400", "12.00 ± 2.00"],
            ["plain-20, new", "1,400", "22.00 ± 2.00"],
        ],
    )
    drawn = [line for line in section.plots["probe-identity"].axes.lines if line.get_linewidth() == 1]
    assert [list(line.get_xdata())[-1] for line in drawn if len(line.get_xdata())] == [1400] * 3


def test_what_became_of_a_donor_that_is_gone_is_left_out(folder: StudyFolder) -> None:
    record = {
        **{"from": "plain-8 seed 0", "handed_error": 0.1, "constructed_error": 0.101},
        **{"changed_predictions": 1, "largest_logit_difference": 0.00002, "trained_on": member(folder, "plain-8", 0)},
        **{"continued": member(folder, "plain-20", 0), "fresh": {"run": "gone/seed0", "label": "plain-20"}},
    }
    content = {"kind": "plain", "depth": 20, "shallow": "plain-8", "steps": 1000, "donors": [record]}
    path = put_identity(folder, content)
    sections, remarks = shown(folder)
    assert sections[IDENTITY].headline == (
        "plain-8 seed 0 has a clean training error of 10.0 %. The plain nets of 20 layers built from it start at 10.1 "
        "% (1 prediction changed; logits differ by at most 2e-05). After 1,400 steps in all, the shallower net, "
        "trained further, is at 10.0 %, the net of 20 layers built from it is at 10.0 %."
    )
    assert remarks == [f"{path}: plain-20 (gone/seed0) is no run of this study that was begun."]
    path.write_text("[]")
    sections, remarks = shown(folder)
    assert IDENTITY not in sections
    assert len(remarks) == 1
    assert str(path) in remarks[0]


def test_several_views_are_a_table(folder: StudyFolder) -> None:
    for seed, error in ((0, 0.30), (1, 0.32)):
        views = {"mode": "ten-crop", "views": 10, "crop": 28, "test_error": error, "single_view_test_error": 0.33}
        put(folder, "plain-8", seed, "ten-crop", END, **views)
    sides = {"mode": "multi-scale", "views": 2, "sides": [24, 32], "test_error": 0.5, "single_view_test_error": 0.4}
    put(folder, "residual-8", 0, "multi-scale", END, **sides)
    section = shown(folder)[0]["Several crops and sizes"]
    assert section.table == (
        ["net", "single view", "ten-crop", "multi-scale"],
        [["plain-8", "33.00 ± 0.00", "31.00 ± 1.41", "–"], ["residual-8", "40.00", "–", "50.00"]],
    )
    assert section.headline == (
        "Compared with a single view, the test error changes by -2 points with ten-crop and by 10 points with "
        "multi-scale. With multi-scale it rises in every net; its sizes are not those of training."
    )


@pytest.mark.parametrize(
    ("crop", "why", "how"),
    [
        (
            {"crop": 12},
            "crops of 12 pixels are smaller than the images of training",
            "10 views, crops of 12 pixels.",
        ),
        (
            {"crop": 16, "pad": 2},
            "its corners show less of an object than the centre",
            "10 views, crops of 16 pixels from images padded by 2.",
        ),
    ],
)
def test_a_table_of_views_that_are_worse_says_why(
    folder: StudyFolder, crop: dict[str, int], why: str, how: str
) -> None:
    for label, error in (("plain-8", 0.4), ("plain-20", 0.3), ("residual-8", 0.5)):
        put(folder, label, 0, "ten-crop", END, views=10, test_error=error, single_view_test_error=0.35, **crop)
    section = shown(folder)[0]["Several crops and sizes"]
    assert section.headline == (
        "Compared with a single view, the test error changes by -5 to 15 points with ten-crop. With ten-crop it rises "
        f"in plain-8, residual-8; {why}."
    )
    assert section.caption.endswith(how)


# -- what is not there, or not what it should be -----------------------------------------------------------------------


def test_without_records_there_is_no_section(folder: StudyFolder) -> None:
    assert shown(folder) == ({}, [])


def test_a_damaged_or_foreign_record_is_a_line_and_the_others_are_shown(folder: StudyFolder) -> None:
    bad = {
        "plain-8": {"layers": 5},
        "plain-20": {**gradients([1.0, 1.0], 0.5), "agreement": []},
        "residual-8": {**gradients([math.nan, 1.0], 0.5), "layers": [{"layer": "conv", "norm": "large"}] * 2},
    }
    paths = [put(folder, label, 0, "gradients", 0, **record) for label, record in bad.items()]
    put(folder, "residual-20", 0, "gradients", 0, **gradients([1.0, 2.0, 3.0], 0.5))
    paths.append(put(folder, "residual-20", 1, "gradients", 0, **gradients([1.0, 2.0], 0.5)))
    torn = put(folder, "plain-8", 1, "gradients", 0)
    torn.write_text('{"layers": [')
    build_report(folder, folder.folder / "report")
    page = (folder.folder / "report/index.html").read_text()
    assert "at initialisation 0.50 in residual-20" in page
    for path in (*paths, torn):
        assert page.count(str(path)) == 1
        assert str(path) in (folder.folder / "report/summary.md").read_text()
    figures = {file.name for file in (folder.folder / "report/figures").glob("probe-*")}
    names = ("product", "weights", "norm", "snr", "agreement")
    assert figures == {f"probe-gradients-{name}.{kind}" for name in names for kind in ("png", "svg", "pdf")}


def test_steps_that_are_not_the_end_are_named_and_the_last_is_shown(folder: StudyFolder) -> None:
    for step, variance in ((100, 3.0), (200, 5.0)):
        put(folder, "plain-8", 0, "signals", step, layers=[{"layer": "conv", "variance": variance}], blocks=[])
    sections, remarks = shown(folder)
    assert "trained 5.0 in plain-8" in sections["Signals"].headline
    assert remarks == [f"plain-8 seed 0: signals at step 200 of {END}."]


def test_of_many_families_those_of_the_verdict_are_shown(folder: StudyFolder) -> None:
    for number in range(4):
        add_family(folder, f"v{number}", {("residual", 8): [10.0]}, train={"lr": 0.01 * (number + 1)})
    for run in folder.runs():
        layers = [{"layer": "conv", "variance": 1.0}]
        run.probe_path("signals", 0).parent.mkdir()
        run.probe_path("signals", 0).write_text(json.dumps({"layers": layers}))
    sections, remarks = shown(folder)
    titles = [axes.get_title("left") for axes in sections["Signals"].plots["probe-signals"].panels[0]]
    assert titles == [f"{f}, at initialisation" for f in ("plain", "residual", "residual v0", "residual v1")]
    assert remarks == ["signals: there is room for 4 families; not shown: residual v2, residual v3."]


def test_a_net_whose_numbers_are_no_numbers_is_still_reported(folder: StudyFolder) -> None:
    """What a run that diverged leaves behind."""
    nan = math.nan
    put(folder, "plain-8", 0, "gradients", END, **gradients([nan, nan, nan], nan, nan))
    put(folder, "plain-8", 0, "signals", END, layers=[{"layer": "conv", "variance": nan}])
    put(folder, "plain-8", 0, "responses", END, layers=[{"layer": "conv", "std": nan}], mean_std=nan)
    put(folder, "plain-8", 0, "landscape", END, steps=[-1, 0, 1], loss=[[nan] * 3] * 3)
    put(folder, "residual-8", 0, "branches", END, blocks=[{"block": "stages.0.0", "ratio": nan}])
    build_report(folder, folder.folder / "report")
    page = (folder.folder / "report/index.html").read_text()
    assert "trained nan in plain-8" in page
    assert "nan in plain nets of 8 layers" in page
    assert "the net itself has no finite loss" in page
