"""The benchmark: what is counted, what is divided by what, and what is left out and said. No time is asserted."""

from __future__ import annotations

import json
import os
import pickle
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from resexp.bench import imagenet, steps
from resexp.bench.steps import copy, eager_loop, matmul, ours, usual_loop
from resexp.bench.turns import Benchmark, Case, Measurement, in_turns, work_of_a_step
from resexp.cli import app
from resexp.config import ModelConfig, RunConfig, ShapesData, TrainConfig
from resexp.data.imagenet.example import make_example
from resexp.errors import UserError
from resexp.utils.logs import logged_to

Cli = Callable[..., Any]
FORKING = """
import multiprocessing
import torch._dynamo
from torchvision import transforms
from resexp.bench import steps
from resexp.cli import main

fork = multiprocessing.get_context("fork")
multiprocessing.get_context = lambda method: fork
main()
"""


def forking(*words: object) -> subprocess.CompletedProcess[str]:
    """`resexp` where contenders are forked: each would import torch, torchvision and more for five seconds."""
    command = [sys.executable, "-c", FORKING, *map(str, words)]
    on_two_cores = {**os.environ, "SLURM_CPUS_PER_TASK": "2", "OMP_WAIT_POLICY": "passive"}  # threads must not spin
    return subprocess.run(command, capture_output=True, text=True, timeout=200, env=on_two_cores)


CONFIG = RunConfig(
    data=ShapesData(source="shapes", train_images=100, test_images=100, size=32),
    model=ModelConfig(depth=20),
    train=TrainConfig(device="cpu"),
)
SMALL = [
    "--depths",
    "8",
    "--rounds",
    "2",
    "--seconds",
    "0.05",
    "--set",
    "data.train_images=600",
    "--set",
    "model.width=2",
]


def test_a_unit_is_a_step_of_every_run() -> None:
    """40,551,040 multiply-adds an image: two operations each, forward once and backward twice."""
    unit = work_of_a_step(Case("resexp", ours, CONFIG, runs=3))
    assert unit["images"] == 3 * 128
    assert unit["flop"] == 3 * 128 * 6 * 40_551_040
    assert unit["bytes"] == 3 * 128 * 14 * 188_416 * 4


def measured(what: str, build: Any, units: dict[str, float], seconds: list[list[float]], **case: int) -> Measurement:
    facts = {"images": 0.0, "flop": 0.0, "bytes": 0.0, "start_up_s": 1.0, "memory_mib": 1.0, **units}
    return Measurement(Case(what, build, CONFIG, **case), facts, seconds)


def test_rates_are_of_all_processes_and_ratios_within_a_round() -> None:
    """The machine was half as fast in the second round; the ratios do not show it."""
    step = {"images": 128.0, "flop": 1e9, "bytes": 1e8}
    rows = steps.summary(
        [
            measured("resexp", ours, step, [[0.1, 0.1], [0.2, 0.2], [0.1, 0.1]], processes=2),
            measured("usual loop", usual_loop, step, [[0.1], [0.2], [0.1]]),
            measured("eager loop", eager_loop, step, [[0.08], [0.16], [0.04]]),
            measured("matmul", matmul, {"flop": 1e9}, [[0.025, 0.025], [0.05, 0.05], [0.025, 0.025]], processes=2),
            measured("copy", copy, {"bytes": 1e9}, [[0.1, 0.1], [0.2, 0.2], [0.1, 0.1]], processes=2),
        ]
    )["rows"]
    assert [row["what"] for row in rows] == ["resexp", "usual loop", "eager loop"]
    best = rows[0]
    assert (best["net"], best["precision"], best["at_once"]) == ("residual-20", "fp32", 2)
    assert best["images_per_second"] == pytest.approx(2560)
    assert best["spread"] == pytest.approx((1280, 2560))
    assert best["ms_per_step"] == pytest.approx(100)  # of one run, while another is beside it
    assert best["gflops"] == pytest.approx(20)
    assert best["of_matmul"] == pytest.approx(0.25)
    assert best["of_copy"] == pytest.approx(0.1)
    assert best["over"]["usual loop"] == pytest.approx((2, 2, 2))
    assert best["over"]["eager loop"] == pytest.approx((1.6, 0.8, 1.6))


def _dies(case: Case, facts: dict[str, Any]) -> Callable[[int], None]:
    """A contender that ends, without a word, in its second turn."""
    facts |= {"images": 1.0}
    calls = iter(range(100))

    def loop(units: int) -> None:
        time.sleep(0.02)
        if next(calls) > 3:
            os._exit(1)

    return loop


@pytest.mark.slow
def test_a_contender_has_a_process_of_its_own_and_is_left_out_when_that_ends() -> None:
    """It is sent there, so all that a case holds can be sent."""
    cases = [Case("usual loop", _dies, CONFIG, threads=1), Case("copy", copy, CONFIG, threads=1)]
    lines: list[str] = []
    with logged_to(lines.append):
        (found,) = in_turns(cases, 3, 0.01)
    assert (found.case.what, len(found.seconds)) == ("copy", 3)
    assert found.facts["memory_mib"] > 2 * 256  # two arrays
    assert min(found.rates("bytes")) > 0
    for case in steps.BENCHMARK.cases(CONFIG, [2]):
        assert pickle.loads(pickle.dumps(case)) == case
    (left_out,) = (line for line in lines if line.startswith("left out: "))
    assert re.fullmatch(r"left out: usual loop: a process ended in round \d", left_out)


def test_the_usual_loop_computes_in_fp32_everywhere() -> None:
    config = CONFIG.with_train(precision="bf16")
    facts = {"images": 1.0, "start_up_s": 1.0, "memory_mib": 1.0}
    found = {case.what: Measurement(case, facts, [[1.0]]) for case in steps.BENCHMARK.cases(config, [1])}
    for what, precision in (("resexp", "bf16"), ("eager loop", "bf16"), ("usual loop", "fp32")):
        assert found[what].case.hardware.precision == precision
        assert found[what].to_json()["precision"] == found[what].row()["precision"] == precision


def test_more_steps_can_be_timed_than_a_study_has() -> None:
    """Other schedules than milestones list the rates of its steps."""
    config = RunConfig(train=TrainConfig(steps=24, schedule="cosine", milestones=()))
    cases = [*steps._cases(config, None), *(case for case in steps._cases(config, [2]))]
    assert {(case.config.train.schedule, case.config.train.milestones) for case in cases} == {("milestones", ())}


def test_the_usual_loop_needs_a_whole_batch() -> None:
    data = ShapesData(source="shapes", size=8, train_images=100, test_images=100)
    config = RunConfig(data=data, train=TrainConfig(batch_size=128, steps=10))
    with pytest.raises(UserError, match="it needs a whole batch, and there are 100 images; lower"):
        steps.usual_loop(steps.Case("usual loop", steps.usual_loop, config), {})


def test_bench_prints_json_and_writes_a_page(tmp_path: Path) -> None:
    done = forking("bench", *SMALL, "--runs", "2", "--out", tmp_path / "bench", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads((tmp_path / "bench/bench.json").read_text())
    loops = [(row["what"], row["at_once"]) for row in result["rows"]]
    assert loops[0] == ("resexp", 2)
    assert ("eager loop", 1) in loops
    assert all(row["images_per_second"] > 0 and 0 < row["of_matmul"] < 2 for row in result["rows"])
    assert all(len(m["seconds_per_unit"]) == 2 for m in result["measured"])
    page = (tmp_path / "bench/bench.md").read_text()
    assert "| loop | net | at once |" in page
    assert page.count("residual-8 fp32") == len(loops)
    assert steps.BENCHMARK.note in page


def test_blocks_are_compiled_where_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[RunConfig] = []
    result = {"machine": {"device": "cpu"}, "rows": []}
    monkeypatch.setattr(Benchmark, "run", lambda self, configs, *rest: seen.extend(configs) or result)
    for flag in ([], ["--compile"]):
        done = CliRunner().invoke(app, ["bench", "--depths", "8", "--json", *flag])
        assert done.exit_code == 0, done.output
    assert [config.train.compile for config in seen] == [False, True]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["--runs", "1,x"], "--runs: expected positive whole numbers with commas between, got '1,x'"),
        (["--depths", ""], "--depths: expected values with commas between, got ''"),
        (["--kinds", ""], "--kinds: expected values with commas between, got ''"),
        (["--runs", " "], "--runs: expected values with commas between, got ' '"),
        (["--precisions", "fp32,,bf16"], "--precisions: expected values with commas between, got 'fp32,,bf16'"),
        (["--runs", "0"], "--runs: expected positive whole numbers with commas between, got '0'"),
        (["--depths", "21"], "resexp: --depths: must be 6n+2; the nearest are 20 and 26, got 21"),
        (["--kinds", "plian"], "resexp: --kinds: got 'plian'; allowed: "),
        (["--precisions", "x"], "resexp: --precisions: got 'x'"),
        (["--config", "imagenet/smoke", "--depths", "9"], "resexp: --depths: of basic blocks"),
        (["--set", "train.lr=-1"], "resexp: --set train.lr=-1: train.lr: "),
        (["--set", "train.device=cuda:7"], "train.device: cuda:7 asked for, but "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(here: Cli, arguments: list[str], line: str) -> None:
    done = here("bench", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert line in done.stderr
    assert len(done.stderr.splitlines()) == 1


# -- ImageNet ---------------------------------------------------------------------------------------------------------


def test_the_bottleneck_is_the_slower_of_input_and_compute() -> None:
    """The machine was half as fast in the second round; in the third, so was the input."""
    step = {"images": 128.0, "computes": True, "flop": 1e9}
    times = {
        "input": [[0.1], [0.2], [0.2]], "torchvision's input": [[0.2], [0.4], [0.2]], "compute": [[0.4], [0.8], [0.4]],
        "together": [[0.5], [1.0], [0.5]],
    }  # fmt: skip
    some = [measured(what, ours, step | {"computes": "input" not in what}, seconds) for what, seconds in times.items()]
    result = imagenet.summary(some)
    rows = {row["what"]: row for row in result["rows"]}
    assert rows["input"]["over"] == pytest.approx((2, 1, 2))
    assert rows["input"]["gflops"] is None
    assert rows["compute"]["over"] is None  # its rival is not there
    assert rows["compute"]["gflops"] == pytest.approx(2.5)
    assert rows["compute"]["ms_per_batch"] == pytest.approx(400)
    (found,) = result["bottlenecks"]
    assert found["slower"] == "compute"
    assert found["times"] == pytest.approx((4, 2, 4))
    assert found["images_per_second"] == pytest.approx({"input": 640, "compute": 320, "together": 256})
    assert imagenet.BENCHMARK.remarks(result) == [
        "residual-20: the bottleneck is compute; input is 4 times as fast [2, 4]; images/s: input 640, compute 320, "
        "together 256",
        imagenet.BENCHMARK.note,
    ]


TINY = ["data.crop=32", "data.resize_range=[36,60]", "data.val_resize=36", "train.batch_size=8", "train.device=cpu"]


@pytest.mark.slow
def test_bench_of_imagenet_times_input_and_compute_and_both(tmp_path: Path) -> None:
    make_example(tmp_path / "images", 2, 20, 2, 0)
    settings = [f"data.path={tmp_path / 'images'}", "model.width=2", "train.steps=40", "train.milestones=[30]", *TINY]
    options = ["--depths", "18", "--kinds", "plain", "--rounds", "2", "--seconds", "0.05", "--out", tmp_path / "bench"]
    done = forking(
        "bench", "--config", "imagenet/smoke", *(w for s in settings for w in ("--set", s)), *options, "--json"
    )
    assert done.returncode == 0, done.stderr
    assert "left out: usual AMP loop: torchvision has no such net" in done.stderr
    result = json.loads(done.stdout)
    assert result == json.loads((tmp_path / "bench/bench.json").read_text())
    rows = {row["what"]: row for row in result["rows"]}
    assert list(rows) == ["input", "torchvision's input", "compute", "together"]
    assert all(row["net"] == "plain-18" and row["images_per_second"] > 0 for row in rows.values())
    assert rows["input"]["decoders"] == rows["torchvision's input"]["decoders"] == rows["together"]["decoders"]
    assert [rows[what]["over"] is not None for what in rows] == [True, False, False, False]
    assert all(len(m["seconds_per_unit"]) == 2 for m in result["measured"])
    (found,) = result["bottlenecks"]
    assert found["slower"] in ("input", "compute")
    page = (tmp_path / "bench/bench.md").read_text()
    assert f"plain-18: the bottleneck is {found['slower']}; " in page
    assert imagenet.BENCHMARK.note in page


@pytest.mark.parametrize(
    ("options", "nets"),
    [
        ([], ["plain-18", "plain-34", "residual-18", "residual-34"]),
        (["--kinds", "plain"], ["plain-18", "plain-34"]),
        (["--depths", "34"], ["plain-34", "residual-34"]),
        (["--kinds", "residual", "--depths", "50"], ["residual-50"]),
    ],
)
def test_kinds_and_depths_that_are_not_named_are_the_studys(
    options: list[str], nets: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[RunConfig] = []
    result = {"machine": {"device": "cpu"}, "rows": []}
    monkeypatch.setattr(Benchmark, "run", lambda self, configs, *rest: seen.extend(configs) or result)
    done = CliRunner().invoke(app, ["bench", "--config", "imagenet/figure4", "--json", *options])
    assert done.exit_code == 0, done.output
    assert [f"{config.model.kind}-{config.model.depth}" for config in seen] == nets


def test_the_nets_of_imagenets_bench_are_the_studys_and_its_data_must_be_there(here: Cli) -> None:
    done = here("bench", "--config", "imagenet/figure4")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[0].startswith("plain-18 ")
    assert "data/imagenet" in done.stderr.splitlines()[1]
    assert len(done.stderr.splitlines()) == 2
    done = here("bench", "--config", "imagenet/figure4", "--runs", "2")
    assert done.returncode == 2
    assert done.stderr == (
        "resexp: --runs: imagenet/figure4 is a study of ImageNet, and its runs are timed one by one; leave it out\n"
    )
