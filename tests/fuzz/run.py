"""Giving readers their cases."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import warnings
from collections.abc import Iterator
from types import FrameType

from resexp.errors import MAX_LINE, UserError, sanitize
from tests.fuzz.readers import Reader

CASES = int(os.environ.get("RESEXP_FUZZ_CASES", "2000"))
LIMIT_S = 20.0
"""CPU time for a case; the slowest good one, a whole report, takes a quarter of it. Of waiting, five times as much."""


class Hang(BaseException):
    """A reader took longer than LIMIT_S."""


class Failure(AssertionError):
    """A reader ended as none may."""


def cases_of(reader: Reader, readers: dict[str, Reader], cases: int = CASES) -> int:
    """How many of the cases are this reader's."""
    return max(1, round(cases * reader.share / sum(other.share for other in readers.values())))


def case(name: str, reader: Reader, number: int) -> bytes:
    """Case `number` of a reader; the first are its seeds, if it has them `unchanged`."""
    rng = random.Random(f"{name}/{number}")
    if reader.unchanged and number < len(reader.seeds):
        return reader.seeds[number]
    return reader.mutate(rng, rng.choice(reader.seeds), reader.seeds)


def give(name: str, reader: Reader, number: int) -> None:
    """Let the reader read one case. Raises Failure."""
    content = case(name, reader, number)
    try:
        with _limited(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            reader.read(content)
    except UserError as error:
        for line in error.args:
            assert line == sanitize(line).replace("\n", " ")[:MAX_LINE], repr(line)
    except OSError:
        pass
    except (Exception, Hang) as error:
        again = f"python -m tests.fuzz {name} {number}"
        raise Failure(f"{again}: {type(error).__name__}: {error}\n{content[:600]!r}") from error


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def too_long(signum: int, frame: FrameType | None) -> None:
        raise Hang(f"over {LIMIT_S} s of CPU time, or five times as long")

    clocks = {signal.ITIMER_PROF: (signal.SIGPROF, LIMIT_S), signal.ITIMER_REAL: (signal.SIGALRM, 5 * LIMIT_S)}
    before = {sign: signal.signal(sign, too_long) for sign, _ in clocks.values()}
    for clock, (_, seconds) in clocks.items():
        signal.setitimer(clock, seconds, 1.0)  # again and again: where it is raised first, it may be swallowed
    try:
        yield
    finally:
        for clock in clocks:
            signal.setitimer(clock, 0)
        for sign, handler in before.items():
            signal.signal(sign, handler)
