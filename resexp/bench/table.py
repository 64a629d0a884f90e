"""The table of a benchmark, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

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


def cells(row: dict[str, Any]) -> list[str]:
    """The texts of one row, in the order of COLUMNS."""
    least, most = row["spread"]
    return [
        row["what"],
        f"{row['net']} {row['precision']}",
        str(row["at_once"]),
        f"{row['ms_per_step']:.4g}",
        f"{row['images_per_second']:,.0f} ±{50 * (most - least) / row['images_per_second']:.0f} %",
        f"{row['gflops']:,.0f} ({row['of_matmul']:.0%})",
        f"{row['gbytes']:,.4g} ({row['of_copy']:.0%})",
        *(f"{over[0]:.2f}" if (over := row["over"].get(name)) else "" for name in ("usual loop", "eager loop")),
        f"{row['start_up_s']:.1f} s",
        "" if row["capture_s"] is None else f"{row['capture_s']:.1f} s",
        f"{row['memory_mib']:,.0f} MiB",
    ]


class Table(NamedTuple):
    """What a benchmark shows of each row of its result."""

    columns: Sequence[str]
    cells: Callable[[dict[str, Any]], list[str]]
    """The texts of a row, one for each column."""
    note: str


STEPS = Table(COLUMNS, cells, NOTE)


def markdown(result: dict[str, Any], table: Table, remarks: Sequence[str] = ()) -> str:
    """The page of a benchmark."""
    machine = result["machine"]
    lines = [
        f"# `{machine['command']}`",
        "",
        f"{machine['device']}, {machine['cores']} cores; PyTorch {machine['torch']}, CUDA {machine['cuda']}, Python "
        f"{machine['python']}; resexp {machine['resexp']}, commit {machine['commit']}; {machine['started']}.",
        "",
        "| " + " | ".join(table.columns) + " |",
        "|" + "---|" * len(table.columns),
        *("| " + " | ".join(table.cells(row)) + " |" for row in result["rows"]),
        "",
        *(line for remark in remarks for line in (remark, "")),
        table.note,
        "",
    ]
    return "\n".join(lines)
