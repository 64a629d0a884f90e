"""Scheduling of runs on the cores or GPUs of this machine, so that all finish at about the same time.

The first seed of every net comes first, so that the whole picture is there, without its spread, long before the end.
Among runs of a seed the costliest comes first, which keeps all cores busy to the end. Where a late long run would make
the sweep longer all the same, long runs don't wait for their seed.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence

from resexp.executors.base import Job
from resexp.runs.store import Run

SPEEDUP = 0.6
"""Assumed speed-up of a run on t cores: t**SPEEDUP (measured on two cores: 1.2 to 1.9)."""
MIN_GAIN = 0.98
"""A run gets more cores only if the sweep then takes less than this share of the time."""
SLACK = 1.1
"""How much longer a sweep may take for the first seed of every net to come first."""
SHORT = 0.01
"""Runs below this share of a core's total work share a process, since starting one takes 0.2 s."""


def on_cores(todo: Sequence[tuple[Run, float]], cores: int, at_a_time: int | None) -> list[Job]:
    """Processes in the order of starting; `todo` holds each run with its cost.

    One core each, but several for the runs that would otherwise be at work alone at the end. With `at_a_time`, that
    many processes share the cores evenly. A run has a process of its own, unless it is SHORT.
    """
    if at_a_time is not None:
        return [Job(runs, 1, max(1, cores // at_a_time)) for runs, _ in _bundles(todo, at_a_time, wide=False)]
    return [Job(runs, n, n) for runs, n in _bundles(todo, cores, wide=True)]


def _bundles(todo: Sequence[tuple[Run, float]], processes: int, *, wide: bool) -> list[tuple[tuple[Run, ...], int]]:
    """The runs in the order of starting, each with its threads; short runs on one core are bundled."""
    order, threads = _planned(todo, processes, wide=wide)
    most = SHORT * sum(cost for _, cost in todo) / processes
    bundles, room = list[tuple[list[Run], int]](), 0.0
    for i in order:
        run, cost = todo[i]
        # Room is negative next to a run of several threads: even a run without steps left, of cost 0, stays out.
        if not bundles or threads[i] > 1 or cost > room:
            bundles.append(([], threads[i]))
            room = most if threads[i] == 1 else -1.0
        bundles[-1][0].append(run)
        room -= cost
    return [(tuple(runs), n) for runs, n in bundles]


def _planned(todo: Sequence[tuple[Run, float]], cores: int, *, wide: bool) -> tuple[list[int], list[int]]:
    """The runs in the order of starting, by their places in `todo`, and the threads of each."""
    costs = [cost for _, cost in todo]
    turns, threads = plan(costs, [run.seed for run, _ in todo], cores, wide=wide)
    return _order(costs, turns, threads), threads


def plan(costs: Sequence[float], seeds: Sequence[int], cores: int, *, wide: bool) -> tuple[list[int], list[int]]:
    """Returns each run's priority (lower starts first; usually its seed) and its number of threads. `wide` allows more
    than one thread.

    Long runs have the first turn where the sweep would otherwise be over SLACK times as long as with the costliest run
    first, whatever its seed: only those over half of the sweep's length if that is enough.
    """
    first = [-1] * len(costs)
    threads = share(costs, first, cores) if wide else [1] * len(costs)
    shortest, _ = _makespan(costs, first, threads, cores)
    for long in (math.inf, 1 / 2, 1 / 4):
        turns = [seed if cost <= long * shortest else -1 for cost, seed in zip(costs, seeds, strict=True)]
        by_turn = share(costs, turns, cores) if wide else threads
        if _makespan(costs, turns, by_turn, cores)[0] <= SLACK * shortest:
            return turns, by_turn
    return first, threads


def _order(costs: Sequence[float], turns: Sequence[int], threads: Sequence[int]) -> list[int]:
    """The order of starting: by turn, then runs on several cores, then the costliest."""
    return sorted(range(len(costs)), key=lambda i: (turns[i], -threads[i], -costs[i]))


def on_gpus(
    todo: Sequence[tuple[Run, float]], gpus: Sequence[str | None], processes: int, pack: int | None
) -> list[Job]:
    """As many processes, each with one of the `gpus` and a queue of runs of about the same cost."""
    queues: list[list[Run]] = [[] for _ in range(processes)]
    load = [(0.0, i) for i in range(processes)]
    for run, cost in (todo[i] for i in _planned(todo, processes, wide=False)[0]):
        total, queue = heapq.heappop(load)
        queues[queue].append(run)
        heapq.heappush(load, (total + cost, queue))
    return [Job(tuple(queue), 1, None, gpus[i % len(gpus)], pack) for i, queue in enumerate(queues) if queue]


def in_chunks(todo: Sequence[tuple[Run, float]], size: int) -> list[tuple[Run, ...]]:
    """Jobs of `size` runs in the order of starting; `todo` holds each run with its cost."""
    ordered = [run for run, _ in sorted(todo, key=lambda item: (item[0].seed, -item[1]))]
    return [tuple(ordered[i : i + size]) for i in range(0, len(ordered), size)]


def share(costs: Sequence[float], turns: Sequence[int], cores: int) -> list[int]:
    """Cores for each run, so that the sweep ends early: one each, and then more for whichever ends last."""
    threads = best = [1] * len(costs)
    shortest, last = end, _ = _makespan(costs, turns, threads, cores)
    while costs and threads[last] < cores:
        options = [
            [*threads[:last], more, *threads[last + 1 :]]
            for more in sorted({threads[last] + 1, min(2 * threads[last], cores)})
        ]
        threads = min(options, key=lambda option: _makespan(costs, turns, option, cores)[0])
        before, (end, last) = end, _makespan(costs, turns, threads, cores)
        if end > before:
            break
        if end < MIN_GAIN * shortest:  # of two runs that end last together, both need more cores
            best, shortest = threads, end
    return best


def _makespan(costs: Sequence[float], turns: Sequence[int], threads: Sequence[int], cores: int) -> tuple[float, int]:
    """When the sweep ends if runs start in order as soon as there are cores; and which ends last."""
    ends: list[tuple[float, int]] = []
    free, now, end, last = cores, 0.0, 0.0, 0
    for i in _order(costs, turns, threads):
        while free < threads[i]:
            now, other = heapq.heappop(ends)
            free += threads[other]
        free -= threads[i]
        finish = now + costs[i] / threads[i] ** SPEEDUP
        heapq.heappush(ends, (finish, i))
        if finish > end:
            end, last = finish, i
    return end, last
