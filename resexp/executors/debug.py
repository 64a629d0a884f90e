"""Training in the process of the sweep, one run after the other: breakpoints and prints work."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence

from resexp.executors.engine import End, Event, Handle, Job
from resexp.runs.records import Status
from resexp.runs.store import Run

TURN_S = 0.5
"""Seconds of training between updates of the display."""


class Debug:
    """The engine of this process."""

    outlives = False

    def plan(self, todo: Sequence[tuple[Run, float]]) -> tuple[list[Job], int]:
        """One job per run, in the order of the study; one at a time."""
        return [Job((run,)) for run, _ in todo], 1

    def find(self, runs: Sequence[Run]) -> list[Handle]:
        """None: runs end with their sweep."""
        return []

    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        """Prepare each job; `_Here.events` trains it."""
        return [_Here(job) for job in jobs]

    def wait(self, handles: Sequence[Handle]) -> None:
        """Nothing to wait for."""


class _Here:
    """A job in this process."""

    def __init__(self, job: Job) -> None:
        from resexp.training.concurrent_runs import ConcurrentRuns

        self.job = job
        self._events = deque[Event]()
        self._stop = self._over = False
        runs = ConcurrentRuns(
            job.runs,
            size=1,
            threads=None,
            stop=lambda: self._stop,
            began=lambda run: self._events.append(Event("began", run)),
            ended=self._ended,
        )
        self._turns = runs.turns()

    def _ended(self, run: Run, outcome: Status | Exception) -> None:
        self._events.append(Event("ended", run, f"{outcome}" if isinstance(outcome, Exception) else ""))

    def poll(self) -> End | None:
        """How it ended."""
        return End() if self._over and not self._events else None

    def events(self) -> list[Event]:
        """Train for a moment; the events of it."""
        until = time.monotonic() + TURN_S
        while not self._over and time.monotonic() < until:
            self._over = next(self._turns, self) is self
        events = list(self._events)
        self._events.clear()
        return events

    def stop(self) -> None:
        """Ask it to save and end."""
        self._stop = True

    def kill(self) -> None:
        """Ask it to save and end; a debugger may have held it for long."""
        self._stop = True
