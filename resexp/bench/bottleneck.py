"""Whether a study of ImageNet waits for its images or for its nets, measured in one run."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resexp.bench import machine, ratios, raw
from resexp.bench.contestants import Case
from resexp.bench.streaming import compute_alone, input_alone, together, torchvision_input, usual_amp
from resexp.bench.table import Table
from resexp.bench.turns import Measured, in_turns
from resexp.config import ModelConfig, RunConfig
from resexp.data import ImageNet, open_dataset
from resexp.data.imagenet.statistics import statistics as take_statistics
from resexp.device.hardware import choose
from resexp.utils.machine import cores

log = logging.getLogger(__name__)

RIVALS = {"input": "torchvision's input", "compute": "usual AMP loop"}
"""Beside what each is set."""
_STEPS = 1 << 40
"""Steps of a timed run; more than can be reached."""


@dataclass(frozen=True)
class Row:
    """One line of the table; rates are medians over the rounds, ratios those of the same round."""

    what: str
    net: str
    precision: str
    ms_per_batch: float
    images_per_second: float
    spread: tuple[float, float]
    """Least and most images/s of a round."""
    decoders: int | None
    """Threads, or processes, that read images."""
    gflops: float | None
    over: tuple[float, float, float] | None
    """Times as fast as its rival: median, least, most."""
    start_up_s: float
    memory_mib: float


@dataclass(frozen=True)
class Bottleneck:
    """Which of input and compute is the slower one, of one net."""

    net: str
    slower: str
    images_per_second: dict[str, float]
    """Rates of input, compute, and both together."""
    times: tuple[float, float, float]
    """How many times as fast the other one is, in the same round: median, least, most."""

    def __str__(self) -> str:
        median, least, most = self.times
        rates = ", ".join(f"{what} {rate:,.4g}" for what, rate in self.images_per_second.items())
        other = "compute" if self.slower == "input" else "input"
        return (
            f"{self.net}: the bottleneck is {self.slower}; {other} is {median:.3g} times as fast [{least:.3g}, "
            f"{most:.3g}]; images/s: {rates}"
        )


def bench_streamed(configs: Sequence[RunConfig], *, rounds: int, seconds: float) -> dict[str, Any]:
    """Time input, compute and both for every configuration, in turns; returns what `resexp bench --json` prints.

    Raises UserError where the images are missing.
    """
    rows, found, results = list[Row](), list[Bottleneck](), list[dict[str, Any]]()
    for config in configs:
        log.info(f"{_net(config)} {choose(config.train).precision}")
        dataset = open_dataset(config.data)
        assert isinstance(dataset, ImageNet)
        take_statistics(dataset)  # once, and not in each process
        cases, missing = _cases(config)
        measured, failed = in_turns(cases, rounds, seconds)
        for line in (*missing, *failed):
            log.info(f"left out: {line}")
        rows += _rows(measured)
        found += _bottleneck(measured)
        results += [raw(m) for m in measured]
    return {
        "machine": machine(configs[0]),
        "rows": [asdict(row) for row in rows],
        "bottlenecks": [asdict(bottleneck) for bottleneck in found],
        "measured": results,
    }


def _cases(config: RunConfig) -> tuple[list[Case], list[str]]:
    """The contestants, and why some are missing."""
    endless = config.model_copy(update={"train": config.train.model_copy(update={"steps": _STEPS})})
    threads = cores() if choose(config.train).device.type == "cpu" else None
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


def _net(config: RunConfig) -> str:
    return f"{config.model.kind}-{config.model.depth}"


def _rows(measured: Sequence[Measured]) -> list[Row]:
    by_name = {m.case.what: m for m in measured}
    rows = []
    for what, m in by_name.items():
        images, computes = m.rates(), m.facts.get("computes", True)
        over = ratios(images, by_name[RIVALS[what]].rates()) if RIVALS.get(what) in by_name else None
        rows.append(
            Row(
                what=what,
                net=_net(m.case.config),
                precision=m.case.hardware.precision,
                ms_per_batch=1000 * m.facts["images"] / statistics.median(images),
                images_per_second=statistics.median(images),
                spread=(min(images), max(images)),
                decoders=m.facts.get("decoders"),
                gflops=statistics.median(m.rates("flop")) / 1e9 if computes else None,
                over=(statistics.median(over), min(over), max(over)) if over else None,
                start_up_s=m.facts["start_up_s"],
                memory_mib=m.facts["memory_mib"],
            )
        )
    return rows


def _bottleneck(measured: Sequence[Measured]) -> list[Bottleneck]:
    rates = {m.case.what: m.rates() for m in measured}
    if not {"input", "compute"} <= rates.keys():
        return []
    slower, faster = sorted(("input", "compute"), key=lambda what: statistics.median(rates[what]))
    times = ratios(rates[faster], rates[slower])
    medians = {what: statistics.median(rate) for what, rate in rates.items() if what not in RIVALS.values()}
    net = _net(measured[0].case.config)
    return [Bottleneck(net, slower, medians, (statistics.median(times), min(times), max(times)))]


def remarks(result: dict[str, Any]) -> list[str]:
    """A line for each net: what it waits for."""
    return [str(Bottleneck(**found)) for found in result["bottlenecks"]]


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


TABLE = Table(
    ("what", "net", "ms/batch", "img/s", "threads", "img/s each", "GFLOP/s", "x rival", "start-up", "memory"),
    _cells,
    "Medians over the rounds ± half the range. input: batches are read, decoded, cropped and "
    "brought to the device, and nothing is computed. torchvision's input: the same from its usual transforms on Pillow "
    "images in as many worker processes as input has threads; it always reads the original files. compute: steps on a "
    "batch that stays on the device. usual AMP loop: torchvision's net of the same depth on such a batch, in the same "
    "precision, compiled on a GPU. together: a run's own steps; where input and compute share a CPU's cores, slower "
    "than either. x rival: images/s of input over torchvision's input, and of compute over the usual AMP loop, in the "
    "same round, with the least and the most.",
)
