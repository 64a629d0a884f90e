"""Scheduling of runs on the cores or GPUs of this machine, so that all finish at about the same time.

The first seed of every net comes first, so that the whole picture is there, without its spread, long before the end.
Among runs of a seed the costliest comes first, which keeps all cores busy to the end. If one long run would still end
late, long runs start before the turn of their seed.
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
    processes = at_a_time or cores
    short = SHORT * sum(cost for _, cost in todo) / processes
    bundles, room = list[tuple[list[Run], int]](), 0.0
    for run, cost, threads in _in_order(todo, processes, wide=at_a_time is None):
        # room is -1 next to a run of several threads: nothing may be added, not even a run with no steps left (cost 0)
        if not bundles or threads > 1 or cost > room:
            bundles.append(([], threads))
            room = short if threads == 1 else -1.0
        bundles[-1][0].append(run)
        room -= cost
    return [Job(tuple(runs), n, n if at_a_time is None else max(1, cores // at_a_time)) for runs, n in bundles]


def on_gpus(
    todo: Sequence[tuple[Run, float]], gpus: Sequence[str | None], processes: int, concurrent_runs: int | None
) -> list[Job]:
    """As many processes, each with one of the `gpus` and a queue of runs of about the same cost."""
    queues: list[list[Run]] = [[] for _ in range(processes)]
    load = [(0.0, i) for i in range(processes)]
    for run, cost, _ in _in_order(todo, processes, wide=False):
        total, queue = heapq.heappop(load)
        queues[queue].append(run)
        heapq.heappush(load, (total + cost, queue))
    used = [(queue, gpus[i % len(gpus)]) for i, queue in enumerate(queues) if queue]
    return [Job(tuple(queue), 1, None, gpu, concurrent_runs, len(used)) for queue, gpu in used]


def in_chunks(todo: Sequence[tuple[Run, float]], size: int) -> list[tuple[Run, ...]]:
    """Jobs of `size` runs in the order of starting; `todo` holds each run with its cost."""
    ordered = [run for run, _ in sorted(todo, key=lambda item: (item[0].seed, -item[1]))]
    return [tuple(ordered[i : i + size]) for i in range(0, len(ordered), size)]


def _in_order(todo: Sequence[tuple[Run, float]], cores: int, *, wide: bool) -> list[tuple[Run, float, int]]:
    """The runs in the order of starting, each with its cost and its number of threads."""
    costs, seeds = [cost for _, cost in todo], [run.seed for run, _ in todo]
    turns, threads = priorities(costs, seeds, cores, wide=wide)
    return [(*todo[i], threads[i]) for i in _order(costs, turns, threads)]


def priorities(costs: Sequence[float], seeds: Sequence[int], cores: int, *, wide: bool) -> tuple[list[int], list[int]]:
    """Returns each run's priority (lower starts first) and its number of threads. `wide` allows more than one thread.

    Priorities are seeds, if the sweep then takes at most SLACK times as long as with the costliest run first. Otherwise
    runs over 1/2, then over 1/4, of the sweep's length start first; if that is not enough, all runs by cost.
    """
    first = [-1] * len(costs)
    threads = share(costs, first, cores) if wide else [1] * len(costs)
    shortest, _ = _makespan(costs, first, threads, cores)
    for long in (math.inf, shortest / 2, shortest / 4):
        turns = [seed if cost <= long else -1 for cost, seed in zip(costs, seeds, strict=True)]
        by_turn = share(costs, turns, cores) if wide else threads
        if _makespan(costs, turns, by_turn, cores)[0] <= SLACK * shortest:
            return turns, by_turn
    return first, threads


def _order(costs: Sequence[float], turns: Sequence[int], threads: Sequence[int]) -> list[int]:
    """The order of starting: by turn, then runs on several cores, then the costliest."""
    return sorted(range(len(costs)), key=lambda i: (turns[i], -threads[i], -costs[i]))


def share(costs: Sequence[float], turns: Sequence[int], cores: int) -> list[int]:
    """Cores for each run, so that the sweep ends early: one each, and then more for whichever ends last."""
    threads = best = [1] * len(costs)
    end, last = _makespan(costs, turns, threads, cores)
    shortest = end
    while costs and threads[last] < cores:
        more = (threads[last] + 1, min(2 * threads[last], cores))
        options = [[*threads[:last], n, *threads[last + 1 :]] for n in more]
        threads = min(options, key=lambda option: _makespan(costs, turns, option, cores)[0])
        before, (end, last) = end, _makespan(costs, turns, threads, cores)
        if end > before:
            break
        if end < MIN_GAIN * shortest:  # otherwise continue: when two runs end last together, both need more cores
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
