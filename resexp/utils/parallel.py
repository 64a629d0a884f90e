"""Many small pieces of work, shared out over the cores."""

from __future__ import annotations

import gc
import multiprocessing
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

from resexp.utils.machine import cores
from resexp.utils.temporary import mark_sockets

A = TypeVar("A")
B = TypeVar("B")


def spread(function: Callable[[A], B], pieces: Sequence[A], enough: int) -> list[B]:
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
        with ProcessPoolExecutor(count, context, initializer=gc.disable) as processes:
            return list(processes.map(function, pieces, chunksize=min(100, 1 + len(pieces) // (8 * count))))
    finally:
        gc.freeze()  # nor is it to visit them later
        gc.enable()
