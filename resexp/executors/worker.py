"""One worker process: trains one run folder, and ends with its parent."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import threading
import time
import traceback
from multiprocessing.connection import Connection, wait
from pathlib import Path

from resexp.errors import UserError
from resexp.files import is_locked
from resexp.signals import EXIT_FAILED, EXIT_USAGE, Stop
from resexp.store import Run
from resexp.training.train import train

ORPHAN_S = 60.0
"""How long a run may be held by the worker of an earlier sweep, seconds."""


def work(folder: Path, threads: int | None, gpu: str | None, parent: Connection) -> None:
    """Train the run in `folder`; what is printed goes to its log. Exits with the code of `resexp train`.

    What went wrong is also sent to the `parent`, since the disk may be what is wrong.
    """
    os.setsid()  # Ctrl-C in the terminal reaches the parent, which asks us to stop
    if gpu is not None:
        os.environ["CUDA_VISIBLE_DEVICES"] = gpu
    run = Run(folder)
    log = run.log_path.open("a", buffering=1)
    sys.stdout = sys.stderr = log
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    stop = Stop().install()
    threading.Thread(target=_watch_parent, args=(stop,), daemon=True).start()
    _wait_for_orphan(run, stop)
    try:
        status = train(run, stop=stop, say=print, threads=threads)
    except Exception as error:
        parent.send(f"{error}")
        with contextlib.suppress(OSError):
            traceback.print_exc()
        sys.exit(EXIT_USAGE if isinstance(error, UserError | OSError) else EXIT_FAILED)
    sys.exit({"finished": 0, "interrupted": stop.exit_code}.get(status.state, EXIT_FAILED))


def _wait_for_orphan(run: Run, stop: Stop) -> None:
    """A worker whose sweep was killed saves and ends by itself, but only when its step is done."""
    deadline = time.monotonic() + ORPHAN_S
    while is_locked(run.lock_path) and not stop() and time.monotonic() < deadline:
        time.sleep(0.1)


def _watch_parent(stop: Stop) -> None:
    """A parent that was killed can't ask: when it is gone, stop as if it had."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        stop.ask()
