"""Which way of training many small nets at once is fastest? All of them in turns, in one run.

`side by side` is what resexp does on a GPU: a stream and a CUDA graph for each run. `processes` has a process for each
run; with MPS, NVIDIA's service, they share the GPU instead of taking turns. `vmap` puts the weights of all nets into
one tensor per layer, and trains on fixed images without augmentation, so it does less.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap
from torch.nn import functional as F

from resexp.bench.steps import ours
from resexp.bench.turns import Case, Loop, in_turns
from resexp.config import RunConfig
from resexp.data import open_dataset
from resexp.device.hardware import tune_process
from resexp.models import build_model
from resexp.utils.logs import log_to


class Stacked:
    """`case.runs` nets with their weights stacked, (runs, ...) each, and SGD with momentum and weight decay on them."""

    def __init__(self, case: Case) -> None:
        train, self.hardware, self.runs = case.config.train, case.hardware, case.runs
        self.lr, self.momentum, self.decay = train.lr, train.momentum, train.weight_decay
        nets = []
        for seed in range(case.runs):
            torch.manual_seed(seed)
            nets.append(build_model(case.config.model).to(self.hardware.device).train())
        self.weights, self.buffers = stack_module_state(nets)
        self.net = nets[0]
        self.momenta = {name: torch.zeros_like(value) for name, value in self.weights.items()}

    def loss(self, weights: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Of one net."""
        precision = self.hardware.precision
        with torch.autocast(self.hardware.device.type, self.hardware.dtype, enabled=precision != "fp32"):
            return F.cross_entropy(functional_call(self.net, (weights, buffers), (x,)), y)

    def step(self, x: Tensor, y: Tensor) -> None:
        """One step of each net, on its own images (runs, B, 3, H, W) and labels (runs, B)."""
        gradients = vmap(grad(self.loss), randomness="different")(self.weights, self.buffers, x, y)
        with torch.no_grad():
            for name, weight in self.weights.items():
                gradient = gradients[name].add(weight, alpha=self.decay)
                self.momenta[name].mul_(self.momentum).add_(gradient)
                weight.sub_(self.momenta[name], alpha=self.lr)


def vmapped(case: Case, facts: dict[str, Any]) -> Loop:
    """All nets through one call of each operation."""
    tune_process()
    stacked = Stacked(case)
    images, labels = open_dataset(case.data).train()
    count = case.config.train.batch_size
    pick = torch.arange(case.runs * count).reshape(case.runs, count) % len(images)
    x = torch.from_numpy(images)[pick].permute(0, 1, 4, 2, 3).float().div(255).to(case.hardware.device)
    y = torch.from_numpy(labels)[pick].to(case.hardware.device)

    def loop(steps: int) -> None:
        for _ in range(steps):
            stacked.step(x, y)

    return loop


@contextlib.contextmanager
def mps() -> Iterator[bool]:
    """NVIDIA's service by which processes share a GPU, for those that are started within; whether it is there."""
    control = shutil.which("nvidia-cuda-mps-control")
    if control is None or not torch.cuda.is_available():
        print("no MPS: no GPU, or no nvidia-cuda-mps-control")
        yield False
        return
    with tempfile.TemporaryDirectory() as folder:
        places = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        os.environ.update(places)
        subprocess.run([control, "-d"], check=True)
        try:
            yield True
        finally:
            subprocess.run([control], input="quit\n", text=True, check=False)
            for name in places:
                del os.environ[name]


def main() -> None:
    """Time the ways; print and write milliseconds for a step of all nets."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--depths", default="20,56")
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--nets", default="4,9")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    log_to(print)
    rows = []
    for depth in map(int, args.depths.split(",")):
        config = RunConfig.model_validate(
            {
                "data": {"source": "shapes", "train_images": 2000, "test_images": 100, "size": args.size},
                "model": {"depth": depth, "width": args.width},
                "train": {"device": args.device},
            }
        )
        for nets in map(int, args.nets.split(",")):
            cases = [
                Case("side by side", ours, config, runs=nets, threads=1),
                Case("processes", ours, config, processes=nets, threads=1),
                Case("vmap", vmapped, config, runs=nets, threads=1),
            ]
            measured = in_turns(cases, args.rounds, args.seconds)
            with mps() as shared:
                if shared:
                    shares = Case("processes with MPS", ours, config, processes=nets, threads=1)
                    measured += in_turns([shares], args.rounds, args.seconds)
            for m in measured:
                ms = [1000 * nets * config.train.batch_size / rate for rate in m.rates()]
                row = {"depth": depth, "nets": nets, "way": m.case.what, "ms": statistics.median(ms)}
                rows.append({**row, "least": min(ms), "most": max(ms), "memory_mib": m.facts["memory_mib"]})
                print(rows[-1], flush=True)
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "many-nets.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
