"""What an executor must be able to do: make jobs of runs, start them, and report how each goes."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from resexp.runs.store import Run


@dataclass(frozen=True)
class Job:
    """Runs that one worker process or cluster job trains, in this order."""

    runs: tuple[Run, ...]
    slots: int = 1
    """Slots that it occupies: CPU cores for processes on this machine's CPU, otherwise 1."""
    threads: int | None = None
    """CPU threads of a new run; None: PyTorch's default."""
    gpu: str | None = None
    """A device as CUDA_VISIBLE_DEVICES names it; None: all visible ones."""
    concurrent_runs: int | None = 1
    """Runs trained at a time in the process; None: as many as increase the throughput."""
    processes: int = 1
    """Processes that share the machine's cores while they feed GPUs."""


class Event(NamedTuple):
    """What happened in a job; the worker sends it to the process of the sweep."""

    kind: Literal["log", "run_began", "run_ended"]
    run_index: int = 0
    """Place of the run in the job; 0 for `log`."""
    text: str = ""
    """The line of the log, if any; for a run that ended unfinished, what went wrong."""
    retry: bool = False
    """Whether the run ended because the machine failed, so that it is worth trying again."""


class End(NamedTuple):
    """How a job ended."""

    error: str = ""
    """What went wrong."""
    retry: bool = False
    """Whether the machine failed."""


class Handle(ABC):
    """A job that was started."""

    job: Job

    @abstractmethod
    def poll(self) -> tuple[list[Event], End | None]:
        """Returns the events since the last call; and how the job ended, after all its events, or None before that."""

    @abstractmethod
    def stop(self) -> None:
        """Ask it to save and end."""

    def kill(self) -> None:
        """End it at once, where that is possible."""
        self.stop()


class Executor(ABC):
    """What jobs run on."""

    outlives = False
    """Whether jobs outlive the sweep that started them."""

    @abstractmethod
    def make_jobs(self, todo: Sequence[tuple[Run, float]]) -> tuple[list[Job], int]:
        """Returns the jobs in order of starting, and the number of slots. `todo`: runs with their remaining cost."""

    def find_jobs(self, runs: Sequence[Run]) -> list[Handle]:
        """Jobs of an earlier sweep that are queued or running and train some of these runs."""
        return []

    @abstractmethod
    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        """Start them all."""

    @abstractmethod
    def wait(self, handles: Sequence[Handle]) -> None:
        """Wait a moment, less if one of them has events."""


def wait_for_release(runs: Sequence[Run], seconds: float, stop: Callable[[], bool] = lambda: False) -> None:
    """Wait until no other attempt holds one of these runs, but no longer than that.

    The workers of a killed sweep end by themselves after their step.
    """
    deadline = time.monotonic() + seconds
    while any(run.is_held() for run in runs) and not stop() and time.monotonic() < deadline:
        time.sleep(0.1)
