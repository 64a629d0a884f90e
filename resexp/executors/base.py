"""What an executor must be able to do: plan jobs, start them, and report how each goes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from resexp.runs.store import Run


@dataclass(frozen=True)
class Job:
    """Runs that one worker process or cluster job trains, in this order."""

    runs: tuple[Run, ...]
    cores: int = 1
    """Slots that it takes: CPU cores of this machine, otherwise 1."""
    threads: int | None = None
    """CPU threads of a new run; None: PyTorch's default."""
    gpu: str | None = None
    """A device as CUDA_VISIBLE_DEVICES names it; None: all visible ones."""
    pack: int | None = 1
    """Runs trained concurrently in the process; None: as many as increase the throughput."""


Kind = Literal["here", "log", "began", "ended", "lost"]
"""Kinds of events. `here`: the job has started. `lost`: the machine failed."""


class Event(NamedTuple):
    """What happened to a run of a job."""

    kind: Kind
    run: Run
    text: str = ""
    """The message; for a run that ended unfinished, what went wrong."""


class End(NamedTuple):
    """How a job ended."""

    error: str = ""
    """What went wrong."""
    retry: bool = False
    """Whether the machine failed, so that it is worth trying again."""


class Handle(ABC):
    """A job that was started."""

    job: Job

    @abstractmethod
    def poll(self) -> End | None:
        """How it ended; None while it is queued or at work."""

    @abstractmethod
    def events(self) -> list[Event]:
        """Events since the last call."""

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
    def plan(self, todo: Sequence[tuple[Run, float]]) -> tuple[list[Job], int]:
        """Returns the jobs in order of starting, and the number of slots. `todo`: runs with their remaining cost."""

    def find(self, runs: Sequence[Run]) -> list[Handle]:
        """Jobs of an earlier sweep that are queued or running and train some of these runs."""
        return []

    @abstractmethod
    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        """Start them all."""

    @abstractmethod
    def wait(self, handles: Sequence[Handle]) -> None:
        """Wait a moment, less if one of them has events."""
