"""On a CUDA GPU: graphs, packs, precisions, resuming, memory. `make test-gpu` runs these, in under three minutes.

RESEXP_TEST_DEVICE=cpu tries them without one, but for those that are about the GPU itself.
"""

from __future__ import annotations

import gc
import itertools
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import pytest
import torch

from resexp.config import RunConfig
from resexp.data import open_dataset
from resexp.data.imagenet.example import make_example
from resexp.device.concurrent import on_stream, run_to_completion
from resexp.device.cuda_graph import CALLS_BEFORE_CAPTURE
from resexp.device.hardware import choose_hardware, with_stream
from resexp.errors import DeviceOutOfMemoryError
from resexp.evaluation.tta import SingleView, errors_on_views
from resexp.runs.checkpoint import last_weights
from resexp.runs.logits import read
from resexp.runs.store import Run
from resexp.training.concurrent_runs import ConcurrentRuns, _memory_needed
from resexp.training.train import train
from resexp.training.trainer import Trainer
from resexp.utils.logs import log

DEVICE = os.environ.get("RESEXP_TEST_DEVICE", "cuda")
SIZE = 32 if DEVICE == "cuda" else 16

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(DEVICE == "cuda" and not torch.cuda.is_available(), reason="no CUDA GPU"),
]
only_cuda = pytest.mark.skipif(DEVICE != "cuda", reason="about CUDA itself")


@pytest.fixture(autouse=True)
def _steady() -> Iterator[None]:
    """Images that are there, kernels that sum in the same order every time, and no memory of other tests."""
    open_dataset(config().data)
    gc.collect()
    if DEVICE == "cuda":
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    before = torch.backends.cudnn.deterministic
    torch.backends.cudnn.deterministic = True
    yield
    torch.backends.cudnn.deterministic = before


@pytest.fixture(autouse=True)
def _nothing_goes_wrong() -> Iterator[None]:
    """No capture fails, no run is tried again: no warning is logged."""
    warnings = BufferingHandler(1000)
    warnings.setLevel(logging.WARNING)
    log.addHandler(warnings)
    yield
    assert [record.getMessage() for record in warnings.buffer] == []


def config(kind: str = "residual", depth: int = 20, **recipe: Any) -> RunConfig:
    return RunConfig.model_validate(
        {
            "data": {"source": "shapes", "train_images": 2000, "test_images": 500, "size": SIZE},
            "model": {"kind": kind, "depth": depth, "width": SIZE // 2},
            "train": {"steps": 60, "milestones": [], "log_every": 10, "lr": 0.01, "device": DEVICE, **recipe},
        }
    )


def make(folder: Path, *args: Any, **recipe: Any) -> Run:
    resolved = config(*args, **recipe)
    run = Run(folder / resolved.folder)
    run.create(resolved)
    return run


def losses(run: Run) -> list[float]:
    return [record["train_loss"] for record in run.metrics() if "train_loss" in record]


def trainer(resolved: RunConfig) -> Trainer:
    hardware = with_stream(choose_hardware(resolved.train))
    with torch.cuda.stream(hardware.stream):
        return Trainer(resolved, open_dataset(resolved.data), hardware)


def advance(one: Trainer, steps: int) -> list[float]:
    run_to_completion(on_stream(one.hardware, one.advance(one.step + steps, lambda: False)))
    return [record.loss for record in one.read()]


# -- graphs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_replayed_step_is_the_step(precision: str) -> None:
    """With a milestone and an epoch's end on the way: rate and batches come from the device's own count."""
    recipe: dict[str, Any] = {
        "precision": precision,
        "milestones": [20],
        "warmup_lr": 0.001,
        "warmup_until_error": 0.85,
    }
    replayed, eager = trainer(config(**recipe)), trainer(config(cuda_graphs=False, **recipe))
    assert advance(replayed, 40) == pytest.approx(advance(eager, 40), rel=1e-3)
    if DEVICE == "cuda":
        assert replayed._train_step._graph is not None
        assert eager._train_step._graph is None


def test_a_replayed_evaluation_is_the_evaluation() -> None:
    replayed, eager = trainer(config()), trainer(config(cuda_graphs=False))
    results = []
    for one in (replayed, eager):
        advance(one, 5)
        for _ in range(3):  # 2,000 images are four batches: the third pass is replayed throughout
            work = one.evaluate("train", lambda: False)
            results.append(run_to_completion(on_stream(one.hardware, work)))
    assert len({result.error for result in results}) == 1
    assert [result.loss for result in results] == pytest.approx([results[0].loss] * 6, rel=1e-4)


def test_the_end_of_a_run_is_the_same_replayed_and_eager(tmp_path: Path) -> None:
    """The graph of evaluation reads the statistics that BN was given since it was captured; logits outlive a replay."""
    runs = [
        make(tmp_path / str(eager), precision="fp32", precise_bn_images=2000, cuda_graphs=not eager)
        for eager in (False, True)
    ]
    for run in runs:
        train(run)
    replayed, eager = (read(run.logits_path) for run in runs)
    assert replayed.values == pytest.approx(eager.values, abs=0.05 * float(eager.values.std()))
    assert replayed.error == runs[0].status().test_error
    own = errors_on_views(runs[0], SingleView())
    assert own["test_error"] == pytest.approx(replayed.error, abs=0.01)


def test_what_is_dropped_is_drawn_anew_in_every_replay(tmp_path: Path) -> None:
    """The device counts the draws: after 60 steps every block has made 60, captured or not, and the losses agree."""
    found = []
    for eager in (False, True):
        resolved = config(precision="fp32", cuda_graphs=not eager)
        model = resolved.model.model_copy(update={"drop_path": 0.5})
        resolved = resolved.model_copy(update={"model": model})
        run = Run(tmp_path / str(eager) / resolved.folder)
        run.create(resolved)
        assert train(run).state == "finished"
        _, weights = last_weights(run)
        assert {int(value) for name, value in weights.items() if name.endswith("draws.calls")} == {60}
        found.append(losses(run))
    assert found[0] == pytest.approx(found[1], rel=0.05)


def test_training_does_not_notice_probes(tmp_path: Path) -> None:
    """They look at a copy, between two replays of a step."""
    found = []
    for name in ("bare", "probed"):
        run = make(tmp_path / name, precision="fp32")
        if name == "probed":
            probes = {"gradients": [0, 30], "lesion": [30], "landscape": [-1], "responses": [-1], "branches": [30]}
            resolved = RunConfig.model_validate({**config(precision="fp32").model_dump(mode="json"), "probes": probes})
            run.create(resolved)
        assert train(run).state == "finished"
        found.append(losses(run))
    assert len(list(run.folder.glob("probes/*.json"))) == 6
    assert found[0] == pytest.approx(found[1], rel=0.02)


@only_cuda
def test_what_can_not_be_captured_goes_on_eagerly() -> None:
    """A function that waits for the device in the middle. In a process of its own: what a failed capture leaves in
    torch 2.11's allocator would spoil the memory tests."""
    done = subprocess.run([sys.executable, "-c", UNCAPTURABLE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


UNCAPTURABLE = """
import torch
from resexp.config import TrainConfig
from resexp.device.cuda_graph import CALLS_BEFORE_CAPTURE, CudaGraphed
from resexp.device.hardware import choose_hardware, with_stream
from resexp.utils.logs import log_to

hardware = with_stream(choose_hardware(TrainConfig(device="cuda")))
said = []
log_to(said.append)
with torch.cuda.stream(hardware.stream):
    total = torch.zeros((), device="cuda")
    replayed = CudaGraphed(lambda: total.add_(1).item(), hardware)
    for _ in range(CALLS_BEFORE_CAPTURE + 4):
        replayed()
    assert total.item() == CALLS_BEFORE_CAPTURE + 4, total
assert len(said) == 1 and said[0].startswith("no CUDA graph, kernels are launched one by one: "), said
"""


# -- packs ------------------------------------------------------------------------------------------------------------

NETS = [("plain", 20), ("residual", 20), ("residual", 32), ("residual", 8)]


def train_pack(runs: list[Run], size: int | None) -> None:
    turns = ConcurrentRuns(runs, size=size, threads=None, stop=lambda: False).turns()
    assert [outcome for events in turns for _, outcome in events if isinstance(outcome, Exception)] == []


@pytest.mark.parametrize(("size", "steps"), [(4, 60), pytest.param(None, 1000, marks=only_cuda)])
def test_packed_runs_equal_runs_alone(tmp_path: Path, size: int | None, steps: int) -> None:
    """Of a given size, and growing while it trains."""
    packed = [make(tmp_path / "packed", *net, steps=steps) for net in NETS]
    train_pack(packed, size)
    for run, net in zip(packed, NETS, strict=True):
        other = make(tmp_path / "alone", *net, steps=steps)
        assert train(other).state == run.status().state == "finished"
        assert losses(run)[:6] == pytest.approx(losses(other)[:6], rel=1e-3)
        assert run.status().test_error == pytest.approx(other.status().test_error, abs=0.05)


def test_deep_packed_runs_equal_runs_alone(tmp_path: Path) -> None:
    """Deep nets amplify what goes wrong between runs that share a GPU."""
    nets = [("residual", 56), ("plain", 56), ("residual", 44)]
    packed = [make(tmp_path / "packed", *net, steps=30) for net in nets]
    train_pack(packed, len(nets))
    for run, net in zip(packed, nets, strict=True):
        other = make(tmp_path / "alone", *net, steps=30)
        assert train(other).state == run.status().state == "finished"
        if net[0] == "residual":  # rounding alone makes other losses of a deep plain net
            assert losses(run) == pytest.approx(losses(other), rel=2e-2)


@only_cuda
def test_a_run_needs_no_more_memory_than_was_reckoned_with(tmp_path: Path) -> None:
    run = make(tmp_path, "residual", 110, steps=8)
    before = torch.cuda.memory_reserved()
    train(run)
    assert torch.cuda.max_memory_reserved() - before < _memory_needed(run)


@only_cuda
def test_out_of_memory_leaves_a_run_that_can_go_on(tmp_path: Path) -> None:
    run = make(tmp_path, "residual", 110, steps=8)
    _, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction(300e6 / total)
    try:
        with pytest.raises(DeviceOutOfMemoryError, match="out of GPU memory"):
            train(run)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert run.status().state in ("pending", "interrupted")
    gc.collect()
    assert train(run).state == "finished"


def test_a_sweep_packs_its_runs(tmp_path: Path, resexp: Callable[..., Any]) -> None:
    study = tmp_path / "small.yaml"
    study.write_text(
        "data: {source: shapes, train_images: 500, test_images: 100}\n"
        f"train: {{steps: 40, log_every: 10, device: {DEVICE}}}\n"
        "grid: {model.kind: [plain, residual], model.depth: [8, 14]}\n"
    )
    done = resexp("sweep", "--config", study, "--runs-per-gpu", 4)
    assert done.returncode == 0, done.stderr
    assert "4 trained" in done.stdout
    assert "no CUDA graph" not in done.stdout


# -- precision --------------------------------------------------------------------------------------------------------


def test_precisions_agree() -> None:
    """bf16 keeps 8 bits of a number, fp16 11: after 40 steps the mean loss of the last ten differs by under 3 %."""
    last = {p: sum(advance(trainer(config(precision=p)), 40)[-10:]) / 10 for p in ("fp32", "bf16", "fp16")}
    assert last["bf16"] == pytest.approx(last["fp32"], rel=0.03)
    assert last["fp16"] == pytest.approx(last["fp32"], rel=0.03)
    assert len(set(last.values())) == 3


def test_the_gpu_and_the_cpu_begin_alike() -> None:
    """Same weights, same batches: after ten steps in fp32 the losses differ by rounding (TF32 in convolutions) only."""
    on_device, on_cpu = (trainer(config(device=device, precision="fp32")) for device in (DEVICE, "cpu"))
    assert advance(on_device, 10) == pytest.approx(advance(on_cpu, 10), rel=1e-2)


@pytest.mark.parametrize(("precision", "least"), [("fp32", 0.99), ("bf16", 0.9)])
def test_the_first_step_of_a_deep_residual_net_is_that_of_the_cpu(precision: str, least: float) -> None:
    """The cosine between the changes of all weights, with the kernels that training chooses."""

    def change(device: str, precision: str) -> torch.Tensor:
        torch.backends.cudnn.deterministic = False
        one = trainer(config(depth=56, device=device, precision=precision))
        before = torch.cat([weight.detach().flatten().cpu() for weight in one.model.parameters()])
        advance(one, 1)
        return torch.cat([weight.detach().flatten().cpu() for weight in one.model.parameters()]) - before

    found = torch.cosine_similarity(change(DEVICE, precision), change("cpu", "fp32"), dim=0)
    assert found > least


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(tmp_path: Path, precision: str) -> None:
    run = make(tmp_path, precision=precision, steps=200, lr=0.1)
    assert train(run).state == "finished"
    assert losses(run)[-1] < 1.5  # ln 10 = 2.3 knows nothing
    manifest = run.manifest()
    assert manifest is not None
    assert manifest.attempts[0].precision == precision


# -- resuming, and depth ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_resumed_run_follows_an_uninterrupted_one(tmp_path: Path, precision: str) -> None:
    whole, pieces = (make(tmp_path / name, precision=precision) for name in ("whole", "pieces"))
    train(whole)
    calls = itertools.count()
    assert train(pieces, stop=lambda: next(calls) >= 2).state == "interrupted"
    assert 0 < pieces.status().step < 60
    assert train(pieces).state == "finished"
    assert losses(pieces) == pytest.approx(losses(whole), rel=1e-2)
    assert [r["step"] for r in pieces.metrics()] == [r["step"] for r in whole.metrics()]


@only_cuda
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_depth_1202_trains_within_16_gb(precision: str) -> None:
    """Batch 128, captured as a graph."""
    before = torch.cuda.memory_reserved()
    deep = trainer(config("residual", 1202, precision=precision, lr=0.001))
    advance(deep, CALLS_BEFORE_CAPTURE + 3)
    assert deep._train_step._graph is not None
    assert torch.cuda.max_memory_reserved() - before < 16e9


# -- ImageNet: images that are decoded while a net is trained ----------------------------------------------------------


def streamed(folder: Path, images: Path, **recipe: Any) -> Run:
    resolved = RunConfig.model_validate(
        {
            "data": {
                "source": "imagenet", "path": str(images), "crop": 64, "resize_range": [73, 137], "val_resize": 73
            },
            "model": {"kind": "residual", "variant": "imagenet", "depth": 18, "width": SIZE // 2},
            "train": {
                "steps": 20, "batch_size": 32, "milestones": [], "log_every": 5, "lr": 0.01, "device": DEVICE, **recipe
            },
            "probes": {"tta": ["ten-crop", "multi-scale"]},
        }
    )  # fmt: skip
    run = Run(folder / resolved.folder)
    run.create(resolved)
    return run


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("imagenet") / "images"
    make_example(folder, 3, 20, 5, 0)
    return folder


@pytest.mark.parametrize("recipe", [{}, {"microbatch": 8}, {"microbatch": 8, "schedule": "plateau", "eval_every": 5}])
def test_streamed_batches_are_the_same_replayed_and_launched_one_by_one(
    tmp_path: Path, images: Path, recipe: dict[str, Any]
) -> None:
    """A batch that was overwritten before the device had it, or a graph that reads another, would show."""
    replayed, eager = (streamed(tmp_path / str(e), images, cuda_graphs=not e, **recipe) for e in (False, True))
    train(replayed)
    train(eager)
    assert losses(replayed) == pytest.approx(losses(eager), rel=1e-3)
    assert {path.name for path in replayed.probe_folder.iterdir()} == {"ten-crop-20.json", "multi-scale-20.json"}


def test_a_streamed_run_goes_on_where_it_was(tmp_path: Path, images: Path) -> None:
    whole, halves = (streamed(tmp_path / name, images, checkpoint_steps=7) for name in ("whole", "halves"))
    train(whole)
    asked = itertools.count()
    assert train(halves, stop=lambda: next(asked) >= 7).state == "interrupted"
    train(halves)
    assert losses(halves) == pytest.approx(losses(whole), rel=1e-3)
