"""Training in the process of the sweep, one run after the other: breakpoints and prints work."""

from __future__ import annotations

import time
from collections.abc import Sequence

from resexp.executors.base import End, Event, Executor, Handle, Job
from resexp.runs.store import Run

TURN_S = 0.5
"""Seconds of training between updates of the display."""


class Debug(Executor):
    """The executor of this process."""

    def plan(self, todo: Sequence[tuple[Run, float]]) -> tuple[list[Job], int]:
        """One job per run, in the order of the study; one at a time."""
        return [Job((run,)) for run, _ in todo], 1

    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        """Prepare each job; `_Here.events` trains it."""
        return [_Here(job) for job in jobs]

    def wait(self, handles: Sequence[Handle]) -> None:
        """Does nothing: jobs run in `_Here.events`."""


class _Here(Handle):
    """A job in this process."""

    def __init__(self, job: Job) -> None:
        from resexp.training.concurrent_runs import ConcurrentRuns

        self.job = job
        self._stop = self._over = False
        self._turns = ConcurrentRuns(job.runs, size=1, threads=None, stop=lambda: self._stop).turns()

    def poll(self) -> End | None:
        return End() if self._over else None

    def events(self) -> list[Event]:
        """Train for a moment; the events of it."""
        until, events = time.monotonic() + TURN_S, list[Event]()
        while not self._over and time.monotonic() < until:
            turn = next(self._turns, None)
            self._over = turn is None
            for run, outcome in turn or ():
                text = f"{outcome}" if isinstance(outcome, Exception) else ""
                events.append(Event("began" if outcome is None else "ended", run, text))
        return events

    def stop(self) -> None:
        """Ask the run to save and end. It does so after its current step, which a debugger may delay."""
        self._stop = True
