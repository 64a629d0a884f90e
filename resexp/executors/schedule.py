"""Who trains where on this machine, and when: runs are shared out so that all cores, or GPUs, end together."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

from resexp.executors.engine import Job
from resexp.store import Run

SPEEDUP = 0.6
"""One run on t cores is taken to be t**SPEEDUP times as fast (of two cores 1.2 to 1.9 times were measured)."""
WORTHWHILE = 0.98
"""By how much a run on more cores must shorten the whole sweep."""


def on_cores(todo: Sequence[tuple[Run, float]], cores: int, at_a_time: int | None) -> list[Job]:
    """A process for every run, in the order of starting; `todo` holds each run with its cost.

    One core each, longest first, but several for the runs that would otherwise be at work alone at the end. With
    `at_a_time`, so many share the cores evenly.
    """
    if at_a_time is not None:
        ordered = sorted(todo, key=lambda item: -item[1])
        return [Job((run,), 1, max(1, cores // at_a_time)) for run, _ in ordered]
    threads = share([cost for _, cost in todo], cores)
    jobs = [(Job((run,), n, n), cost) for (run, cost), n in zip(todo, threads, strict=True)]
    return [job for job, _ in sorted(jobs, key=lambda item: (-item[0].cores, -item[1]))]


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
    """So many runs a job, longest first; `todo` holds each run with its cost."""
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
