"""Contestants in processes of their own, which work in turns: machines are noisy, and ratios within a round are not."""

from __future__ import annotations

import logging
import multiprocessing
import resource
import signal
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any

import torch

from resexp.bench.contestants import Case, Loop, work_of_a_unit
from resexp.device.cuda_graph import CALLS_BEFORE_CAPTURE
from resexp.errors import UserError
from resexp.utils.logs import log_to

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
            told = [_hear(end) for end in ends]
            if any(isinstance(facts, str) for facts in told):
                missing.append(next(facts for facts in told if isinstance(facts, str)))
                for end in ends:
                    end.close()
                continue
            assert isinstance(told[0], dict)
            log.info(f"{case.what}: ready after {told[0]['start_up_s']:.1f} s")
            running.append((Measured(case, told[0]), ends))
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


def _hear(end: Connection) -> dict[str, Any] | str:
    try:
        told: dict[str, Any] | str = end.recv()
    except EOFError:
        return "a process ended before it could begin"
    return told


def _serve(case: Case, seconds: float, started: float, parent: Connection) -> None:
    """The process of one contestant: build it, find out how many units a turn holds, and wait for its turn."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, too, which ends us
    facts: dict[str, Any] = {}
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
        parent.send(f"{case.what}: {' '.join(str(error).split())[:200]}")
        return
    parent.send(facts)
    try:
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
