"""The speed of a training step, compared with usual loops and with what the device can do."""

from __future__ import annotations

import functools
import statistics
from collections.abc import Sequence
from typing import Any

from resexp.bench.contestants import Case, copy, eager_loop, matmul, ours, usual_loop
from resexp.bench.turns import Benchmark, Measured, net
from resexp.config import RunConfig
from resexp.device.hardware import choose_hardware
from resexp.utils.machine import cores

BASELINES = {"usual loop": usual_loop, "eager loop": eager_loop}
CEILINGS = {"matmul": matmul, "copy": copy}

COLUMNS = (
    "loop", "net", "at once", "ms/step", "img/s", "GFLOP/s", "GB/s", "x usual", "x eager", "start-up", "capture",
    "memory",
)  # fmt: skip

NOTE = (
    "Medians over the rounds ± half the range. at once: runs side by side. GFLOP/s: "
    "multiply-adds of convolutions and fc layers, forward and backward, as two operations each. GB/s: the fewest "
    "bytes of activations that a step moves without fusing layers. In brackets, the share of what a large matrix "
    "product, or a large copy, reached on the same device in the same round; small layers stay in a GPU's cache, so "
    "a step can move more than a large copy does. x usual, x eager: images/s over the loop with torchvision "
    "transforms, DataLoader and .item() in fp32, and over a good eager loop with its data on the device, each in the "
    "same round. start-up: from the start of the process to the end of the first step. memory: peak of one process; "
    "on a GPU, of the GPU's."
)


def benchmark(packs: Sequence[int] | None) -> Benchmark:
    """The benchmark with `packs` runs side by side: in one process on a GPU, in single-threaded ones on a CPU.

    None: numbers that show what the machine can do.
    """
    return Benchmark(functools.partial(_cases, packs), summary, COLUMNS, _cells, NOTE)


def _cases(packs: Sequence[int] | None, config: RunConfig) -> tuple[list[Case], list[str]]:
    """Ours with each number of runs, the baselines, and the ceilings."""
    if choose_hardware(config.train).device.type != "cpu":
        packed = [Case("resexp", ours, config, runs=pack) for pack in packs or (1, 2, 4, 8)]
        return [*packed, *(Case(what, build, config) for what, build in (BASELINES | CEILINGS).items())], []
    many = [Case("resexp", ours, config, processes=pack, threads=1) for pack in packs or sorted({1, cores()})]
    one = [Case(what, build, config, threads=cores()) for what, build in BASELINES.items()]
    ceilings = [Case(what, build, config, processes=cores(), threads=1) for what, build in CEILINGS.items()]
    return [*many, *one, *ceilings], []


def summary(measured: Sequence[Measured]) -> dict[str, list[dict[str, Any]]]:
    """The rows of loops. `spread`: least and most images/s of a round. `over`: times as fast as each baseline, in the
    same round: median, least, most. `of_matmul`, `of_copy`: shares of the ceilings."""
    by_name = {m.case.what: m for m in measured}

    def share(m: Measured, quantity: str, ceiling: str) -> float:
        return m.over(by_name[ceiling], quantity)[0] if ceiling in by_name else 0.0

    rows = []
    for m in measured:
        if m.case.what in CEILINGS:
            continue
        images, at_once = m.rates(), m.case.runs * m.case.processes
        baselines = [what for what in BASELINES if what in by_name] if m.case.what == "resexp" else []
        rows.append(
            {
                "what": m.case.what,
                "net": net(m.case.config),
                "precision": "fp32" if m.case.what == "usual loop" else m.case.hardware.precision,
                "at_once": at_once,
                "ms_per_step": 1000 * at_once * m.case.config.train.batch_size / statistics.median(images),
                "images_per_second": statistics.median(images),
                "spread": (min(images), max(images)),
                "gflops": statistics.median(m.rates("flop")) / 1e9,
                "of_matmul": share(m, "flop", "matmul"),
                "gbytes": statistics.median(m.rates("bytes")) / 1e9,
                "of_copy": share(m, "bytes", "copy"),
                "over": {what: m.over(by_name[what]) for what in baselines},
                "start_up_s": m.facts["start_up_s"],
                "capture_s": m.facts.get("capture_s"),
                "memory_mib": m.facts["memory_mib"],
            }
        )
    return {"rows": rows}


def _cells(row: dict[str, Any]) -> list[str]:
    least, most = row["spread"]
    return [
        row["what"],
        f"{row['net']} {row['precision']}",
        str(row["at_once"]),
        f"{row['ms_per_step']:.4g}",
        f"{row['images_per_second']:,.0f} ±{50 * (most - least) / row['images_per_second']:.0f} %",
        f"{row['gflops']:,.0f} ({row['of_matmul']:.0%})",
        f"{row['gbytes']:,.4g} ({row['of_copy']:.0%})",
        *(f"{over[0]:.2f}" if (over := row["over"].get(name)) else "" for name in BASELINES),
        f"{row['start_up_s']:.1f} s",
        "" if row["capture_s"] is None else f"{row['capture_s']:.1f} s",
        f"{row['memory_mib']:,.0f} MiB",
    ]
