"""Training the runs of a job in this process, with an event for each that begins or ends."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait

from resexp.errors import DeviceFailedError
from resexp.executors.base import Job, Kind
from resexp.runs.lease import HEARTBEAT_TIMEOUT_S
from resexp.runs.store import Run
from resexp.training.concurrent_runs import ConcurrentRuns
from resexp.utils.interrupts import Stop
from resexp.utils.logs import logged_to

ORPHAN_S = 2 * HEARTBEAT_TIMEOUT_S
"""How long a run may be held by the worker of an earlier attempt, seconds: one on another machine is
known to be dead only by its missing heartbeat."""

Message = tuple[Kind, int, str]
"""A `base.Event` as it is sent between processes: (kind, index of the run in the job, text)."""


def work(job: Job, parent: Connection, environment: dict[str, str]) -> None:
    """Entry point of a local worker process: train the job's runs, send events to `parent`, and stop when the parent
    dies.

    `environment` is the parent's. The server keeps the one it began with, which a notebook may have changed since.
    """
    os.environ.clear()
    os.environ.update(environment)
    os.setsid()  # Ctrl-C in the terminal reaches the parent, which asks us to stop
    gc.freeze()  # imported objects stay; to visit them after each run would take 0.2 s
    stop = Stop().install()
    threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()
    for message in train(job, stop):
        with contextlib.suppress(BrokenPipeError):  # it is gone; what is left must still be saved
            parent.send(message)


def train(job: Job, stop: Stop) -> Iterator[Message]:
    """Train the runs of a job; yields a Message for each run that begins or ends, and for each log line.

    Errors are also sent as events, since the disk may be full.
    """
    if job.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.gpu
    yield "here", 0, ""
    try:
        log = job.runs[0].log_path.open("a", buffering=1)
    except OSError as error:  # its folder is gone, or the disk is full
        for number in range(len(job.runs)):
            yield "ended", number, f"{error.filename}: {error.strerror}"
        return
    sys.stdout = sys.stderr = log
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    unsent = deque[Message]()

    def keep(line: str) -> None:
        run = runs.current or job.runs[0]
        unsent.append(("log", job.runs.index(run), line))
        _write(run, line)

    _wait_for_orphans(job, stop)
    runs = ConcurrentRuns(job.runs, size=job.pack, threads=job.threads, stop=stop)
    with logged_to(keep):
        for events in runs.turns():
            for run, outcome in events:
                if isinstance(outcome, Exception):
                    _write(run, "".join(traceback.format_exception(outcome)))
                lost = isinstance(outcome, DeviceFailedError)
                kind: Kind = "lost" if lost else "began" if outcome is None else "ended"
                unsent.append((kind, job.runs.index(run), f"{outcome}" if isinstance(outcome, Exception) else ""))
            while unsent:
                yield unsent.popleft()


def _write(run: Run, text: str) -> None:
    with contextlib.suppress(OSError), run.log_path.open("a") as log:
        log.write(text.rstrip() + "\n")


def _wait_for_orphans(job: Job, stop: Stop) -> None:
    """A worker whose sweep was killed saves and ends by itself, but only when its step is done."""
    deadline = time.monotonic() + ORPHAN_S
    while any(run.is_held() for run in job.runs) and not stop() and time.monotonic() < deadline:
        time.sleep(0.1)


def _watch_parent(stop: Stop) -> None:
    """Stop when the parent is gone: one that was killed can't send a signal."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        stop.ask()
