"""How long a step must take at least, by the device's data sheet: what measurements are to be read beside.

For each net the work of one step, counted on the host: floating-point operations, bytes that activations and
gradients move, and kernels (operations that PyTorch launches one by one; a CUDA graph launches them at once).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from resexp.config import ModelConfig, RunConfig
from resexp.config.nets import parse_net
from resexp.data import open_dataset
from resexp.device.concurrent import run_to_completion
from resexp.device.hardware import Hardware
from resexp.models.summary import summarise_net
from resexp.training.trainer import Trainer

SHEETS = {
    "H100": {"bf16_tflops": 989.0, "fp32_tflops": 67.0, "tbytes": 3.35},
    "H200": {"bf16_tflops": 989.0, "fp32_tflops": 67.0, "tbytes": 4.8},
}
"""Dense peak rates of the SXM boards, as NVIDIA states them."""
LAUNCH_US = 2.5
"""Microseconds between the starts of two small kernels in a CUDA graph; an assumption, to be measured."""
BATCHES = {"cifar": 128, "imagenet": 256}
"""Images of a step, by variant of the net."""


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


def kernels(net: ModelConfig) -> int:
    """Of one step; on small images and with few filters, which as many operations compute."""
    config = RunConfig.model_validate(
        {
            "data": {"source": "shapes", "train_images": 100, "test_images": 100, "size": 8},
            "model": net.model_dump() | {"width": 8},
            "train": {"batch_size": 4, "device": "cpu"},
        }
    )
    trainer = Trainer(config, open_dataset(config.data), Hardware(torch.device("cpu"), "fp32"))
    run_to_completion(trainer.advance(1, lambda: False))
    trainer.pipeline.prepare(1)
    with (seen := Kernels()):
        trainer._update()
    return seen.count


def estimates(names: Sequence[str]) -> list[dict[str, Any]]:
    """A row for each net: its work, and for each device and precision the least milliseconds by each limit."""
    rows = []
    for name in names:
        net = parse_net(name, [])
        summary, batch = summarise_net(net.config, net.size, net.size, net.classes), BATCHES[net.config.variant]
        row: dict[str, Any] = {"net": name.removeprefix("imagenet/"), "kernels": kernels(net.config)}
        row |= {"gflop": summary.step_flops(batch) / 1e9, "launches_ms": row["kernels"] * LAUNCH_US / 1000}
        for precision, size in (("bf16", 2), ("fp32", 4)):
            moved = summary.step_bytes(batch, size)
            row[f"{precision}_gbyte"] = moved / 1e9
            for device, sheet in SHEETS.items():
                row[f"{device}_{precision}_flop_ms"] = row["gflop"] / sheet[f"{precision}_tflops"]
                row[f"{device}_{precision}_bytes_ms"] = moved / 1e9 / sheet["tbytes"]
        rows.append({key: round(value, 4) if isinstance(value, float) else value for key, value in row.items()})
    return rows


def compared(results: Path) -> str:
    """What `resexp bench` measured in the folders of `results`, next to the estimates there, as a Markdown table.

    Milliseconds of a step of all runs at once. On a device without a data sheet, only launches have an estimate.
    """
    known = {row["net"]: row for row in json.loads((results / "roofline.json").read_text())}
    header = ["net", "precision", "runs", "measured", "arithmetic", "memory", "launches", "measured / largest"]
    lines = [header, ["---"] * len(header)]
    for path in sorted(results.glob("*/bench.json")):
        bench = json.loads(path.read_text())
        device = next((name for name in SHEETS if name in bench["machine"]["device"]), None)
        for row in bench["rows"]:
            milliseconds, runs = row.get("ms_per_step", row.get("ms_per_batch")), row.get("at_once", 1)
            if row["what"] not in ("resexp", "compute") or row["net"] not in known:
                continue
            own = known[row["net"]]
            limits = [own.get(f"{device}_{row['precision']}_{what}_ms") for what in ("flop", "bytes")]
            limits.append(own["launches_ms"])
            least = [limit and runs * limit for limit in limits]
            shown = [f"{limit:.3g}" if limit else "" for limit in least]
            ratio = f"{milliseconds / max(filter(None, least)):.3g}"
            lines.append([row["net"], row["precision"], str(runs), f"{milliseconds:.3g}", *shown, ratio])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nets", help="Estimate these, with commas between, into roofline.json.")
    parser.add_argument("--results", type=Path, required=True)
    given = parser.parse_args()
    given.results.mkdir(parents=True, exist_ok=True)
    if given.nets:
        (given.results / "roofline.json").write_text(json.dumps(estimates(given.nets.split(",")), indent=1))
    else:
        (given.results / "roofline.md").write_text(compared(given.results))
