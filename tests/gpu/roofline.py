"""How long a step must take at least, by the device's data sheet: what measurements are to be read beside.

For each net the work of one step of 128 images, counted on the host: floating-point operations, bytes that activations
and gradients move, and kernels (operations that PyTorch launches one by one; a CUDA graph launches them at once).
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from resexp.config import RunConfig
from resexp.data import open_dataset
from resexp.device.concurrent import run_to_completion
from resexp.device.hardware import Hardware
from resexp.models.summary import summarise
from resexp.training.trainer import Trainer

SHEETS = {
    "H100": {"bf16_tflops": 989.0, "fp32_tflops": 67.0, "tbytes": 3.35},
    "H200": {"bf16_tflops": 989.0, "fp32_tflops": 67.0, "tbytes": 4.8},
}
"""Dense peak rates of the SXM boards, as NVIDIA states them."""
LAUNCH_US = 2.5
"""Microseconds between the starts of two small kernels in a CUDA graph; an assumption, to be measured."""
BATCH = 128


class Kernels(TorchDispatchMode):
    """Counts operations that compute: those that only look at a tensor in another shape launch nothing."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = function(*args, **(kwargs or {}))
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        made = [leaf for leaf in tree_leaves(out) if isinstance(leaf, Tensor)]
        writes = any(argument.alias_info and argument.alias_info.is_write for argument in function._schema.arguments)
        self.count += writes or any(leaf.untyped_storage()._cdata not in given for leaf in made)
        return out


def kernels(kind: str, depth: int) -> int:
    """Of one step; on small images, which are computed by as many operations."""
    config = RunConfig.model_validate(
        {
            "data": {"source": "shapes", "train_images": 100, "test_images": 100, "size": 8},
            "model": {"kind": kind, "depth": depth, "width": 8},
            "train": {"batch_size": 4, "device": "cpu"},
        }
    )
    trainer = Trainer(config, open_dataset(config.data), Hardware(torch.device("cpu"), "fp32"))
    run_to_completion(trainer.advance(1, lambda: False))
    trainer.pipeline.prepare(1)
    with (seen := Kernels()):
        trainer._update()
    return seen.count


def estimates(depths: list[int]) -> list[dict[str, Any]]:
    """A row for each net: its work, and for each device and precision the least milliseconds by each limit."""
    rows = []
    for kind in ("plain", "residual"):
        for depth in depths:
            config = RunConfig.model_validate({"model": {"kind": kind, "depth": depth}})
            net = summarise(config.model, 32, 32, 10)
            row: dict[str, Any] = {"net": f"{kind}-{depth}", "kernels": kernels(kind, depth)}
            row |= {"gflop": net.step_flops(BATCH) / 1e9, "launches_ms": row["kernels"] * LAUNCH_US / 1000}
            for precision, size in (("bf16", 2), ("fp32", 4)):
                moved = net.step_bytes(BATCH, size)
                row[f"{precision}_gbyte"] = moved / 1e9
                for name, sheet in SHEETS.items():
                    row[f"{name}_{precision}_flop_ms"] = row["gflop"] / sheet[f"{precision}_tflops"]
                    row[f"{name}_{precision}_bytes_ms"] = moved / 1e9 / sheet["tbytes"]
            rows.append({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", default="20,56,110")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(json.dumps(estimates([int(depth) for depth in given.depths.split(",")]), indent=1))
