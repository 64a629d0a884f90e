"""The speed of a training step, compared with usual loops and with what the device can do."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from resexp.bench.contenders import Case, copy, eager_loop, matmul, ours, usual_loop
from resexp.bench.turns import COLUMNS, Benchmark, Measurement, with_range
from resexp.config import RunConfig
from resexp.device.hardware import choose_hardware
from resexp.utils.machine import cores

BASELINES = ("usual loop", "eager loop")
CEILINGS = {"matmul": matmul, "copy": copy}


def _cases(config: RunConfig, runs: Sequence[int] | None) -> list[Case]:
    """Ours with each number of runs, the baselines, and the ceilings.

    Runs share a process on a GPU; on a CPU each has a single-threaded one. None: numbers that show what the machine
    can do.
    """
    if choose_hardware(config.train).device.type == "cpu":
        many = [Case("resexp", ours, config, processes=count, threads=1) for count in runs or sorted({1, cores()})]
        whole, ceiling = {"threads": cores()}, {"processes": cores(), "threads": 1}
    else:
        many = [Case("resexp", ours, config, runs=count) for count in runs or (1, 2, 4, 8)]
        whole = ceiling = {}
    fp32 = config.model_copy(update={"train": config.train.model_copy(update={"precision": "fp32"})})
    return [
        *many,
        Case("usual loop", usual_loop, fp32, **whole),
        Case("eager loop", eager_loop, config, **whole),
        *(Case(what, build, config, **ceiling) for what, build in CEILINGS.items()),
    ]


def summary(measured: Sequence[Measurement]) -> dict[str, list[dict[str, Any]]]:
    """The rows of loops. `over`: times as fast as each baseline, in the same round: median, least, most. `of_matmul`,
    `of_copy`: shares of the ceilings."""
    by_name = {m.case.what: m for m in measured}

    def share(m: Measurement, quantity: str, ceiling: str) -> float:
        return m.over(by_name[ceiling], quantity)[0] if ceiling in by_name else 0.0

    rows = []
    for m in measured:
        if m.case.what in CEILINGS:
            continue
        at_once = m.case.runs * m.case.processes
        baselines = [what for what in BASELINES if what in by_name] if m.case.what == "resexp" else []
        rows.append(
            {
                **m.row(),
                "at_once": at_once,
                "ms_per_step": 1000 * at_once * m.case.config.train.batch_size / statistics.median(m.rates()),
                "gflops": statistics.median(m.rates("flop")) / 1e9,
                "of_matmul": share(m, "flop", "matmul"),
                "gbytes": statistics.median(m.rates("bytes")) / 1e9,
                "of_copy": share(m, "bytes", "copy"),
                "over": {what: m.over(by_name[what]) for what in baselines},
                "capture_s": m.facts.get("capture_s"),
            }
        )
    return {"rows": rows}


def _times(row: dict[str, Any], baseline: str) -> str:
    return f"{row['over'][baseline][0]:.2f}" if baseline in row["over"] else ""


BENCHMARK = Benchmark(
    _cases,
    summary,
    {
        "loop": lambda row: row["what"],
        "net": COLUMNS["net"],
        "at once": lambda row: str(row["at_once"]),
        "ms/step": lambda row: f"{row['ms_per_step']:.4g}",
        "img/s": lambda row: with_range(row, ",.0f"),
        "GFLOP/s": lambda row: f"{row['gflops']:,.0f} ({row['of_matmul']:.0%})",
        "GB/s": lambda row: f"{row['gbytes']:,.4g} ({row['of_copy']:.0%})",
        "x usual": lambda row: _times(row, "usual loop"),
        "x eager": lambda row: _times(row, "eager loop"),
        "start-up": COLUMNS["start-up"],
        "capture": lambda row: "" if row["capture_s"] is None else f"{row['capture_s']:.1f} s",
        "memory": COLUMNS["memory"],
    },
    "Medians over the rounds ± half the range. at once: runs side by side. GFLOP/s: "
    "multiply-adds of convolutions and fc layers, forward and backward, as two operations each. GB/s: the fewest "
    "bytes of activations that a step moves without fusing layers. In brackets, the share of what a large matrix "
    "product, or a large copy, reached on the same device in the same round; small layers stay in a GPU's cache, so "
    "a step can move more than a large copy does. x usual, x eager: images/s over the loop with torchvision "
    "transforms, DataLoader and .item() in fp32, and over a good eager loop with its data on the device, each in the "
    "same round. start-up: from the start of the process to the end of the first step. memory: peak of one process; "
    "on a GPU, of the GPU's.",
)
