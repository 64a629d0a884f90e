"""Tasks in threads and in processes, and the folders of sockets that multiprocessing leaves behind."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import gc
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import resource_tracker, util
from multiprocessing.connection import wait
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from resexp.utils.interrupts import STOPPING, held_back
from resexp.utils.machine import cores

_MARK = ".resexp"
A = TypeVar("A")
B = TypeVar("B")


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Start processes that do not import the user's script: they need nothing of it, and it would run again in each."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


@contextlib.contextmanager
def starting() -> Iterator[None]:
    """Start processes without importing the user's script and with SIGINT/SIGTERM blocked; the parent handles signals
    to the group."""
    resource_tracker.ensure_running()  # which the first start would do, and unblock what we block
    with without_main(), held_back():
        yield


def _begin() -> None:
    """Prepare a process of a pool: Ctrl-C reaches its parent alone, and it ends when the parent is gone."""
    os.setsid()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
    when_parent_ends(lambda: os._exit(1))
    gc.disable()


def when_parent_ends(act: Callable[[], object]) -> None:
    """Call `act` from a thread when the parent process has ended: one that was killed can't send a signal."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        act()

    threading.Thread(target=watch, daemon=True).start()


def parallel_map(function: Callable[[A], B], pieces: Sequence[A], enough: int) -> list[B]:
    """Apply `function` to each piece, in parallel if worthwhile. Both must be picklable.

    Processes take seconds to start, and are only started where there are `enough` pieces for each.
    """
    count = min(cores(), len(pieces) // enough)
    if count < 2:
        return [function(piece) for piece in pieces]
    # A process has one fork server, and ours has torch loaded for the runs.
    context = multiprocessing.get_context("spawn")
    gc.disable()  # it would visit millions of numbers, again and again, and find nothing: a third of a large report
    try:
        with ProcessPoolExecutor(count, context, initializer=_begin) as processes:
            try:
                with starting():
                    found = processes.map(function, pieces, chunksize=min(100, 1 + len(pieces) // (8 * count)))
                return list(found)
            except BaseException:
                processes.shutdown(cancel_futures=True)
                raise
    finally:
        gc.freeze()  # keep the collector away from the results, too
        gc.enable()


def prefetch(function: Callable[[A], B], items: Iterable[A], threads: int) -> Iterator[B]:
    """Apply `function` to each item in threads, in order, and no further ahead than keeps the threads busy."""
    pool = ThreadPoolExecutor(threads)
    waiting: deque[Future[B]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 4 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


@functools.cache
def mark_sockets() -> None:
    """Mark this process's folder of sockets, and remove marked ones of killed processes.

    A process holds a lock on its folder, which the kernel drops when it ends. Without locks nothing is removed.
    """
    for mark in Path(tempfile.gettempdir()).glob(f"pymp-*/{_MARK}"):
        with contextlib.suppress(OSError):  # another user's, or of a living process
            os.close(_locked(mark.parent))
            _remove(mark.parent)
    folder = Path(util.get_temp_dir())
    with contextlib.suppress(OSError):  # a file system without locks
        _locked(folder)  # to the end of the process
        (folder / _MARK).touch()


def _remove(folder: Path) -> None:
    """Remove a folder with its sockets. Raises OSError if it holds anything else, which is kept."""
    for socket in folder.glob("listener-*"):
        if socket.is_socket():
            socket.unlink()
    (folder / _MARK).unlink()
    folder.rmdir()


def _locked(folder: Path) -> int:
    """A descriptor that holds a lock on the folder. Raises OSError if another process does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
