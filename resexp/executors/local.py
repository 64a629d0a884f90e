"""Processes on this machine: one for every run on CPU cores, or one for every GPU, with its queue of runs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess

from resexp.executors.schedule import Job
from resexp.signals import STOPPING, Stop
from resexp.store import Run

TICK_S = 0.5


def visible_gpus() -> list[str]:
    """The CUDA devices this process may use, as CUDA_VISIBLE_DEVICES would name them."""
    import torch  # only a sweep that starts needs to know, and torch is slow to import

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    # Names behind the first that does not exist are not visible either.
    return [name.strip() for name in named.split(",")][:count] if named else list(map(str, range(count)))


class _Worker:
    """A process at work on a job, and how far it is by what it told."""

    def __init__(self, context: ForkServerContext, job: Job) -> None:
        from resexp.executors.worker import work

        self.job, self.waiting, self.running = job, list(job.runs), list[Run]()
        self.ears, mouth = context.Pipe(duplex=False)
        self.process: ForkServerProcess = context.Process(target=work, args=(job, mouth), name=job.runs[0].name)
        self.process.start()
        mouth.close()

    def signal(self, number: int) -> None:
        if self.process.pid is not None and self.process.exitcode is None:
            with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
                os.kill(self.process.pid, number)

    def listen(self, say: Callable[[str], None], ended: Callable[[Run, int, str], None]) -> None:
        """Hear all that was told since the last call."""
        try:
            while self.ears.poll():
                kind, number, text = self.ears.recv()
                run = self.job.runs[number]
                if kind == "say":
                    say(text)
                elif kind == "began" and run in self.waiting:
                    self.waiting.remove(run)
                    self.running.append(run)
                elif kind == "ended":
                    self.running.remove(run)
                    ended(run, 0, text)
        except EOFError:  # it is gone, and all that it told was heard
            pass


def train_all(
    jobs: Sequence[Job],
    *,
    capacity: int,
    fail_fast: bool,
    stop: Stop,
    say: Callable[[str], None],
    tick: Callable[[list[Run]], None],
    ended: Callable[[Run, int, str], bool],
) -> None:
    """Do `jobs`, in this order, as many at a time as `capacity` has room for their cores.

    `tick` hears the runs in progress twice a second, `ended` each run with 0, or the signal (negative) that killed its
    process, and with what went wrong; it answers whether the run is finished. When `stop` is asked, or a run did not
    finish under `fail_fast`, the others are asked to save and end. Runs that a dead process left are given to another.
    """
    # Processes are forked from a server that has torch imported and nothing running: each starts in milliseconds.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resexp.executors.worker", "resexp.cli"])
    # A signal to the whole group is for us: workers are asked by us, and the server must outlive them. What is blocked
    # stays blocked in processes that are started; workers unblock it when they can save what they have.
    signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    forkserver.ensure_running()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    queue, workers = list(jobs), list[_Worker]()
    failed = asked = False

    def hear(run: Run, code: int, said: str) -> None:
        nonlocal failed
        failed = not ended(run, code, said) or failed

    try:
        while queue or workers:
            if (stop() or (failed and fail_fast)) and not asked:
                asked = True
                queue.clear()
                for worker in workers:
                    worker.signal(signal.SIGTERM)
            while queue and queue[0].cores <= capacity - sum(worker.job.cores for worker in workers):
                workers.append(_Worker(context, queue.pop(0)))
            told: list[Connection | int] = [sign for w in workers for sign in (w.process.sentinel, w.ears)]
            wait(told, timeout=TICK_S)
            tick([run for worker in workers for run in worker.running])
            for worker in list(workers):
                code = worker.process.exitcode  # asked before listening: then nothing that it told can be missed
                worker.listen(say, hear)
                if code is not None:
                    workers.remove(worker)
                    worker.ears.close()
                    left_at_all = len(worker.waiting) < len(worker.job.runs)
                    for run in worker.running if left_at_all else worker.waiting:
                        hear(run, code, "")
                    if left_at_all and worker.waiting and not asked:
                        queue.insert(0, replace(worker.job, runs=tuple(worker.waiting)))
    finally:
        for worker in workers:  # only on an exception, such as a second Ctrl-C
            worker.signal(signal.SIGKILL)
