"""Whether a study of ImageNet waits for its images or for its nets, measured in one run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

from resexp.bench.contestants import Case
from resexp.bench.streaming import compute_alone, input_alone, together, torchvision_input, usual_amp
from resexp.bench.turns import Benchmark, Measured, net
from resexp.config import ModelConfig, RunConfig
from resexp.data import ImageNet, open_dataset
from resexp.data.imagenet.statistics import statistics as take_statistics
from resexp.device.hardware import choose_hardware
from resexp.utils.machine import cores

RIVALS = {"input": "torchvision's input", "compute": "usual AMP loop"}
"""What each is compared with."""
_STEPS = 1 << 40
"""Steps of a timed run; more than can be reached."""


def _cases(config: RunConfig) -> tuple[list[Case], list[str]]:
    dataset = open_dataset(config.data)
    assert isinstance(dataset, ImageNet)
    take_statistics(dataset)  # once, and not in each process
    endless = config.model_copy(update={"train": config.train.model_copy(update={"steps": _STEPS})})
    threads = cores() if choose_hardware(config.train).device.type == "cpu" else None
    contestants = {
        "input": input_alone,
        "torchvision's input": torchvision_input,
        "compute": compute_alone,
        "usual AMP loop": usual_amp,
        "together": together,
    }
    missing = []
    if not _is_torchvisions(config.model):
        del contestants["usual AMP loop"]
        missing.append("usual AMP loop: torchvision has no such net; it has residual nets and VGG of width 64")
    return [Case(what, build, endless, threads=threads) for what, build in contestants.items()], missing


def _is_torchvisions(model: ModelConfig) -> bool:
    return model.kind in ("residual", "vgg") and model.variant == "imagenet" and model.width == 64


def summary(measured: Sequence[Measured]) -> dict[str, list[dict[str, Any]]]:
    """The rows of contestants, and which of input and compute is the slower one.

    `spread`: least and most images/s of a round. `over`: times as fast as its rival in the same round: median, least,
    most. `decoders`: threads, or processes, that read images. `times`: how many times as fast the other one is.
    """
    by_name = {m.case.what: m for m in measured}
    rows: list[dict[str, Any]] = []
    for what, m in by_name.items():
        images, rival = m.rates(), by_name.get(RIVALS.get(what, ""))
        rows.append(
            {
                "what": what,
                "net": net(m.case.config),
                "precision": m.case.hardware.precision,
                "ms_per_batch": 1000 * m.facts["images"] / statistics.median(images),
                "images_per_second": statistics.median(images),
                "spread": (min(images), max(images)),
                "decoders": m.facts.get("decoders"),
                "gflops": statistics.median(m.rates("flop")) / 1e9 if m.facts.get("computes", True) else None,
                "over": m.over(rival) if rival else None,
                "start_up_s": m.facts["start_up_s"],
                "memory_mib": m.facts["memory_mib"],
            }
        )
    if not {"input", "compute"} <= by_name.keys():
        return {"rows": rows, "bottlenecks": []}
    rates = {row["what"]: row["images_per_second"] for row in rows if row["what"] not in RIVALS.values()}
    slower, faster = sorted(("input", "compute"), key=rates.__getitem__)
    found = {
        "net": rows[0]["net"],
        "slower": slower,
        "images_per_second": rates,
        "times": by_name[faster].over(by_name[slower]),
    }
    return {"rows": rows, "bottlenecks": [found]}


def _remark(found: dict[str, Any]) -> str:
    median, least, most = found["times"]
    rates = ", ".join(f"{what} {rate:,.4g}" for what, rate in found["images_per_second"].items())
    other = "compute" if found["slower"] == "input" else "input"
    return (
        f"{found['net']}: the bottleneck is {found['slower']}; {other} is {median:.3g} times as fast [{least:.3g}, "
        f"{most:.3g}]; images/s: {rates}"
    )


def _cells(row: dict[str, Any]) -> list[str]:
    least, most = row["spread"]
    rate, decoders = row["images_per_second"], row["decoders"]
    return [
        row["what"],
        f"{row['net']} {row['precision']}",
        f"{row['ms_per_batch']:.4g}",
        f"{rate:,.4g} ±{50 * (most - least) / rate:.0f} %",
        "" if decoders is None else str(decoders),
        "" if decoders is None else f"{rate / decoders:,.4g}",
        "" if row["gflops"] is None else f"{row['gflops']:,.0f}",
        "" if row["over"] is None else "{:.2f} [{:.2f}, {:.2f}]".format(*row["over"]),
        f"{row['start_up_s']:.1f} s",
        f"{row['memory_mib']:,.0f} MiB",
    ]


BENCHMARK = Benchmark(
    _cases,
    summary,
    ("what", "net", "ms/batch", "img/s", "threads", "img/s each", "GFLOP/s", "x rival", "start-up", "memory"),
    _cells,
    "Medians over the rounds ± half the range. input: batches are read, decoded, cropped and "
    "brought to the device, and nothing is computed. torchvision's input: the same from its usual transforms on Pillow "
    "images in as many worker processes as input has threads; it always reads the original files. compute: steps on a "
    "batch that stays on the device. usual AMP loop: torchvision's net of the same depth on such a batch, in the same "
    "precision, compiled on a GPU. together: a run's own steps; where input and compute share a CPU's cores, slower "
    "than either. x rival: images/s of input over torchvision's input, and of compute over the usual AMP loop, in the "
    "same round, with the least and the most.",
    _remark,
)
