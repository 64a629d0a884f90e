"""The logger of all modules, and where its lines go."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

log = logging.getLogger("resexp")


def log_to(write: Callable[[str], object]) -> None:
    """Pass every line that resexp logs from now on to `write`, and to nothing else."""
    handler = logging.Handler()
    handler.emit = lambda record: write(record.getMessage())  # type: ignore[method-assign, assignment]
    log.handlers, log.propagate = [handler], False
    log.setLevel(logging.INFO)


@contextlib.contextmanager
def logged_to(write: Callable[[str], object]) -> Iterator[None]:
    """`log_to`, for as long as the context lasts."""
    before = log.handlers, log.propagate, log.level
    log_to(write)
    try:
        yield
    finally:
        log.handlers, log.propagate = before[:2]
        log.setLevel(before[2])
