"""One worker process: trains its run folders, tells its parent how each goes, and ends with it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection, wait

from resexp.errors import UserError
from resexp.executors.engine import Job
from resexp.records import Status
from resexp.signals import EXIT_FAILED, EXIT_USAGE, Stop
from resexp.store import Run
from resexp.training.pack import Pack
from resexp.training.train import DeviceFailed

ORPHAN_S = 60.0
"""How long a run may be held by the worker of an earlier sweep, seconds."""


def work(job: Job, parent: Connection) -> None:
    """Train the runs of a job; what is printed goes to the log of the first, what is said of a run to its own.

    The `parent` hears ``(kind, number of the run, text)``: see `engine.Event`. What went wrong is told and not only
    written, since the disk may be what is wrong.
    """
    os.setsid()  # Ctrl-C in the terminal reaches the parent, which asks us to stop
    if job.gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = job.gpu
    log = job.runs[0].log_path.open("a", buffering=1)
    sys.stdout = sys.stderr = log
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    stop = Stop().install()
    threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()
    code = 0

    def say(run: Run, line: str) -> None:
        parent.send(("say", job.runs.index(run), line))
        _write(run, line)

    def ended(run: Run, outcome: Status | Exception) -> None:
        nonlocal code
        if isinstance(outcome, Status):
            code = code or {"finished": 0, "interrupted": stop.exit_code}.get(outcome.state, EXIT_FAILED)
        else:
            code = EXIT_USAGE if isinstance(outcome, UserError | OSError) else EXIT_FAILED
            _write(run, "".join(traceback.format_exception(outcome)))
        kind = "lost" if isinstance(outcome, DeviceFailed) else "ended"
        parent.send((kind, job.runs.index(run), f"{outcome}" if isinstance(outcome, Exception) else ""))

    _wait_for_orphans(job, stop)
    Pack(
        job.runs,
        size=job.pack,
        threads=job.threads,
        stop=stop,
        say=say,
        began=lambda run: parent.send(("began", job.runs.index(run), "")),
        ended=ended,
    ).train()
    sys.exit(code)


def _write(run: Run, text: str) -> None:
    with contextlib.suppress(OSError), run.log_path.open("a") as log:
        log.write(text.rstrip() + "\n")


def _wait_for_orphans(job: Job, stop: Stop) -> None:
    """A worker whose sweep was killed saves and ends by itself, but only when its step is done."""
    deadline = time.monotonic() + ORPHAN_S
    while any(run.is_held() for run in job.runs) and not stop() and time.monotonic() < deadline:
        time.sleep(0.1)


def _watch_parent(stop: Stop) -> None:
    """A parent that was killed can't ask: when it is gone, stop as if it had."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        stop.ask()
