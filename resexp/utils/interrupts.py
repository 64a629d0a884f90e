"""Stop requests: the first SIGINT or SIGTERM requests a stop; a second SIGINT raises KeyboardInterrupt; further
SIGTERMs do nothing."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any, NoReturn

from resexp.errors import UserError

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_SIGNAL = 128
"""Added to the number of the signal that stopped us: 130 after Ctrl-C, 143 after SIGTERM; all is saved by then."""
STOPPING = (signal.SIGINT, signal.SIGTERM)
"""What asks a process to stop."""
_asked: list[int] = []
"""The signals that a command got before it was ready to save anything; a library may have swallowed the exception."""


class Interrupted(BaseException):
    """A stop request during work that can be repeated. Not a KeyboardInterrupt: Typer would exit with 130
    whatever the signal was."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.exit_code = EXIT_SIGNAL + number


def exit_code(error: BaseException) -> int:
    """The exit code of a command that ends in this error."""
    if isinstance(code := getattr(error, "exit_code", None), int):  # Interrupted, or typer's Exit
        return code
    if isinstance(error, UserError | OSError):
        return EXIT_USAGE
    return EXIT_SIGNAL + signal.SIGINT if isinstance(error, KeyboardInterrupt) else EXIT_FAILED


@contextlib.contextmanager
def _handlers_restored() -> Iterator[dict[signal.Signals, Any]]:
    """Put the handlers of SIGINT and SIGTERM back at the end. Empty in other threads than the main one, which have
    none."""
    in_main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in STOPPING} if in_main else {}
    try:
        yield before
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def at_once() -> Iterator[None]:
    """Let SIGINT and SIGTERM end the work inside by raising Interrupted: for work that can be thrown away.

    Earlier handlers are called, too. In other threads than the main one nothing changes.
    """
    with _handlers_restored() as before:

        def handle(number: int, frame: FrameType | None) -> None:
            for again in STOPPING:  # once is enough: nothing is to interrupt the cleaning up
                signal.signal(again, signal.SIG_IGN)
            if callable(earlier := before[signal.Signals(number)]):
                with contextlib.suppress(BaseException):
                    earlier(number, frame)
            raise Interrupted(number)

        for number, earlier in before.items():
            if earlier is not signal.SIG_IGN:
                signal.signal(number, handle)
        owners = [getattr(handler, "__self__", None) for handler in before.values()]
        asked = [*_asked, *(owner.signal for owner in owners if isinstance(owner, Stop) and owner())]
        if asked:
            raise Interrupted(asked[0])
        yield


@contextlib.contextmanager
def whole_command() -> Iterator[None]:
    """Handle SIGTERM like Ctrl-C for a whole command: clean-up runs and child processes end.

    A library that is being imported may swallow the exception. If it is broken after that, its error ends the command;
    if not, `Stop` and `at_once` still see the signal.
    Once the command has ended, either signal ends the process without a word: nothing may print a traceback at its
    exit.
    """
    _asked.clear()

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        _asked.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(EXIT_SIGNAL + number)

    for number in STOPPING:
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
            signal.signal(number, leave)
    try:
        yield
    except (ImportError, AttributeError):
        if _asked:
            raise SystemExit(EXIT_SIGNAL + _asked[0]) from None
        raise
    finally:
        _asked.clear()
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, signal.SIG_DFL)


@contextlib.contextmanager
def held_back() -> Iterator[None]:
    """Hold SIGINT and SIGTERM back until the work inside, which must not end half-way, is done."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Stop:
    """Whether we were asked to stop, and by which signal. Call `install` in the main thread."""

    def __init__(self) -> None:
        self.signal = 0
        self._asked = False

    def __call__(self) -> bool:
        """Whether we were asked."""
        return self.signal != 0

    def install(self) -> Stop:
        """Handle SIGINT and SIGTERM from now on, including any that arrived while blocked.

        What the caller ignores stays ignored: shells start jobs in the background without Ctrl-C.
        """
        for number in STOPPING:
            if signal.getsignal(number) is not signal.SIG_IGN:
                signal.signal(number, self._handle)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)
        if _asked:
            self.ask(_asked[0])
        return self

    @contextlib.contextmanager
    def listening(self) -> Iterator[Stop]:
        """Handle the signals for as long as the context lasts, in the main thread; in others, don't."""
        with _handlers_restored() as before:
            yield self.install() if before else self

    def ask(self, number: int = signal.SIGTERM) -> None:
        """Ask to stop as if the signal had arrived."""
        self.signal = self.signal or number

    @property
    def exit_code(self) -> int:
        """What a process that stopped for the signal exits with."""
        return EXIT_SIGNAL + self.signal

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._asked = True
        self.ask(number)
