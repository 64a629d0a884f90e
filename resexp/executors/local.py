"""Runs on this machine: one single-threaded process per CPU core, or one process per GPU."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerProcess

from resexp.signals import Stop
from resexp.store import Run

TICK_S = 0.5


def cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The CUDA devices this process may use, as CUDA_VISIBLE_DEVICES would name them."""
    import torch  # only a sweep that starts needs to know, and torch is slow to import

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    # Names behind the first that does not exist are not visible either.
    return [name.strip() for name in named.split(",")][:count] if named else list(map(str, range(count)))


@dataclass
class _Worker:
    run: Run
    process: ForkServerProcess
    slot: int
    problem: Connection
    """What went wrong, if anything, in its own words."""


def train_all(
    runs: Sequence[Run],
    *,
    jobs: int,
    gpus: Sequence[str],
    fail_fast: bool,
    stop: Stop,
    tick: Callable[[list[Run]], None],
    ended: Callable[[Run, int, str], None],
) -> None:
    """Train `runs`, in this order, `jobs` at a time; with `gpus`, each process sees one of them.

    `tick` hears the runs in progress twice a second, `ended` each run with its exit code (negative: the signal that
    killed it) and what it said went wrong. When `stop` is asked, or a run fails under `fail_fast`, the others are asked
    to save and end.
    """
    # Processes are forked from a server that has torch imported and nothing running: each starts in milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resexp.executors.worker", "resexp.cli"])
    from resexp.executors.worker import work

    threads = None if gpus else max(1, cores() // jobs)
    queue, workers = list(runs), list[_Worker]()
    failed = asked = False
    try:
        while queue or workers:
            if (stop() or (failed and fail_fast)) and not asked:
                asked = True
                queue.clear()
                for worker in workers:
                    _signal(worker.process, signal.SIGTERM)
            while queue and len(workers) < jobs:
                slot = min(set(range(jobs)) - {worker.slot for worker in workers})
                run = queue.pop(0)
                gpu = gpus[slot % len(gpus)] if gpus else None
                ours, theirs = context.Pipe(duplex=False)
                process = context.Process(target=work, args=(run.folder, threads, gpu, theirs), name=run.name)
                process.start()
                theirs.close()
                workers.append(_Worker(run, process, slot, ours))
            wait([worker.process.sentinel for worker in workers], timeout=TICK_S)
            tick([worker.run for worker in workers])
            for worker in [w for w in workers if w.process.exitcode is not None]:
                workers.remove(worker)
                code = worker.process.exitcode or 0
                ended(worker.run, code, _last_words(worker))
                failed = failed or code != 0
    finally:
        for worker in workers:  # only on an exception, such as a second Ctrl-C
            _signal(worker.process, signal.SIGKILL)


def _last_words(worker: _Worker) -> str:
    try:
        return str(worker.problem.recv())
    except EOFError:  # it had nothing to say
        return ""
    finally:
        worker.problem.close()


def _signal(process: ForkServerProcess, number: int) -> None:
    if process.pid is not None and process.exitcode is None:
        os.kill(process.pid, number)
