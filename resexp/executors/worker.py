"""Training the runs of a job in this process, with an event for each that begins or ends."""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import traceback
from collections.abc import Iterator
from multiprocessing.connection import Connection

from resexp.errors import DeviceFailedError
from resexp.executors.base import Event, Job, wait_for_release
from resexp.runs.lease import TAKEOVER_AFTER_S
from resexp.runs.store import Run
from resexp.training.concurrent_runs import ConcurrentRuns
from resexp.utils.interrupts import Stop
from resexp.utils.logs import logged_to
from resexp.utils.machine import share_cores
from resexp.utils.parallel import when_parent_ends

RELEASE_S = 2 * TAKEOVER_AFTER_S
"""Seconds to wait for the worker of an earlier attempt to release a run. A dead one on another machine is known only by
its missing heartbeat."""


def work(job: Job, parent: Connection, environment: dict[str, str]) -> None:
    """Entry point of a local worker process: train the job's runs, send events to `parent`, and stop when the parent
    dies.

    `environment` is the parent's. The server keeps the one it began with, which a notebook may have changed since.
    """
    os.environ.clear()
    os.environ.update(environment)
    os.setsid()  # Ctrl-C in the terminal reaches the parent, which asks us to stop
    gc.freeze()  # exclude imported objects from garbage collection: to scan them after each run would take 0.2 s
    stop = Stop().install()
    when_parent_ends(stop.ask)
    for event in train(job, stop):
        with contextlib.suppress(BrokenPipeError):  # it is gone; what is left must still be saved
            parent.send(event)


def train(job: Job, stop: Stop) -> Iterator[Event]:
    """Train the runs of a job; yields an event for each run that begins or ends, and for each log line.

    Errors are also sent as events, since the disk may be full. A process trains one job: its output stays redirected
    to the log of the first run.
    """
    if job.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.gpu
    share_cores(job.processes)
    yield Event("log")  # the job is at work
    try:
        log = job.runs[0].log_path.open("a", buffering=1)
    except OSError as error:  # its folder is gone, or the disk is full
        for index in range(len(job.runs)):
            yield Event("run_ended", index, f"{error.filename}: {error.strerror}")
        return
    sys.stdout = sys.stderr = log
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    wait_for_release(job.runs, RELEASE_S, stop)
    runs = ConcurrentRuns(job.runs, size=job.concurrent_runs, threads=job.threads, stop=stop)
    unsent = list[Event]()

    def forward_log(line: str) -> None:
        unsent.append(Event("log", text=line))
        _append_log(runs.current or job.runs[0], line)

    with logged_to(forward_log):
        for outcomes in runs.turns():
            for run, outcome in outcomes:
                index = job.runs.index(run)
                if isinstance(outcome, Exception):
                    _append_log(run, "".join(traceback.format_exception(outcome)))
                    unsent.append(Event("run_ended", index, f"{outcome}", isinstance(outcome, DeviceFailedError)))
                else:
                    unsent.append(Event("run_began" if outcome is None else "run_ended", index))
            yield from unsent
            unsent.clear()


def _append_log(run: Run, text: str) -> None:
    with contextlib.suppress(OSError), run.log_path.open("a") as log:
        log.write(text.rstrip() + "\n")
