"""The report: its numbers, its verdict, its page."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from resexp.config import ModelConfig, RunConfig, ShapesData, TrainConfig
from resexp.errors import UserError
from resexp.report import build_report, draw
from resexp.report.formatting import slug
from resexp.report.page import provenance
from resexp.report.stats import read
from resexp.report.summary import Summary, summarise
from resexp.runs.records import Attempt, DataRecord, Manifest, PlannedRun, Status, StudyPlan, running_error
from resexp.runs.store import Run, StudyFolder

SMALL = TrainConfig(steps=400, log_every=100, milestones=[300])
SHAPES = ShapesData(source="shapes")


def write_run(study: Path, kind: str, depth: int, seed: int, error: float, **options: Any) -> PlannedRun:
    """A finished run folder, as training would have left it, whose every error is `error` (a fraction)."""
    config = RunConfig(
        data=options.get("data", SHAPES),
        model=ModelConfig(kind=kind, depth=depth, **options.get("model", {})),
        train=options.get("train", SMALL),
        seed=seed,
    )
    run = Run(study / config.folder)
    run.create(config)
    steps, every = config.train.steps, config.train.log_every
    lines: list[dict[str, Any]] = [
        {"event": "train", "step": s, "lr": 0.1, "train_loss": 1.0, "train_error": error}
        for s in range(every, steps + 1, every)
    ]
    lines.append({"event": "eval", "step": steps, "clean_train_error": error, "clean_train_loss": 1.0})
    lines.append({"event": "test", "step": steps, "test_error": error + 0.05, "test_loss": 1.0, "train_seconds": 12.5})
    state = options.get("state", "finished")
    if state != "finished":
        lines = lines[:2]
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    message = options.get("message", "")
    run.write_status(Status(state=state, step=steps if state == "finished" else 200, steps=steps, message=message))
    data = DataRecord(
        source="shapes",
        name=options.get("dataset", "shapes"),
        fingerprint="f",
        classes=10,
        train_images=5000,
        val_images=0,
        decoder=options.get("decoder", ""),
    )
    times = dict.fromkeys(("started", "ended"), "2026-01-02T03:04:05+00:00")
    words = (
        dict.fromkeys(Attempt.model_fields, "x")
        | times
        | {
            "precision": "fp32" if config.train.precision == "auto" else config.train.precision,
            "world": 1,
            "command": options.get("command", "resexp sweep"),
        }
    )
    attempt = Attempt.model_validate({**words, "from_step": 0, "threads": 1, "to_step": steps, "state": "finished"})
    run.write_manifest(Manifest(signature=config.signature, parameters=1000 * depth, data=data, attempts=[attempt]))
    return PlannedRun(folder=str(config.folder), label=f"{kind}-{depth}{options.get('variant', '')}")


Errors = dict[tuple[str, int], list[float]]


def planned(folder: Path, errors: Errors, description: str = "", name: str = "study", **options: Any) -> StudyFolder:
    """A finished study with these errors in percent: {("plain", 20): [seed 0, seed 1, ...], ...}."""
    runs = [
        write_run(folder, kind, depth, seed, error / 100, **options)
        for (kind, depth), values in errors.items()
        for seed, error in enumerate(values)
    ]
    StudyFolder(folder).write_plan(StudyPlan(name=name, description=description, runs=runs))
    return StudyFolder(folder)


@pytest.fixture
def study(tmp_path: Path) -> Callable[..., StudyFolder]:
    """`planned`, in a folder of the test's own."""
    return lambda errors, *words, **options: planned(tmp_path / "study", errors, *words, **options)


def add_family(folder: StudyFolder, variant: str, errors: Errors, **changes: dict[str, Any]) -> None:
    """More nets in a study, of one variant, with these errors in percent; `changes` are of model or train."""
    runs = folder.plan().runs
    for (kind, depth), values in errors.items():
        for seed, error in enumerate(values):
            options = {"variant": f"-{variant}", "model": changes.get("model", {})}
            options["train"] = SMALL.model_copy(update=changes.get("train", {}))
            runs.append(write_run(folder.folder, kind, depth, seed, error / 100, **options))
    folder.write_plan(StudyPlan(name="study", runs=runs))


DEGRADES = {
    ("plain", 8): [9.0, 10.0, 11.0],
    ("plain", 44): [58.0, 60.0, 62.0],
    ("residual", 8): [9.0, 10.0, 11.0],
    ("residual", 44): [4.0, 5.0, 6.0],
}


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_the_running_error_is_the_mean_over_the_steps_after_the_last_milestone(tmp_path: Path) -> None:
    run = Run(tmp_path / write_run(tmp_path, "plain", 8, 0, 0.5).folder)
    lines = [(100, 0.9), (300, 0.8), (310, 0.4), (400, 0.2)]  # windows of 100, 200, 10 and 90 steps
    records = [{"event": "train", "step": s, "train_error": e} for s, e in lines]
    records += [{"event": "eval", "step": 400, "clean_train_error": 0.3}]
    records += [{"event": "test", "step": 400, "test_error": 0.3, "train_seconds": 1.0}]
    run.metrics_path.write_text("".join(json.dumps(r) + "\n" for r in records))
    record = read(run)
    assert record is not None
    assert record.errors["running"] == pytest.approx(100 * (10 * 0.4 + 90 * 0.2) / 100)
    assert running_error(records, 400) is None


def test_of_a_line_that_spans_the_last_milestone_the_later_steps_count() -> None:
    """A quarter of the 100 steps up to 400, then the 50 up to 450."""
    lines = [{"step": step, "train_error": error} for step, error in ((300, 0.9), (400, 0.4), (450, 0.1))]
    assert running_error(lines, 375) == pytest.approx((25 * 0.4 + 50 * 0.1) / 75)


def test_a_run_that_says_its_running_error_is_believed(tmp_path: Path) -> None:
    run = Run(tmp_path / write_run(tmp_path, "plain", 8, 0, 0.5).folder)
    run.metrics_path.write_text(
        run.metrics_path.read_text().replace('"test_loss"', '"running_train_error": 0.4, "test_loss"')
    )
    for curves in (True, False):
        record = read(run, curves)
        assert record is not None
        assert record.errors["running"] == pytest.approx(40)


def test_means_and_standard_deviations_over_seeds(study: Callable[..., StudyFolder]) -> None:
    nets = {net.label: net for net in summarise(study(DEGRADES)).nets}
    error = nets["plain-8"].errors["running"]
    assert (error.mean, error.std) == pytest.approx((10.0, 1.0))
    assert str(nets["plain-8"].errors["test"]) == "15.00 ± 1.00"
    assert "best_test" not in nets["plain-8"].errors


def test_two_recipes_under_one_label_are_two_nets(study: Callable[..., StudyFolder]) -> None:
    folder = study({("plain", 8): [10, 11]})
    runs = folder.plan().runs
    runs.append(write_run(folder.folder, "plain", 8, 0, 0.3, train=SMALL.model_copy(update={"lr": 0.05})))
    folder.write_plan(StudyPlan(name="study", runs=runs))
    nets = summarise(folder).nets
    assert [len(net.runs) for net in nets] == [2, 1]
    assert nets[0].label == "plain-8"
    assert re.fullmatch(r"plain-8-[0-9a-f]{8}", nets[1].label)


# -- the page ---------------------------------------------------------------------------------------------------------


def built(study: StudyFolder) -> tuple[Summary, str]:
    summary = build_report(study, study.folder / "report")
    return summary, (study.folder / "report/index.html").read_text()


def test_the_report_writes_a_page_figures_and_tables(study: Callable[..., StudyFolder]) -> None:
    folder = study(DEGRADES)
    _, page = built(folder)
    names = {p.name for p in (folder.folder / "report/figures").iterdir()}
    figures = ("depth-running", "depth-clean", "depth-test", "curves-plain", "curves-residual")
    assert names == {f"{figure}.{kind}" for figure in figures for kind in ("png", "svg", "pdf")}
    assert page.count('<div class="drawing"><svg') == 5
    assert "#1b1f24;" not in page.partition("</style>")[2].partition("</style>")[2]  # figures take the page's colour
    assert "<title>plain-44: 60.00 ± 2.00 %, n = 3</title>" in page
    assert "test error, final</th>" in page
    for without_a_number in ("test error, best</th>", "paper: training</th>", "warm-up until step"):
        assert without_a_number not in page
    table = pd.read_csv(folder.folder / "report/summary.csv")
    assert table.set_index("net")["running_mean"].to_dict() == pytest.approx(
        {"plain-8": 0.1, "plain-44": 0.6, "residual-8": 0.1, "residual-44": 0.05}
    )
    # Logits of 58, 60 and 62 %, 2 degrees of freedom.
    deep = table.set_index("net").loc["plain-44"]
    assert (deep.seeds, deep.running_std, deep.running_low, deep.running_high) == pytest.approx(
        (3, 0.02, 0.549532, 0.648642)
    )
    assert (
        "| plain-44 | 44,000 | 3 | 60.00 ± 2.00 | [54.95, 64.86] |" in (folder.folder / "report/summary.md").read_text()
    )


def test_the_page_is_self_contained_small_and_well_formed(study: Callable[..., StudyFolder]) -> None:
    depths = [8, 14, 20, 26, 32, 38, 44, 50, 56]
    errors = {(kind, depth): [depth + s for s in range(5)] for kind in ("plain", "residual") for depth in depths}
    _, page = built(study(errors, train=TrainConfig(log_every=100)))
    assert len(page.encode()) < 800_000
    links = re.findall(r'(?:src|href)\s*=\s*"([^"#][^"]*)"|url\(([^)#]+)\)|@import', page)
    assert [link for link, url in links if url or not link.startswith("data:")] == []
    figures = re.findall(r'<div class="drawing">(<svg.*?</svg>)</div>', page)
    assert len(figures) == 5
    for svg in figures:
        ET.fromstring(svg)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_ids_of_names_differ_as_the_names_do() -> None:
    names = ["curves-plain-train.lr=0.1", "curves-plain-train.lr=01", "Layer responses", "layer responses 2"]
    assert [slug(name) for name in names] == [*names[:2], "layer-responses", "layer-responses-2"]


def test_runs_that_did_not_finish_are_listed_with_the_reason(study: Callable[..., StudyFolder]) -> None:
    folder = study(DEGRADES)
    runs = folder.plan().runs
    runs.append(write_run(folder.folder, "plain", 20, 0, 0.3, state="failed", message="ZeroDivisionError: oh"))
    runs.append(write_run(folder.folder, "plain", 26, 0, 0.3, state="running"))
    stray = write_run(folder.folder, "plain", 14, 0, 0.3)
    folder.write_plan(StudyPlan(name="study", runs=runs))
    summary, page = built(folder)
    assert {net.depth for net in summary.nets} == {8, 44}
    assert "ZeroDivisionError: oh" in page
    assert stray.folder in page
    lines = (folder.folder / "report/summary.md").read_text()
    assert "Not finished: plain-20 seed 0, failed, 200/400, ZeroDivisionError: oh." in lines
    assert "plain-26 seed 0, interrupted" in lines  # nobody holds its lock


def test_curves_are_those_of_finished_runs_where_there_are_more_seeds_than_are_drawn(
    study: Callable[..., StudyFolder],
) -> None:
    folder = study(DEGRADES)
    begun = [write_run(folder.folder, "plain", 20, seed, 0.3, state="failed") for seed in range(10)]
    done = write_run(folder.folder, "plain", 20, 10, 0.3)
    folder.write_plan(StudyPlan(name="study", runs=[*folder.plan().runs, *begun, done]))
    summary, _ = built(folder)
    (net,) = [net for net in summary.nets if net.depth == 20]
    assert [(run.config.seed, run.has_curves) for run in net.runs] == [(10, True)]


def test_the_steps_of_a_warm_up_that_the_nets_own_error_ends_are_told(study: Callable[..., StudyFolder]) -> None:
    train = SMALL.model_copy(update={"warmup_lr": 0.01})
    folder = study(
        {("plain", 8): [10, 12], ("plain", 20): [40, 41], ("residual", 8): [9], ("residual", 20): [8]}, train=train
    )
    for net, ends in {
        "plain-8": (200, 200),
        "plain-20": (300, 400),
        "residual-8": (200,),
        "residual-20": (200,),
    }.items():
        for seed, end in enumerate(ends):  # the last line at the rate of the warm-up is the one before
            (metrics,) = folder.folder.glob(f"{net}-*/seed{seed}/metrics.jsonl")
            lines = [json.loads(line) for line in metrics.read_text().splitlines()]
            lines = [line | ({"lr": 0.01} if "lr" in line and line["step"] < end else {}) for line in lines]
            metrics.write_text("".join(json.dumps(line) + "\n" for line in lines))
    summary, page = built(folder)
    told = [sentence for sentence in summary.verdict.sentences if "warm-up" in sentence]
    assert told == [
        "The warm-up ends by each net's own error, so the schedules differ. It had ended by step: plain-8 200, "
        "plain-20 300 to 400, residual-8 200, residual-20 200.",
        "A warm-up that outlasts the last drop of the rate is part of the running training error.",
    ]
    assert "<th>warm-up until step</th>" in page


def test_every_run_counts_for_the_departures_of_its_net(study: Callable[..., StudyFolder]) -> None:
    folder = study({("plain", 8): [10, 12], ("plain", 20): [20, 21]})
    (other,) = folder.folder.glob("plain-8-*/seed1")
    manifest = Run(other).manifest()
    assert manifest
    manifest.attempts[0].world = 4
    Run(other).write_manifest(manifest)
    net, other_net = summarise(folder).nets
    assert "images that share BN's statistics" in {departure.what for departure in net.departures}
    assert "images that share BN's statistics" not in {departure.what for departure in other_net.departures}


def test_a_variant_is_a_family_of_its_own_and_no_part_of_the_verdict(study: Callable[..., StudyFolder]) -> None:
    folder = study(DEGRADES)
    runs = folder.plan().runs
    runs.append(write_run(folder.folder, "residual", 44, 7, 0.9, variant="-shortcutB", model={"shortcut": "B"}))
    folder.write_plan(StudyPlan(name="study", runs=runs))
    summary, page = built(folder)
    assert {net.family for net in summary.nets} == {"plain", "residual", "residual shortcutB"}
    assert summary.verdict.residual is not None
    assert summary.verdict.residual.overall.value == pytest.approx(-5.0)
    assert "residual shortcutB" in page


def test_without_a_finished_run_there_is_no_report(study: Callable[..., StudyFolder]) -> None:
    folder = study({("plain", 8): [10, 11]}, state="failed")
    with pytest.raises(UserError, match=r"no finished run to report yet \(2 failed\)"):
        build_report(folder, folder.folder / "report")
    assert not (folder.folder / "report").exists()


def test_damaged_files_get_a_line(study: Callable[..., StudyFolder]) -> None:
    folder = study(DEGRADES)
    runs = folder.runs()
    runs[0].manifest_path.write_text("{")
    runs[3].metrics_path.unlink()
    lines = runs[6].metrics_path.read_text().replace('"test_error": 0.', '"test_error": 7.')
    runs[6].metrics_path.write_text(lines)
    runs[9].config_path.write_text("")
    summary = summarise(folder)
    assert [(absence.run, absence.state) for absence in summary.absent] == [
        (f"{net} seed 0", "unreadable") for net in ("plain-8", "plain-44", "residual-8", "residual-44")
    ]
    says = [absence.message.rpartition("/")[2] for absence in summary.absent]
    assert says[0].startswith("manifest.json: damaged (Invalid JSON")
    assert says[1] == "metrics.jsonl: the run is finished, but not all of its measurements are here"
    assert says[2] == f"metrics.jsonl:{lines.count(chr(10))}: no event with its numbers; restore it or delete the run"
    assert (
        "it was changed, the folder was copied from there, or resexp before 0.2 wrote it" in summary.absent[3].message
    )
    assert summary.verdict.headline.startswith("So far: from ")
    for damage in ("[]", '{"runs": 5}', '{"runs": [5]}', "{"):
        folder.plan_path.write_text(damage)
        with pytest.raises(UserError, match=r"study.json: damaged"):
            summarise(folder)


def test_the_curves_of_all_families_share_an_axis_that_the_first_tenth_of_the_steps_may_leave(
    study: Callable[..., StudyFolder],
) -> None:
    folder = study(DEGRADES, train=SMALL.model_copy(update={"log_every": 40}))
    path = folder.runs()[0].metrics_path
    first, *others = path.read_text().splitlines()
    path.write_text("\n".join([json.dumps({**json.loads(first), "train_error": 0.9}), *others]) + "\n")
    plots = draw(summarise(folder))
    # The highest is the final test error of the third plain-44: 67 %.
    tops = [plots[name].axes.get_ylim()[1] for name in ("curves-plain", "curves-residual")]
    assert tops == pytest.approx([1.05 * 67, 1.05 * 67])


def test_the_same_study_gives_the_same_figures(study: Callable[..., StudyFolder]) -> None:
    folder = study(DEGRADES)
    built(folder)
    before = {p.name: p.read_bytes() for p in (folder.folder / "report/figures").iterdir()}
    built(folder)
    assert {p.name: p.read_bytes() for p in (folder.folder / "report/figures").iterdir()} == before


def test_the_page_says_on_what_kind_of_cpu_runs_were_trained_where_that_is_known(
    study: Callable[..., StudyFolder],
) -> None:
    folder = study({("plain", 8): [30.0, 31.0, 32.0], ("plain", 20): [40.0]})
    for run, capability in zip(folder.runs(), ("AVX512", "AVX512", "AVX2", None), strict=True):
        record = json.loads(run.manifest_path.read_text())
        if capability:
            record["attempts"][0]["cpu_capability"] = capability
        else:
            del record["attempts"][0]["cpu_capability"]  # an older record
        run.manifest_path.write_text(json.dumps(record))
    assert dict(provenance(summarise(folder)))["CPU capability"] == "AVX512 (2 of 3); AVX2 (1 of 3)"
