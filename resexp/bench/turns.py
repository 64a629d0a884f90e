"""Runs benchmark cases in separate processes, in turns, and tabulates their speed.

Machines are noisy, and ratios within a round are not.
"""

from __future__ import annotations

import logging
import multiprocessing
import resource
import signal
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from resexp.bench.contestants import Case, Loop, work_of_a_unit
from resexp.config import RunConfig
from resexp.device.cuda_graph import CALLS_BEFORE_CAPTURE
from resexp.device.hardware import choose_hardware
from resexp.errors import UserError
from resexp.training import manifest
from resexp.utils.interrupts import Interrupted
from resexp.utils.logs import log_to
from resexp.utils.machine import cores

log = logging.getLogger(__name__)


@dataclass
class Measured:
    """What was measured of a case."""

    case: Case
    facts: dict[str, Any]
    """Facts of its first process: start_up_s, first_unit_s, capture_s, memory_mib, and what a unit is."""
    seconds: list[list[float]] = field(default_factory=list)
    """For each round, the seconds a unit took in each process."""

    def rates(self, quantity: str = "images") -> list[float]:
        """Images, floating-point operations ("flop") or bytes per second, of all processes together, for each round."""
        return [sum(self.facts[quantity] / seconds for seconds in turn) for turn in self.seconds]

    def over(self, other: Measured, quantity: str = "images") -> tuple[float, float, float]:
        """Its rates divided by those of `other` in the same rounds: median, least, most."""
        ratios = [a / b for a, b in zip(self.rates(quantity), other.rates(quantity), strict=True)]
        return statistics.median(ratios), min(ratios), max(ratios)

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


@dataclass(frozen=True)
class Benchmark:
    """What is timed of each configuration, and what is shown of it."""

    cases: Callable[[RunConfig], tuple[list[Case], list[str]]]
    """The contestants, and why some are missing."""
    summary: Callable[[Sequence[Measured]], dict[str, list[dict[str, Any]]]]
    """The `rows` of the table, and `bottlenecks` where a benchmark has them. Rates are medians over the rounds."""
    columns: Sequence[str]
    cells: Callable[[dict[str, Any]], list[str]]
    """The texts of a row, one for each column."""
    note: str
    """What the columns mean."""
    remark: Callable[[dict[str, Any]], str] = str
    """A line about a bottleneck."""

    def run(self, configs: Sequence[RunConfig], rounds: int, seconds: float) -> dict[str, Any]:
        """Time the contestants of every configuration, in turns; returns what `resexp bench --json` prints.

        Raises UserError if images are missing.
        """
        found, measurements = defaultdict[str, list[Any]](list), list[dict[str, Any]]()
        for config in configs:
            log.info(f"{net(config)} {choose_hardware(config.train).precision}")
            cases, missing = self.cases(config)
            measured, failed = in_turns(cases, rounds, seconds)
            for line in (*missing, *failed):
                log.info(f"left out: {line}")
            for key, entries in self.summary(measured).items():
                found[key] += entries
            measurements += [m.to_json() for m in measured]
        attempt = manifest.new_attempt(choose_hardware(configs[0].train), 0)
        keys = {"started", "command", "resexp", "commit", "python", "torch", "cuda", "device"}
        machine = {**attempt.model_dump(include=keys), "cores": cores()}
        return {"machine": machine, **found, "measured": measurements}

    def remarks(self, result: dict[str, Any]) -> list[str]:
        """A line for each bottleneck."""
        return [self.remark(found) for found in result.get("bottlenecks", [])]

    def markdown(self, result: dict[str, Any]) -> str:
        """The page of a result."""
        machine = result["machine"]
        lines = [
            f"# `{machine['command']}`",
            "",
            f"{machine['device']}, {machine['cores']} cores; PyTorch {machine['torch']}, CUDA {machine['cuda']}, "
            f"Python {machine['python']}; resexp {machine['resexp']}, commit {machine['commit']}; "
            f"{machine['started']}.",
            "",
            "| " + " | ".join(self.columns) + " |",
            "|" + "---|" * len(self.columns),
            *("| " + " | ".join(self.cells(row)) + " |" for row in result["rows"]),
            "",
            *(line for remark in self.remarks(result) for line in (remark, "")),
            self.note,
            "",
        ]
        return "\n".join(lines)


def net(config: RunConfig) -> str:
    """Kind and depth, such as ``plain-20``."""
    return f"{config.model.kind}-{config.model.depth}"


def in_turns(cases: Sequence[Case], rounds: int, seconds: float) -> tuple[list[Measured], list[str]]:
    """Start every case, one after the other, then let them work in turns, about `seconds` a turn.

    Returns what was measured, and why cases are missing from it.
    """
    context = multiprocessing.get_context("spawn")
    running: list[tuple[Measured, list[Connection]]] = []
    missing = []
    processes = []
    try:
        for case in cases:
            ends = []
            for _ in range(case.processes):
                ours, theirs = context.Pipe()
                process = context.Process(target=_serve, args=(case, seconds, time.time(), theirs), daemon=False)
                process.start()
                theirs.close()
                processes.append(process)
                ends.append(ours)
            try:
                facts = [end.recv() for end in ends]
            except EOFError:
                facts = ["a process ended before it could begin"]
            if failures := [failure for failure in facts if isinstance(failure, str)]:
                missing.append(failures[0])
                for end in ends:
                    end.close()
                continue
            log.info(f"{case.what}: ready after {facts[0]['start_up_s']:.1f} s")
            running.append((Measured(case, facts[0]), ends))
        for number in range(rounds):
            log.info(f"round {number + 1} of {rounds}")
            for measured, ends in running:
                for end in ends:
                    end.send("go")
                measured.seconds.append([end.recv() for end in ends])
        for measured, ends in running:
            ends[0].send("memory")
            measured.facts["memory_mib"] = ends[0].recv()
    finally:
        for _, ends in running:
            for end in ends:
                end.close()
        for process in processes:
            process.terminate()
            process.join()
    return [measured for measured, _ in running], missing


def _serve(case: Case, seconds: float, started: float, parent: Connection) -> None:
    """The process of one contestant: build it, find out how many units a turn holds, and wait for its turn."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which ends us
    facts: Any = {}
    log_to(lambda line: facts.update(warning=line))
    try:
        if case.threads:
            torch.set_num_threads(case.threads)
        loop = case.build(case, facts)
        facts["first_unit_s"] = _seconds(loop, 1)
        facts["start_up_s"] = time.time() - started
        if facts.get("graphs"):
            calls = [_seconds(loop, 1) for _ in range(2 * CALLS_BEFORE_CAPTURE)]
            capturing = calls[CALLS_BEFORE_CAPTURE - 1]  # the first unit was a call, too
            facts["capture_s"] = (capturing - statistics.median(calls[CALLS_BEFORE_CAPTURE:])) / case.runs
        units, spent = 1, 0.0
        while spent < seconds:
            spent = _seconds(loop, units)
            units *= 2
        units = max(1, min(2000, round(seconds * units / 2 / spent)))
        facts |= work_of_a_unit(case, facts)
    except (UserError, RuntimeError) as error:  # not enough memory for it, say
        facts = f"{case.what}: {' '.join(str(error).split())[:200]}"
    except Interrupted:  # the parent ends us while the images are prepared
        return
    try:
        parent.send(facts)
        while True:
            if parent.recv() == "go":
                loop(facts.get("lead_in", 1))
                parent.send(_seconds(loop, units) / units)
            else:
                parent.send(_peak_mib(case))
    except (EOFError, BrokenPipeError):
        pass


def _seconds(loop: Loop, units: int) -> float:
    started = time.perf_counter()
    loop(units)
    return time.perf_counter() - started


def _peak_mib(case: Case) -> float:
    if case.hardware.device.type == "cuda":
        return torch.cuda.max_memory_reserved() / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**10 if sys.platform == "linux" else 2**20)
