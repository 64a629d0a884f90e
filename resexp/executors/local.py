"""Runs on this machine: one single-threaded process per CPU core, or one process per GPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerProcess

from resexp.signals import Stop
from resexp.store import Run

TICK_S = 0.5


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[int | str]:
    """The CUDA devices this process may use, as CUDA_VISIBLE_DEVICES would name them."""
    import torch  # only a sweep that starts needs to know, and torch is slow to import

    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return (
        [d.strip() for d in named.split(",")]
        if named and torch.cuda.device_count()
        else list(range(torch.cuda.device_count()))
    )


@dataclass
class _Worker:
    run: Run
    process: ForkServerProcess
    slot: int


def train_all(
    runs: Sequence[Run],
    *,
    jobs: int,
    gpus: Sequence[int | str],
    fail_fast: bool,
    stop: Stop,
    tick: Callable[[list[Run]], None],
    ended: Callable[[Run, int], None],
) -> None:
    """Train `runs`, in this order, `jobs` at a time; with `gpus`, each process sees one of them.

    `tick` hears the runs in progress twice a second, `ended` each run with its exit code (negative: the signal that
    killed it). When `stop` is asked, or a run fails under `fail_fast`, the rest is asked to save and end.
    """
    # Processes are forked from a server that has torch imported and nothing running: each starts in milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resexp.executors.worker", "resexp.cli"])
    from resexp.executors.worker import work

    threads = None if gpus else max(1, cores() // jobs)
    queue, workers = list(runs), list[_Worker]()
    asked = False
    try:
        while queue or workers:
            if stop() and not asked:
                asked = True
                queue.clear()
                for worker in workers:
                    _signal(worker.process, signal.SIGTERM)
            while queue and len(workers) < jobs:
                slot = min(set(range(jobs)) - {worker.slot for worker in workers})
                run = queue.pop(0)
                gpu = gpus[slot % len(gpus)] if gpus else None
                process = context.Process(target=work, args=(run.folder, threads, gpu), name=run.name)
                process.start()
                workers.append(_Worker(run, process, slot))
            wait([worker.process.sentinel for worker in workers], timeout=TICK_S)
            tick([worker.run for worker in workers])
            for worker in [w for w in workers if w.process.exitcode is not None]:
                workers.remove(worker)
                code = worker.process.exitcode or 0
                ended(worker.run, code)
                if code and fail_fast:
                    stop.ask()
    finally:
        for worker in workers:  # only on an exception, such as a second Ctrl-C
            _signal(worker.process, signal.SIGKILL)


def _signal(process: ForkServerProcess, number: int) -> None:
    if process.pid is not None and process.exitcode is None:
        os.kill(process.pid, number)
