"""Runs benchmark cases in separate processes, in turns, and tabulates their speed.

Machines are noisy, and ratios within a round are not.
"""

from __future__ import annotations

import multiprocessing
import resource
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from resexp.config import ArrayData, ImageNetData, RunConfig
from resexp.data import open_dataset
from resexp.device.cuda_graph import CALLS_BEFORE_CAPTURE
from resexp.device.hardware import Hardware, choose_hardware
from resexp.errors import UserError
from resexp.models.summary import summarise_net
from resexp.training import manifest
from resexp.utils.interrupts import Interrupted
from resexp.utils.logs import log, log_to
from resexp.utils.machine import cores

Loop = Callable[[int], None]
"""Does a number of units; it need not wait for the device."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    what: str
    build: Callable[[Case, dict[str, Any]], Loop]
    """Makes the function that is timed, and writes down facts about it; a function that another process can import."""
    config: RunConfig
    runs: int = 1
    """Side by side in one process."""
    processes: int = 1
    """Side by side, each with `runs`."""
    threads: int | None = None
    """CPU threads of each process."""

    @property
    def hardware(self) -> Hardware:
        """Where it runs."""
        return choose_hardware(self.config.train)

    @property
    def data(self) -> ArrayData:
        """The images; the loops by hand have them all in arrays."""
        assert not isinstance(self.config.data, ImageNetData)
        return self.config.data


@dataclass
class Measurement:
    """What was measured of a case."""

    case: Case
    facts: dict[str, Any]
    """Facts of its first process: start_up_s, first_unit_s, capture_s, memory_mib, and what a unit is."""
    seconds: list[list[float]] = field(default_factory=list)
    """For each round, the seconds a unit took in each process."""

    def rates(self, quantity: str = "images") -> list[float]:
        """Images, floating-point operations ("flop") or bytes per second, of all processes together, for each round."""
        return [sum(self.facts[quantity] / seconds for seconds in turn) for turn in self.seconds]

    def over(self, other: Measurement, quantity: str = "images") -> tuple[float, float, float]:
        """Its rates divided by those of `other` in the same rounds: median, least, most."""
        ratios = [a / b for a, b in zip(self.rates(quantity), other.rates(quantity), strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)

    def row(self) -> dict[str, Any]:
        """What all tables have of a contender. Rates are medians over rounds; `spread`: least and most images/s."""
        images, case = self.rates(), self.case
        return {
            "what": case.what,
            "net": net(case.config),
            "precision": case.hardware.precision,
            "images_per_second": statistics.median(images),
            "spread": (min(images), max(images)),
            "start_up_s": self.facts["start_up_s"],
            "memory_mib": self.facts["memory_mib"],
        }

    def to_json(self) -> dict[str, Any]:
        """All that was measured."""
        case = self.case
        return {
            "what": case.what,
            "model": case.config.model.model_dump(),
            "precision": case.hardware.precision,
            "runs": case.runs,
            "processes": case.processes,
            "threads": case.threads,
            "facts": self.facts,
            "seconds_per_unit": self.seconds,
        }


Cell = Callable[[dict[str, Any]], str]
"""The text of a row in one column."""
COLUMNS: dict[str, Cell] = {
    "net": lambda row: f"{row['net']} {row['precision']}",
    "start-up": lambda row: f"{row['start_up_s']:.1f} s",
    "memory": lambda row: f"{row['memory_mib']:,.0f} MiB",
}
"""Columns that all tables have."""


def with_range(row: dict[str, Any], digits: str) -> str:
    """Images/s in the format `digits`, and half of their range in percent."""
    rate, (least, most) = row["images_per_second"], row["spread"]
    return f"{rate:{digits}} ±{50 * (most - least) / rate:.0f} %"


@dataclass(frozen=True)
class Benchmark:
    """What is timed of each configuration, and what is shown of it."""

    cases: Callable[[RunConfig, Sequence[int] | None], list[Case]]
    """The contenders for a configuration and numbers of runs side by side."""
    summary: Callable[[Sequence[Measurement]], dict[str, list[dict[str, Any]]]]
    """The `rows` of the table, and `bottlenecks` where a benchmark has them."""
    columns: Mapping[str, Cell]
    note: str
    """What the columns mean."""
    remark: Callable[[dict[str, Any]], str] = str
    """A line about a bottleneck."""

    def run(
        self, configs: Sequence[RunConfig], runs: Sequence[int] | None, rounds: int, seconds: float
    ) -> dict[str, Any]:
        """Time the contenders of every configuration, in turns; returns what `resexp bench --json` prints.

        Raises UserError if images are missing.
        """
        found, measurements = defaultdict[str, list[Any]](list), list[dict[str, Any]]()
        for config in configs:
            log.info(f"{net(config)} {choose_hardware(config.train).precision}")
            measured = in_turns(self.cases(config, runs), rounds, seconds)
            for key, entries in self.summary(measured).items():
                found[key] += entries
            measurements += [m.to_json() for m in measured]
        attempt = manifest.new_attempt(choose_hardware(configs[0].train), 0)
        keys = {"started", "command", "resexp", "commit", "python", "torch", "cuda", "device"}
        machine = {**attempt.model_dump(include=keys), "cores": cores()}
        return {"machine": machine, **found, "measured": measurements}

    def cells(self, row: dict[str, Any]) -> list[str]:
        """The texts of a row, one for each column."""
        return [cell(row) for cell in self.columns.values()]

    def remarks(self, result: dict[str, Any]) -> list[str]:
        """A line for each bottleneck, and what the columns mean."""
        return [*map(self.remark, result.get("bottlenecks", [])), self.note]

    def markdown(self, result: dict[str, Any]) -> str:
        """The page of a result."""
        machine = result["machine"]
        table = [list(self.columns), ["---"] * len(self.columns), *map(self.cells, result["rows"])]
        parts = [
            f"# `{machine['command']}`",
            f"{machine['device']}, {machine['cores']} cores; PyTorch {machine['torch']}, CUDA {machine['cuda']}, "
            f"Python {machine['python']}; resexp {machine['resexp']}, commit {machine['commit']}; "
            f"{machine['started']}.",
            "\n".join(f"| {' | '.join(cells)} |" for cells in table),
            *self.remarks(result),
        ]
        return "\n\n".join(parts) + "\n"


def net(config: RunConfig) -> str:
    """Kind and depth, such as ``plain-20``."""
    return f"{config.model.kind}-{config.model.depth}"


def work_of_a_step(case: Case) -> dict[str, float]:
    """What one step of all runs of a process does: images, floating-point operations, and bytes of activations.

    A contender whose unit is no step has its own numbers among its facts.
    """
    dataset, images = open_dataset(case.config.data), case.config.train.batch_size * case.runs
    net = summarise_net(case.config.model, *dataset.size, len(dataset.classes))
    moved = net.step_bytes(images, case.hardware.dtype.itemsize)
    return {"images": float(images), "flop": net.step_flops(images), "bytes": moved}


def in_turns(cases: Sequence[Case], rounds: int, seconds: float) -> list[Measurement]:
    """Start every case, one after the other, then let them work in turns, about `seconds` a turn.

    A case that fails is logged and left out of what is returned.
    """
    running: list[tuple[Measurement, list[Connection]]] = []
    with ExitStack() as processes:
        for case in cases:
            ends = [_start(case, seconds, processes) for _ in range(case.processes)]
            try:
                facts = _answers(ends)
            except RuntimeError as error:
                log.info(f"left out: {case.what}: {error}")
                continue
            log.info(f"{case.what}: ready after {facts[0]['start_up_s']:.1f} s")
            running.append((Measurement(case, facts[0]), ends))
        for number in range(rounds):
            log.info(f"round {number + 1} of {rounds}")
            for measured, ends in list(running):
                try:
                    turn = _answers(ends)
                except RuntimeError as error:
                    log.info(f"left out: {measured.case.what}: {error} in round {number + 1}")
                    running.remove((measured, ends))
                    continue
                measured.seconds.append([seconds for seconds, _ in turn])
                measured.facts["memory_mib"] = turn[0][1]
    return [measured for measured, _ in running]


def _start(case: Case, seconds: float, processes: ExitStack) -> Connection:
    """Start a process of `case`, which `processes` ends. Returns the connection to it."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(case, seconds, time.time(), theirs))
    process.start()
    processes.callback(process.join)
    processes.callback(process.terminate)
    processes.enter_context(ours)
    theirs.close()
    return ours


def _answers(ends: Sequence[Connection]) -> list[Any]:
    """Let the processes of a case work; returns what they answer. Raises RuntimeError, and ends them, if one fails."""
    try:
        for end in ends:
            end.send("go")
        answers = [end.recv() for end in ends]
    except (EOFError, BrokenPipeError):
        answers = ["a process ended"]
    for failure in answers:
        if isinstance(failure, str):
            for end in ends:
                end.close()
            raise RuntimeError(failure)
    return answers


def _serve(case: Case, seconds: float, started: float, parent: Connection) -> None:
    """The process of one contender: build it, find out how many units a turn holds, and work when asked to."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which ends us
    facts: dict[str, Any] = {}
    log_to(lambda line: facts.update(warning=line))
    try:
        parent.recv()
        if case.threads:
            torch.set_num_threads(case.threads)
        device, loop = case.hardware.device, case.build(case, facts)
        facts["first_unit_s"] = _seconds(device, loop, 1)
        facts["start_up_s"] = time.time() - started
        if facts.get("graphs"):
            calls = [_seconds(device, loop, 1) for _ in range(2 * CALLS_BEFORE_CAPTURE)]
            capturing = calls[CALLS_BEFORE_CAPTURE - 1]  # the first unit was a call, too
            facts["capture_s"] = (capturing - statistics.median(calls[CALLS_BEFORE_CAPTURE:])) / case.runs
        units, spent = 1, 0.0
        while spent < seconds:
            spent = _seconds(device, loop, units)
            units *= 2
        units = max(1, min(2000, round(seconds * units / 2 / spent)))
        parent.send(work_of_a_step(case) | facts)
        while True:
            parent.recv()
            _seconds(device, loop, facts.get("lead_in", 1))
            parent.send((_seconds(device, loop, units) / units, _peak_mib(device)))
    except (UserError, RuntimeError) as error:  # not enough memory for it, say
        with suppress(BrokenPipeError):
            parent.send(" ".join(str(error).split())[:200])
    except (EOFError, BrokenPipeError, Interrupted):  # the parent ends us, perhaps while the images are prepared
        return


def _seconds(device: torch.device, loop: Loop, units: int) -> float:
    """Seconds until the device has done `units`."""
    started = time.perf_counter()
    loop(units)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started


def _peak_mib(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**10 if sys.platform == "linux" else 2**20)
