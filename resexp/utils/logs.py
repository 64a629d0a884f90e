"""Where log lines go. Modules log to ``logging.getLogger(__name__)``, below the logger ``resexp``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

LOGGER = logging.getLogger("resexp")


def log_to(write: Callable[[str], object]) -> None:
    """Pass every line that resexp logs from now on to `write`, and to nothing else."""
    handler = logging.Handler()
    handler.emit = lambda record: write(record.getMessage())  # type: ignore[method-assign, assignment]
    LOGGER.handlers, LOGGER.propagate = [handler], False
    LOGGER.setLevel(logging.INFO)


@contextlib.contextmanager
def logged_to(write: Callable[[str], object]) -> Iterator[None]:
    """`log_to`, for as long as the context lasts."""
    before = LOGGER.handlers, LOGGER.propagate, LOGGER.level
    log_to(write)
    try:
        yield
    finally:
        LOGGER.handlers, LOGGER.propagate = before[:2]
        LOGGER.setLevel(before[2])
