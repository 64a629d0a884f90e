"""Stopping politely: the first SIGINT or SIGTERM asks, the second SIGINT insists."""

from __future__ import annotations

import signal
from types import FrameType

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SIGNAL = 128
"""Added to the number of the signal that stopped us: 130 after Ctrl-C, 143 after SIGTERM; all is saved by then."""
STOPPING = (signal.SIGINT, signal.SIGTERM)
"""What asks a process to stop."""


class Stop:
    """Whether we were asked to stop, and by which signal. Call `install` in the main thread."""

    def __init__(self) -> None:
        self.signal = 0
        self._heard = False

    def __call__(self) -> bool:
        """Whether we were asked."""
        return self.signal != 0

    def install(self) -> Stop:
        """Handle SIGINT and SIGTERM from now on, those among them that were blocked before."""
        for number in STOPPING:
            signal.signal(number, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        return self

    def ask(self, number: int = signal.SIGTERM) -> None:
        """Ask to stop as if the signal had arrived."""
        self.signal = self.signal or number

    @property
    def exit_code(self) -> int:
        """What a process that stopped for the signal exits with."""
        return EXIT_SIGNAL + self.signal

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._heard and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._heard = True
        self.signal = number
