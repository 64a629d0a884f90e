"""The speed of training, compared with usual loops and with what the device can do, in one run."""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from resexp.bench.contestants import Case, copy, eager_loop, matmul, ours, usual_loop
from resexp.bench.turns import Measured, in_turns
from resexp.config import RunConfig
from resexp.device.hardware import choose
from resexp.training import manifest
from resexp.utils.machine import cores

log = logging.getLogger(__name__)

BASELINES = {"usual loop": usual_loop, "eager loop": eager_loop}
CEILINGS = {"matmul": matmul, "copy": copy}


@dataclass(frozen=True)
class Row:
    """One line of the table; rates are medians over the rounds, ratios of rates those of the same round."""

    what: str
    net: str
    precision: str
    at_once: int
    ms_per_step: float
    images_per_second: float
    spread: tuple[float, float]
    """Least and most images/s of a round."""
    gflops: float
    of_matmul: float
    gbytes: float
    of_copy: float
    over: dict[str, tuple[float, float, float]]
    """Times as fast as each baseline: median, least, most."""
    start_up_s: float
    capture_s: float | None
    memory_mib: float


def bench(
    configs: Sequence[RunConfig],
    *,
    packs: Sequence[int] | None,
    rounds: int,
    seconds: float,
) -> dict[str, Any]:
    """Time the steps of every configuration; returns what `resexp bench --json` prints.

    `packs` are runs side by side: in one process on a GPU, in single-threaded processes on a CPU. None: some that say
    something of the machine.
    """
    rows, results = list[Row](), list[dict[str, Any]]()
    for config in configs:
        log.info(f"{config.model.kind}-{config.model.depth} {choose(config.train).precision}")
        measured, missing = in_turns(_cases(config, packs), rounds, seconds)
        for line in missing:
            log.info(f"left out: {line}")
        rows += _rows(measured)
        results += [raw(m) for m in measured]
    return {"machine": machine(configs[0]), "rows": [asdict(row) for row in rows], "measured": results}


def machine(config: RunConfig) -> dict[str, Any]:
    """What is timed on."""
    attempt = manifest.new_attempt(choose(config.train), 0)
    said = attempt.model_dump(include={"started", "command", "resexp", "commit", "python", "torch", "cuda", "device"})
    return {**said, "cores": cores()}


def _cases(config: RunConfig, packs: Sequence[int] | None) -> list[Case]:
    """Ours in each pack size, the baselines, and the ceilings."""
    others = (*BASELINES.items(), *CEILINGS.items())
    if choose(config.train).device.type != "cpu":
        packed = [Case("resexp", ours, config, runs=pack) for pack in packs or (1, 2, 4, 8)]
        return [*packed, *(Case(what, build, config) for what, build in others)]
    many = [Case("resexp", ours, config, processes=pack, threads=1) for pack in packs or sorted({1, cores()})]
    one = [Case(what, build, config, threads=cores()) for what, build in BASELINES.items()]
    return [*many, *one, *(Case(what, build, config, processes=cores(), threads=1) for what, build in CEILINGS.items())]


def _rows(measured: Sequence[Measured]) -> list[Row]:
    by_name = {m.case.what: m for m in measured}
    rows = []
    for m in measured:
        if m.case.what in CEILINGS:
            continue
        images, config = m.rates(), m.case.config
        at_once = m.case.runs * m.case.processes
        shares = {
            quantity: statistics.median(ratios(m.rates(quantity), by_name[what].rates(quantity)))
            for quantity, what in (("flop", "matmul"), ("bytes", "copy"))
            if what in by_name
        }
        over = {
            what: ratios(images, by_name[what].rates())
            for what in BASELINES
            if what in by_name and m.case.what == "resexp"
        }
        rows.append(
            Row(
                what=m.case.what,
                net=f"{config.model.kind}-{config.model.depth}",
                precision="fp32" if m.case.what == "usual loop" else m.case.hardware.precision,
                at_once=at_once,
                ms_per_step=1000 * at_once * config.train.batch_size / statistics.median(images),
                images_per_second=statistics.median(images),
                spread=(min(images), max(images)),
                gflops=statistics.median(m.rates("flop")) / 1e9,
                of_matmul=shares.get("flop", 0.0),
                gbytes=statistics.median(m.rates("bytes")) / 1e9,
                of_copy=shares.get("bytes", 0.0),
                over={what: (statistics.median(r), min(r), max(r)) for what, r in over.items()},
                start_up_s=m.facts["start_up_s"],
                capture_s=m.facts.get("capture_s"),
                memory_mib=m.facts["memory_mib"],
            )
        )
    return rows


def ratios(a: Sequence[float], b: Sequence[float]) -> list[float]:
    """Ratios within each round."""
    return [x / y for x, y in zip(a, b, strict=True)]


def raw(m: Measured) -> dict[str, Any]:
    """All that was measured of a contestant."""
    case = m.case
    return {
        "what": case.what,
        "model": case.config.model.model_dump(),
        "precision": case.hardware.precision,
        "runs": case.runs,
        "processes": case.processes,
        "threads": case.threads,
        "facts": m.facts,
        "seconds_per_unit": m.seconds,
    }
