"""Many small pieces of work, shared out over the cores."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from types import ModuleType
from typing import TypeVar

from resexp.utils.machine import cores
from resexp.utils.temporary import mark_sockets

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


def parallel_map(function: Callable[[A], B], pieces: Sequence[A], enough: int) -> list[B]:
    """`function` of each piece, in their order; it and they must be such as can be sent to another process.

    Processes take a second to start, and are only started where there are `enough` pieces for each.
    """
    count = min(cores(), len(pieces) // enough)
    if count < 2:
        return [function(piece) for piece in pieces]
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["resexp.report"])
    mark_sockets()
    gc.disable()  # it would visit millions of numbers, again and again, and find nothing: a third of a large report
    try:
        with without_main(), ProcessPoolExecutor(count, context, initializer=gc.disable) as processes:
            return list(processes.map(function, pieces, chunksize=min(100, 1 + len(pieces) // (8 * count))))
    finally:
        gc.freeze()  # nor is it to visit them later
        gc.enable()
