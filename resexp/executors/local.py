"""Runs jobs in processes of this machine: one process per run on CPUs, one process per GPU otherwise."""

from __future__ import annotations

import contextlib
import logging
import multiprocessing
import os
import signal
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import TYPE_CHECKING

from resexp.config import ExecutorConfig
from resexp.executors import schedule
from resexp.executors.base import End, Event, Executor, Handle, Job
from resexp.runs.store import Run
from resexp.utils.machine import cores
from resexp.utils.parallel import mark_sockets, starting, without_main

if TYPE_CHECKING:
    import torch

log = logging.getLogger(__name__)

TICK_S = 0.5
_SERVER_DIED = 255
"""Exit code that multiprocessing reports when the fork server has died."""


def visible_gpus() -> list[str]:
    """The CUDA devices this process may use, as CUDA_VISIBLE_DEVICES would name them."""
    import torch  # only a sweep that starts needs to know, and torch is slow to import

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    # Names after the first that does not exist are not visible either.
    return [name.strip() for name in named.split(",")][:count] if named else list(map(str, range(count)))


class Local(Executor):
    """The executor of this machine."""

    def __init__(self, config: ExecutorConfig, devices: set[torch.device]) -> None:
        """`devices`: the devices of the runs."""
        self._config, self._devices, self._started = config, devices, False
        self._on_cpu = all(device.type == "cpu" for device in devices)
        if config.runs_per_gpu and self._on_cpu:
            log.info("--runs-per-gpu is for GPUs; on CPU cores every run has a process of its own")
        # Processes are forked from a server that has torch imported and nothing running: each starts in milliseconds.
        # The first optimizer of a process would import torch._dynamo, which takes seconds.
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["resexp.executors.worker", "resexp.cli", "torch._dynamo"])
        mark_sockets()
        with starting():  # the server must survive Ctrl-C; workers unblock signals once they can save their run
            forkserver.ensure_running()

    def plan(self, todo: Sequence[tuple[Run, float]]) -> tuple[list[Job], int]:
        """Returns the jobs, and how many slots may be in use at a time: cores on a CPU; processes on GPUs or with
        `executor.jobs`."""
        jobs, pack = self._config.jobs, self._config.runs_per_gpu
        if self._on_cpu:
            return schedule.on_cores(todo, cores(), jobs), jobs or cores()
        # A device that was named is not shared out, and only CUDA has a stream for every run.
        named = any(device.index is not None or device.type == "mps" for device in self._devices)
        gpus = [None] if named else visible_gpus()
        processes = jobs or len(gpus)
        pack = 1 if any(device.type == "mps" for device in self._devices) else pack
        return schedule.on_gpus(todo, gpus, processes, pack), processes

    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        """A process for each. The first ones wait for the server, which imports torch."""
        if not self._started:
            log.info(f"{len(jobs)} process{'es' * (len(jobs) > 1)} starting")
            self._started = True
        return [_Worker(self._context, job) for job in jobs]

    def wait(self, handles: Sequence[Handle]) -> None:
        """Wait until one of them has an event or ends."""
        workers = [handle for handle in handles if isinstance(handle, _Worker)]
        ready: list[Connection | int] = [worker.process.sentinel for worker in workers]
        ready += [worker.receiver for worker in workers if not worker.receiver.closed]
        wait(ready, timeout=TICK_S)


class _Worker(Handle):
    """A process at work on a job."""

    def __init__(self, context: ForkServerContext, job: Job) -> None:
        from resexp.executors.worker import work

        self.job = job
        self.receiver, sender = context.Pipe(duplex=False)
        words = (job, sender, dict(os.environ))
        self.process: ForkServerProcess = context.Process(target=work, args=words, name=job.runs[0].name)
        with without_main():
            self.process.start()
        sender.close()

    def poll(self) -> End | None:
        """How the process ended."""
        code = self.process.exitcode
        if code is None:
            return None
        if code == _SERVER_DIED:
            self.kill()
            return End("the server that it was forked from died", retry=True)
        return End(f"its process was killed by signal {-code}", retry=True) if code < 0 else End()

    def events(self) -> list[Event]:
        events = list[Event]()
        try:
            while not self.receiver.closed and self.receiver.poll():
                kind, number, text = self.receiver.recv()
                events.append(Event(kind, self.job.runs[number], text))
        except EOFError:  # the worker has ended; all its events were read
            self.receiver.close()
        return events

    def stop(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.process.pid is not None and self.process.exitcode in (None, _SERVER_DIED):
            with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
                os.kill(self.process.pid, number)
