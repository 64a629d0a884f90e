"""The report of a study of ImageNet's nets, from run folders as training would have left them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from resexp.config import ImageNetData, TrainConfig
from resexp.report import build_report, draw
from resexp.report.page import deviations_markdown, provenance, table
from resexp.report.probes import PageSection, probe_sections
from resexp.report.summary import summarise
from resexp.runs.logits import Logits
from resexp.runs.records import StudyPlan
from resexp.runs.store import Run, StudyFolder
from tests.test_report import write_run

IMAGENET = ImageNetData(source="imagenet", path="ilsvrc")
STEPS, EVERY = 600_000, 20_000
TRAIN = TrainConfig(steps=STEPS, batch_size=256, schedule="plateau", log_every=EVERY, eval_every=EVERY)

LATE = {("plain", 18): (31, 31), ("plain", 34): (33, 33), ("residual", 18): (30, 31), ("residual", 34): (25, 28)}
"""Training and validation error in percent after two drops of the rate."""


def curve(end: float) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A fraction by step that falls, falls again at 150k and 300k, and ends at `end` percent."""
    steps = np.arange(EVERY, STEPS + 1, EVERY)
    return end / 100 + np.where(steps <= 150_000, 0.2, np.where(steps <= 300_000, 0.05, 0)) + 0.4 * 0.8 ** (steps / 1e4)


def write(study: Path, kind: str, depth: int, seed: int, train: float, val: float, **options: Any) -> Any:
    """A finished run of one net, with top-5 errors that are a third of the others."""
    of_imagenet = {"data": IMAGENET, "dataset": "imagenet", "train": TRAIN}
    model = {"variant": "imagenet"} | options.get("model", {})
    planned = write_run(study, kind, depth, seed, 0.0, **of_imagenet | options | {"model": model})
    run = Run(study / planned.folder)
    lines: list[dict[str, Any]] = []
    for step, error, tested in zip(range(EVERY, STEPS + 1, EVERY), curve(train), curve(val), strict=True):
        lines.append({"event": "train", "step": step, "lr": 0.1, "train_loss": 1.0, "train_error": error})
        lines.append({"event": "eval", "step": step, "val_error": tested, "val_top5_error": tested / 3})
    lines[-1] |= {"clean_train_error": lines[-2]["train_error"] - 0.05}
    end = {"test_error": val / 100, "test_top5_error": val / 300, "running_train_error": train / 100}
    lines.append({"event": "test", "step": STEPS, **end, "train_seconds": 90_000.0})
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return planned


def put(run: Run, probe: str, **record: Any) -> None:
    run.probe_folder.mkdir(exist_ok=True)
    run.probe_path(probe, STEPS).write_text(json.dumps({"probe": probe, "step": STEPS, "mode": probe, **record}))


TEN_CROP = {"views": 10, "crop": 224, "test_error": 0.27, "test_top5_error": 0.09}
SCALES = {"views": 5, "sides": [224, 256, 384, 480, 640], "test_error": 0.26, "test_top5_error": 0.08}
SINGLE = {"single_view_test_error": 0.3, "single_view_test_top5_error": 0.1}


@pytest.fixture
def folder(tmp_path: Path) -> StudyFolder:
    """Plain and residual nets of 18 and 34 layers, two seeds each, by the paper's recipe."""
    study = StudyFolder(tmp_path / "imagenet")
    runs = [
        write(study.folder, kind, depth, seed, train + 0.1 * seed, val + 0.1 * seed)
        for (kind, depth), (train, val) in LATE.items()
        for seed in range(2)
    ]
    study.write_plan(StudyPlan(name="imagenet", runs=runs))
    return study


def add(study: StudyFolder, kind: str, depth: int, **options: Any) -> Run:
    """One more net."""
    planned = write(study.folder, kind, depth, 0, 25, 28, **options)
    study.write_plan(StudyPlan(name="imagenet", runs=[*study.plan().runs, planned]))
    return Run(study.folder / planned.folder)


def page(study: StudyFolder) -> str:
    build_report(study, study.folder / "report")
    return (study.folder / "report/index.html").read_text()


def test_the_verdict_is_about_18_and_34_layers(folder: StudyFolder) -> None:
    verdict = summarise(folder).verdict
    assert verdict.headline == (
        "From 18 to 34 layers, the training error rises by 7.0 points [+6.7, +7.3] "
        "more in plain nets than in residual nets: "
        "plain nets degrade; residual nets gain from depth."
    )
    assert "Plain nets: training error 31.1 % at depth 18, 33.0 % at depth 34: " in verdict.sentences[1]
    assert any(sentence.startswith("At depth 34, plain minus residual: +8.0") for sentence in verdict.sentences)


def test_top_5_errors_and_the_readings_of_fig_4_are_columns(folder: StudyFolder) -> None:
    header, rows = table(summarise(folder))
    assert header[header.index("test error, final") :] == [
        "test error, final", "test error, final, top-5", "time per run", "paper: training", "paper: test"
    ]  # fmt: skip
    assert {row[0]: row[-5:] for row in rows}["plain-34"] == [
        "33.05 ± 0.07",
        "11.02 ± 0.02",
        "25.0 h",
        "32.70",
        "32.50",
    ]
    text = page(folder)
    assert "centre crops of the validation images" in text
    assert "The test set is read once" not in text
    numbers = pd.read_csv(folder.folder / "report/summary.csv").set_index("net").loc["residual-18"]
    assert (numbers.test_top5_mean, numbers.paper_train, numbers.paper_test) == pytest.approx((0.3105 / 3, 0.3, 0.311))


def test_the_papers_readings_are_marks_over_depth(folder: StudyFolder) -> None:
    plot = draw(summarise(folder))["depth-running"]
    drawn = {plot.marks[line.get_gid()][1]: line.get_ydata()[0] for line in plot.axes.lines if line.get_gid()}
    assert {tip: error for tip, error in drawn.items() if "He et al." in tip} == {
        "plain-18, He et al. 2015: 31.50 %": 31.5,
        "plain-34, He et al. 2015: 32.70 %": 32.7,
        "residual-18, He et al. 2015: 30.00 %": 30.0,
        "residual-34, He et al. 2015: 25.10 %": 25.1,
    }


def test_a_net_without_a_late_reading_has_no_mark_but_may_be_compared(folder: StudyFolder) -> None:
    add(folder, "residual", 34, model={"shortcut": "B"}, variant="-shortcutB")
    summary = summarise(folder)
    [net] = [net for net in summary.nets if net.family != net.kind]
    assert (net.label, net.not_comparable) == ("residual-34-shortcutB", [])
    labels = [line.get_label() for line in draw(summary)["depth-running"].axes.lines]
    assert "residual shortcutB, He et al. 2015" not in labels


def test_the_curves_count_steps_in_tens_of_thousands_and_begin_at_20_percent_as_fig_4_does(folder: StudyFolder) -> None:
    plot = draw(summarise(folder))["curves-residual"]
    assert (plot.axes.get_xlabel(), plot.axes.get_ylim()[0]) == ("step (1e4)", 20)
    assert plot.axes.xaxis.get_major_formatter()(300_000, None) == "30"
    [validation] = [line for line in plot.axes.lines if line.get_linewidth() == 2.5 and line.get_ydata()[-1] < 30]
    assert list(validation.get_xdata()) == list(range(EVERY, STEPS + 1, EVERY))
    assert validation.get_ydata() == pytest.approx(100 * curve(28.05), abs=1e-9)


def test_what_decoded_the_images_is_said_of_runs_that_read_them_while_they_trained(folder: StudyFolder) -> None:
    assert "decoded by" not in dict(provenance(summarise(folder)))
    add(folder, "residual", 34, decoder="a decoder 1.2", model={"shortcut": "C"}, variant="-shortcutC")
    assert dict(provenance(summarise(folder)))["decoded by"] == "a decoder 1.2"


def section(study: StudyFolder, title: str) -> PageSection:
    sections, remarks = probe_sections(study, summarise(study))
    assert remarks == []
    return next(section for section in sections if section.title == title)


def rows(of: PageSection) -> dict[str, list[str]]:
    """The table of a section, its header and each net."""
    assert of.table is not None
    return {row[0]: row[1:] for row in [of.table[0], *of.table[1]]}


def test_several_views_stand_beside_the_papers_tables(folder: StudyFolder) -> None:
    projections = add(folder, "residual", 34, model={"shortcut": "B"}, variant="-shortcutB")
    for run in [*folder.runs()[:2], projections]:
        put(run, "ten-crop", **TEN_CROP, **SINGLE)
    put(projections, "multi-scale", **SCALES, **SINGLE)
    views = section(folder, "Several crops and sizes")
    found = rows(views)
    assert found["net"] == [
        "single view", "single view, top-5", "ten-crop", "ten-crop, top-5", "paper: ten-crop / top-5",
        "multi-scale", "multi-scale, top-5", "paper: multi-scale / top-5",
    ]  # fmt: skip
    assert found["plain-18"] == [
        "30.00 ± 0.00", "10.00 ± 0.00", "27.00 ± 0.00", "9.00 ± 0.00", "27.94", "–", "–", "–"
    ]  # fmt: skip
    assert found["residual-34-shortcutB"] == [
        "30.00", "10.00", "27.00", "9.00", "24.52 / 7.46",
        "26.00", "8.00", "21.84 / 5.71",
    ]  # fmt: skip
    assert "The paper's numbers (Table 2, Table 3, Table 4) stand next to nets of its recipe" in views.caption
    assert "with the same views: ten crops of 224 pixels, or sides of 224, 256, 384, 480 and 640" in views.caption


def test_how_views_are_taken_is_a_reading_of_the_nets_that_have_them(folder: StudyFolder) -> None:
    put(folder.runs()[0], "ten-crop", **TEN_CROP, **SINGLE)
    text = deviations_markdown(summarise(folder))
    of_one = text.partition("For plain-18:")[2]
    assert "| ten crops |" in of_one
    assert "| plateau of the error |" in text.partition("For plain-18:")[0]


def test_views_that_the_paper_did_not_take_or_of_other_runs_do_not_stand_beside_it(folder: StudyFolder) -> None:
    put(folder.runs()[0], "ten-crop", **TEN_CROP | {"crop": 192}, **SINGLE)
    few = add(
        folder, "residual", 34, dataset="imagenet-100", data=IMAGENET.model_copy(update={"classes": 100}), variant="-x"
    )
    put(few, "ten-crop", **TEN_CROP, **SINGLE)
    assert rows(section(folder, "Several crops and sizes"))["net"] == [
        "single view",
        "single view, top-5",
        "ten-crop",
        "ten-crop, top-5",
    ]
    [net] = [net for net in summarise(folder).nets if net.family != net.kind]
    assert net.not_comparable == ["images imagenet-100 instead of imagenet"]


def test_ensembles_have_both_errors_and_what_sets_them_apart_from_table_5(folder: StudyFolder) -> None:
    chance = np.random.default_rng(0)
    labels = chance.integers(0, 20, 200)
    runs = folder.runs()[:4]
    for run in runs:
        logits = Logits(chance.normal(size=(200, 20)) + 2 * np.eye(20)[labels], labels, "f")
        run.logits_path.write_bytes(logits.pack())
        *lines, last = run.metrics_path.read_text().splitlines()
        lines.append(json.dumps({**json.loads(last), "test_error": logits.error}))
        run.metrics_path.write_text("\n".join(lines) + "\n")
    ensembles = section(folder, "Ensembles")
    found = rows(ensembles)
    assert found["ensemble"][-2:] == ["mean of the runs, top-5", "together, top-5"]
    assert {name: row[0] for name, row in found.items()} == {
        "ensemble": "runs", "plain-18": "2", "plain-34": "2", "all plain": "4"
    }  # fmt: skip
    alone, together = map(float, found["all plain"][3:])
    assert together < alone
    assert ensembles.caption.endswith(
        "has a top-5 error of 3.57 % (Table 5); the test server measured it, on images whose classes are not public, "
        "so it is not comparable."
    )
