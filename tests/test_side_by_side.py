"""Runs that share a process must not notice each other: PyTorch keeps much of its state for a thread or a process."""

from __future__ import annotations

import gc
import random
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from resexp.data import open_dataset
from resexp.device.hardware import Hardware
from resexp.evaluation import tta
from resexp.evaluation.tta import Classifier, usual
from resexp.probes import PROBES
from resexp.training.probing import snapshot
from resexp.training.train import train
from resexp.training.trainer import Trainer
from tests.test_pack import Packed, make
from tests.test_training import CPU, after, tiny

NEVER = lambda: False  # noqa: E731


def state() -> dict[str, Any]:
    """All that a piece of work could leave changed."""
    backends = torch.backends
    return {
        "gradients": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "autocast type": torch.get_autocast_dtype("cpu"),
        "autocast on cuda": torch.is_autocast_enabled("cuda"),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn": (backends.cudnn.benchmark, backends.cudnn.deterministic, backends.cudnn.allow_tf32),
        "threads": torch.get_num_threads(),
        "type": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "precision of products": torch.get_float32_matmul_precision(),
        "garbage collector": gc.isenabled(),
        "random numbers": torch.get_rng_state().sum().item(),
        "numpy's": np.random.get_state(legacy=False)["state"]["key"].sum(),
        "Python's": random.getstate(),
    }


def drive(work: Generator[int, None, Any]) -> int:
    """Do the work piece by piece; returns the pieces."""
    before, pieces = state(), 0
    while True:
        try:
            next(work)
        except StopIteration:
            assert state() == before
            return pieces
        assert state() == before, "held while others have their turn"
        pieces += 1


@pytest.fixture
def trainer() -> Trainer:
    config = tiny(data={"split": "holdout", "train_images": 200, "test_images": 150}, train={"precise_bn_images": 130})
    return Trainer(config, open_dataset(config.data), Hardware(CPU, "bf16"))


WORK: dict[str, Callable[[Trainer], Generator[int, None, Any]]] = {
    **{name: lambda trainer, probe=probe: probe.measure(snapshot(trainer)) for name, probe in PROBES.items()},
    "steps": lambda trainer: trainer.advance(5, NEVER),
    "evaluation": lambda trainer: trainer.evaluate("train", NEVER),
    "test": lambda trainer: trainer.evaluate("test", NEVER),
    "BN's statistics": lambda trainer: trainer.recompute_bn(130, NEVER),
    **{
        name: lambda trainer, name=name: tta.compare(
            trainer.config,
            trainer.dataset,
            trainer.pipeline,
            Classifier(trainer.model, trainer.pipeline.mean, trainer.autocast),
            usual(trainer.config, name, trainer.dataset.size),
        )
        for name in ("ten-crop", "multi-scale")
    },
}  # fmt: skip


@pytest.mark.parametrize("name", WORK)
def test_between_two_pieces_of_work_the_process_is_as_it_was(trainer: Trainer, name: str) -> None:
    assert drive(WORK[name](trainer)) > 0


def test_what_is_held_is_found() -> None:
    def careless() -> Generator[int, None, None]:
        with torch.no_grad():
            yield 0

    with pytest.raises(AssertionError, match="held while others"):
        drive(careless())


def test_each_run_computes_on_the_threads_that_it_began_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was begun on two threads goes on beside one that begins on one."""
    old, new = make(tmp_path)[:2]
    assert train(old, threads=2, stop=after(5)).state == "interrupted"
    seen: dict[str, set[int]] = {}
    update = Trainer._update

    def watched(self: Trainer) -> None:
        seen.setdefault(self.config.model.kind, set()).add(torch.get_num_threads())
        update(self)

    monkeypatch.setattr(Trainer, "_update", watched)
    Packed([old, new], 2)
    assert seen == {"plain": {2}, "residual": {1}}
    assert torch.get_num_threads() == 1
