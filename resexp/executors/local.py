"""Runs jobs on this machine: one process per run on CPUs, one process per GPU otherwise; or this process, for pdb."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import time
from collections.abc import Sequence
from multiprocessing import forkserver
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext, ForkServerProcess
from typing import TYPE_CHECKING

from resexp.config import ExecutorConfig
from resexp.errors import UserError
from resexp.executors import schedule
from resexp.executors.base import End, Event, Executor, Handle, Job
from resexp.runs.store import Run
from resexp.utils.logs import log
from resexp.utils.machine import cores
from resexp.utils.parallel import mark_sockets, starting, without_main

if TYPE_CHECKING:
    import torch

TICK_S = 0.5
"""Seconds until the display is updated, without an event before."""
_STARTS = 20
"""Attempts at starting a process, a tenth of a second apart."""
_SERVER_DIED = 255
"""Exit code that multiprocessing reports when the fork server has died."""


def visible_gpus() -> list[str]:
    """The CUDA devices this process may use, as CUDA_VISIBLE_DEVICES would name them."""
    import torch  # only a sweep that starts needs to know, and torch is slow to import

    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if not named:
        return list(map(str, range(count)))
    names = [name.strip() for name in named.split(",")]
    # Names after the first that does not exist are not visible either. A process sees one MIG instance at most.
    return names if count and names[0].startswith("MIG-") else names[:count]


class Local(Executor):
    """The executor of this machine."""

    def __init__(self, config: ExecutorConfig, devices: set[torch.device]) -> None:
        """`devices`: the devices of the runs."""
        self._config, self._devices, self._started = config, devices, False
        self._on_cpu = all(device.type == "cpu" for device in devices)
        if config.runs_per_gpu and self._on_cpu:
            log.info("--runs-per-gpu is for GPUs; on CPU cores every run has a process of its own")
        self._context = multiprocessing.get_context("forkserver")

    def make_jobs(self, todo: Sequence[tuple[Run, float]]) -> tuple[list[Job], int]:
        """Returns the jobs, and how many slots may be in use at a time: cores on a CPU; processes on GPUs or with
        `executor.jobs`."""
        jobs = self._config.jobs
        if self._on_cpu:
            return schedule.on_cores(todo, cores(), jobs), jobs or cores()
        # With a device index (cuda:1), or on MPS, all processes use that device. MPS has no streams: one run at a time.
        on_mps = any(device.type == "mps" for device in self._devices)
        one_device = on_mps or any(device.index is not None for device in self._devices)
        gpus = [None] if one_device else visible_gpus()
        processes = jobs or len(gpus)
        return schedule.on_gpus(todo, gpus, processes, 1 if on_mps else self._config.runs_per_gpu), processes

    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        """A process for each. The first ones wait for the server, which imports torch."""
        if not self._started:
            self._start_server()
            log.info(f"{len(jobs)} process{'es' * (len(jobs) > 1)} starting")
            self._started = True
        workers = list[_Worker]()
        try:
            for job in jobs:
                workers.append(_Worker(self._context, job))
        except UserError:
            for worker in workers:
                worker.stop()
            raise
        return list(workers)

    def _start_server(self) -> None:
        """Start the server that processes are forked from, with torch imported and nothing running: each then starts in
        milliseconds. The first optimizer of a process would import torch._dynamo, which takes seconds.
        """
        self._context.set_forkserver_preload(["resexp.executors.worker", "resexp.cli", "torch._dynamo"])
        mark_sockets()
        with starting():  # signals blocked: the server must survive Ctrl-C; workers unblock them once they can save
            try:
                forkserver.ensure_running()
            except OSError as error:  # a socket's path has at most some hundred letters
                where = tempfile.gettempdir()
                raise UserError(
                    f"{where}: no place for the sockets of workers ({error}); set TMPDIR to a short path"
                ) from None

    def wait(self, handles: Sequence[Handle]) -> None:
        """Wait until one of them has an event or ends."""
        workers = [handle for handle in handles if isinstance(handle, _Worker)]
        ready: list[Connection | int] = [worker.process.sentinel for worker in workers]
        ready += [worker.receiver for worker in workers if not worker.receiver.closed]
        wait(ready, timeout=TICK_S)


def _start(process: ForkServerProcess) -> None:
    """Start a process, also where the server has just died: `multiprocessing` starts another one."""
    for _ in range(_STARTS):
        try:
            return process.start()
        except (EOFError, ConnectionError):
            time.sleep(0.1)
    raise UserError("no process can be started, for their server dies; free memory, or raise the limit of processes")


class _Worker(Handle):
    def __init__(self, context: ForkServerContext, job: Job) -> None:
        from resexp.executors.worker import work

        self.job = job
        self.receiver, sender = context.Pipe(duplex=False)
        words = (job, sender, dict(os.environ))
        self.process: ForkServerProcess = context.Process(target=work, args=words, name=job.runs[0].title)
        with without_main():
            _start(self.process)
        sender.close()

    def poll(self) -> tuple[list[Event], End | None]:
        code = self.process.exitcode  # before the events: then none of them can be missed
        events = list[Event]()
        try:
            while not self.receiver.closed and self.receiver.poll():
                events.append(self.receiver.recv())
        except EOFError:  # the worker has ended; all its events were read
            self.receiver.close()
        if code is None:
            return events, None
        if code == _SERVER_DIED:
            self.kill()
            return events, End("the server that it was forked from died", retry=True)
        return events, End(f"its process was killed by signal {-code}", retry=True) if code < 0 else End()

    def stop(self) -> None:
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        if self.process.pid is not None and self.process.exitcode in (None, _SERVER_DIED):
            with contextlib.suppress(ProcessLookupError):  # it ended a moment ago
                os.kill(self.process.pid, number)


class Debug(Executor):
    """Trains in the process of the sweep, one run after the other: breakpoints and prints work."""

    def make_jobs(self, todo: Sequence[tuple[Run, float]]) -> tuple[list[Job], int]:
        """One job per run, in the order of the study; one at a time."""
        return [Job((run,)) for run, _ in todo], 1

    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        """Prepare each job; `_InThisProcess.poll` trains it."""
        return [_InThisProcess(job) for job in jobs]

    def wait(self, handles: Sequence[Handle]) -> None:
        """Does nothing: jobs run in `_InThisProcess.poll`."""


class _InThisProcess(Handle):
    def __init__(self, job: Job) -> None:
        from resexp.training.concurrent_runs import ConcurrentRuns

        self.job, self._stop = job, False
        self._turns = ConcurrentRuns(job.runs, size=1, threads=None, stop=lambda: self._stop).turns()

    def poll(self) -> tuple[list[Event], End | None]:
        """Train for a moment."""
        until, events = time.monotonic() + TICK_S, list[Event]()
        while time.monotonic() < until:
            if (turn := next(self._turns, None)) is None:
                return events, End()
            for _, outcome in turn:
                text = f"{outcome}" if isinstance(outcome, Exception) else ""
                events.append(Event("run_began" if outcome is None else "run_ended", text=text))
        return events, None

    def stop(self) -> None:
        """Ask the run to save and end. It does so after its current step, which a debugger may delay."""
        self._stop = True
