"""Who trains where on this machine, and when: runs are shared out so that all cores, or GPUs, end together."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from resexp.executors.engine import Job
from resexp.runs.store import Run

SPEEDUP = 0.6
"""One run on t cores is taken to be t**SPEEDUP times as fast (of two cores 1.2 to 1.9 times were measured)."""
WORTHWHILE = 0.98
"""By how much a run on more cores must shorten the whole sweep."""
SHORT = 0.01
"""Runs below this share of a core's total work share a process, since starting one takes 0.2 s."""


def on_cores(todo: Sequence[tuple[Run, float]], cores: int, at_a_time: int | None) -> list[Job]:
    """Processes in the order of starting; `todo` holds each run with its cost.

    One core each, longest first, but several for the runs that would otherwise be at work alone at the end. With
    `at_a_time`, that many processes share the cores evenly. A run has a process of its own, unless it is SHORT.
    """
    if at_a_time is not None:
        return [Job(runs, 1, max(1, cores // at_a_time)) for runs in _bundles(todo, at_a_time)]
    threads = share([cost for _, cost in todo], cores)
    wide = [(item, n) for item, n in zip(todo, threads, strict=True) if n > 1]
    narrow = [item for item, n in zip(todo, threads, strict=True) if n == 1]
    jobs = [Job((run,), n, n) for (run, _), n in sorted(wide, key=lambda job: (-job[1], -job[0][1]))]
    return jobs + [Job(runs, 1, 1) for runs in _bundles(narrow, cores)]


def _bundles(todo: Sequence[tuple[Run, float]], processes: int) -> list[tuple[Run, ...]]:
    """The runs, longest first; short runs are bundled."""
    most = SHORT * sum(cost for _, cost in todo) / processes
    bundles, room = list[list[Run]](), 0.0
    for run, cost in sorted(todo, key=lambda item: -item[1]):
        if not bundles or cost > room:  # what was stopped in a last test may have no step left, and costs nothing
            bundles.append([])
            room = most
        bundles[-1].append(run)
        room -= cost
    return [tuple(bundle) for bundle in bundles]


def on_gpus(
    todo: Sequence[tuple[Run, float]], gpus: Sequence[str | None], processes: int, pack: int | None
) -> list[Job]:
    """As many processes, each with one of the `gpus` and a queue of runs, longest first, of about the same cost."""
    queues: list[list[Run]] = [[] for _ in range(processes)]
    load = [(0.0, i) for i in range(processes)]
    for run, cost in sorted(todo, key=lambda item: -item[1]):
        total, i = heapq.heappop(load)
        queues[i].append(run)
        heapq.heappush(load, (total + cost, i))
    return [Job(tuple(queue), 1, None, gpus[i % len(gpus)], pack) for i, queue in enumerate(queues) if queue]


def in_chunks(todo: Sequence[tuple[Run, float]], size: int) -> list[tuple[Run, ...]]:
    """Jobs of `size` runs, longest first; `todo` holds each run with its cost."""
    ordered = [run for run, _ in sorted(todo, key=lambda item: -item[1])]
    return [tuple(ordered[i : i + size]) for i in range(0, len(ordered), size)]


def share(costs: Sequence[float], cores: int) -> list[int]:
    """Cores for each run, so that the sweep ends early: one each, and then more for whichever ends last."""
    threads = best = [1] * len(costs)
    shortest, last = end, _ = _makespan(costs, threads, cores)
    while costs and threads[last] < cores:
        options = [
            [*threads[:last], more, *threads[last + 1 :]]
            for more in sorted({threads[last] + 1, min(2 * threads[last], cores)})
        ]
        threads = min(options, key=lambda option: _makespan(costs, option, cores)[0])
        before, (end, last) = end, _makespan(costs, threads, cores)
        if end > before:
            break
        if end < WORTHWHILE * shortest:  # of two that end together, the first alone shortens nothing
            best, shortest = threads, end
    return best


def _makespan(costs: Sequence[float], threads: Sequence[int], cores: int) -> tuple[float, int]:
    """When the sweep ends if runs start in order of (threads, cost) as soon as there are cores; and which ends last."""
    ends: list[tuple[float, int]] = []
    free, now, end, last = cores, 0.0, 0.0, 0
    for i in sorted(range(len(costs)), key=lambda i: (-threads[i], -costs[i])):
        while free < threads[i]:
            now, other = heapq.heappop(ends)
            free += threads[other]
        free -= threads[i]
        finish = now + costs[i] / threads[i] ** SPEEDUP
        heapq.heappush(ends, (finish, i))
        if finish > end:
            end, last = finish, i
    return end, last
