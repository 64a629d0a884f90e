"""On a CUDA GPU: the same run, resumed and in every precision. `make test-gpu` runs these."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch

from resexp.config import RunConfig
from resexp.store import Run
from resexp.training.train import train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU")]


def make(folder: Path, **recipe: Any) -> Run:
    config = {
        "data": {"source": "shapes", "train_images": 2000, "test_images": 500},
        "model": {"depth": 20, "width": 16},
        "train": {"steps": 200, "log_every": 50, "device": "cuda", **recipe},
    }
    resolved = RunConfig.model_validate(config)
    run = Run(folder / resolved.folder)
    run.create(resolved)
    return run


def last_loss(run: Run) -> float:
    return next(float(r["train_loss"]) for r in reversed(run.metrics()) if "train_loss" in r)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_every_precision_learns(tmp_path: Path, precision: str) -> None:
    run = make(tmp_path, precision=precision)
    status = train(run)
    assert status.state == "finished"
    assert last_loss(run) < 1.5  # ln 10 = 2.3 knows nothing
    manifest = run.manifest()
    assert manifest is not None
    assert manifest.attempts[0].precision == precision


def test_the_gpu_and_the_cpu_begin_alike(tmp_path: Path) -> None:
    """Same weights, same batches: after ten steps in fp32 the losses differ by rounding only."""
    losses = []
    for device in ("cuda", "cpu"):
        run = make(tmp_path / device, steps=10, log_every=10, lr=0.01, precision="fp32", device=device)
        train(run)
        losses.append(last_loss(run))
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


def test_a_resumed_run_follows_an_uninterrupted_one(tmp_path: Path) -> None:
    """Kernels may sum in another order, so the losses agree within a tolerance, not bit for bit."""
    whole, pieces = make(tmp_path / "whole", lr=0.01), make(tmp_path / "pieces", lr=0.01)
    train(whole)
    calls = itertools.count()
    assert train(pieces, stop=lambda: next(calls) >= 70).state == "interrupted"
    assert train(pieces).state == "finished"
    assert last_loss(pieces) == pytest.approx(last_loss(whole), rel=0.1)
    assert [r["step"] for r in pieces.metrics()] == [r["step"] for r in whole.metrics()]
