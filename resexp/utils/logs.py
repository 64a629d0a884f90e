"""Where log lines go. Modules log to ``logging.getLogger(__name__)``, below the logger ``resexp``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator

LOGGER = logging.getLogger("resexp")


class _Lines(logging.Handler):
    """Passes each line on."""

    def __init__(self, write: Callable[[str], object]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(record.getMessage())


def log_to(write: Callable[[str], object]) -> None:
    """Pass every line that resexp logs from now on to `write`, and to nothing else."""
    LOGGER.handlers, LOGGER.propagate = [_Lines(write)], False
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
