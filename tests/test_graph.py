"""Replaying a step: after a few calls, with a way back; and the records of steps."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from resexp.data import open_dataset
from resexp.device.concurrent import run_to_completion
from resexp.device.cuda_graph import CALLS_BEFORE_CAPTURE, CudaGraphed
from resexp.device.hardware import Hardware
from resexp.training.trainer import Trainer
from tests.test_training import CPU, tiny

GRAPHS = Hardware(CPU, "fp32", graphs=True)


class Device:
    """Stands for CUDA's graphs: what is called while capturing is kept, and done at every replay."""

    def __init__(self, patch: pytest.MonkeyPatch, failure: Exception | None = None) -> None:
        self.log: list[str] = []
        self.capturing = False
        self.failure = failure
        patch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        patch.setattr(torch.cuda, "graph", self.graph)

    @contextlib.contextmanager
    def graph(self, graph: object, **_: Any) -> Iterator[None]:
        self.capturing = True
        try:
            yield
        finally:
            self.capturing = False
        if self.failure:
            raise self.failure

    def replay(self) -> None:
        self.log.append("replay")

    def function(self) -> None:
        self.log.append("capture" if self.capturing else "call")


def test_the_first_calls_are_calls_and_then_a_graph_is_replayed(
    monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    device = Device(monkeypatch)
    replayed = CudaGraphed(device.function, GRAPHS)
    for _ in range(CALLS_BEFORE_CAPTURE + 2):
        replayed()
    assert device.log == ["call"] * CALLS_BEFORE_CAPTURE + ["capture", "replay", "replay"]
    assert logged == []


def test_without_graphs_a_function_is_only_called(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch)
    replayed = CudaGraphed(device.function, Hardware(CPU, "fp32"))
    for _ in range(10):
        replayed()
    assert device.log == ["call"] * 10


def test_what_can_not_be_captured_goes_on_with_one_line(monkeypatch: pytest.MonkeyPatch, logged: list[str]) -> None:
    device = Device(monkeypatch, RuntimeError("CUDA error: operation not permitted\nwhen stream is capturing"))
    replayed = CudaGraphed(device.function, GRAPHS)
    for _ in range(CALLS_BEFORE_CAPTURE + 5):
        replayed()
    assert device.log == ["call"] * CALLS_BEFORE_CAPTURE + ["capture"] + ["call"] * 5
    assert logged == [
        "no CUDA graph, kernels are launched one by one: CUDA error: operation not permitted when stream is capturing"
    ]


def test_too_little_memory_to_capture_is_for_the_pack_to_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(monkeypatch, torch.OutOfMemoryError("CUDA out of memory"))
    replayed = CudaGraphed(device.function, GRAPHS)
    for _ in range(CALLS_BEFORE_CAPTURE):
        replayed()
    with pytest.raises(torch.OutOfMemoryError):
        replayed()


def test_records_are_read_in_one_go_and_are_those_of_every_step() -> None:
    config = tiny(train={"steps": 20})
    once, often = (Trainer(config, open_dataset(config.data), Hardware(CPU, "fp32")) for _ in range(2))
    run_to_completion(once.advance(20, lambda: False))
    records = []
    for until in (1, 2, 9, 20):
        run_to_completion(often.advance(until, lambda: False))
        records += often.read()
    assert records == once.read()
    assert len(records) == 20
    assert once.read() == []


def test_a_trainer_stops_before_records_would_be_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resexp.training.trainer.RECORDED_STEPS", 8)
    config = tiny(train={"steps": 20})
    trainer = Trainer(config, open_dataset(config.data), Hardware(CPU, "fp32"))
    seen: list[Any] = []
    reached = []
    while trainer.step < 20:
        run_to_completion(trainer.advance(20, lambda: False))
        reached.append(trainer.step)
        seen += trainer.read()
    assert reached == [8, 16, 20]
    assert [record.lr for record in seen] == pytest.approx([0.1] * 10 + [0.01] * 5 + [0.001] * 5)


@pytest.mark.skipif(not __import__("shutil").which("g++"), reason="torch.compile needs a C++ compiler on a CPU")
@pytest.mark.slow
def test_compiled_blocks_train_as_the_others_do() -> None:
    losses: list[list[float]] = []
    for compiled in (False, True):
        config = tiny(train={"compile": compiled, "lr": 0.01})
        trainer = Trainer(config, open_dataset(config.data), Hardware(CPU, "fp32"))
        run_to_completion(trainer.advance(5, lambda: False))
        losses.append([record.loss for record in trainer.read()])
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
