"""What an executor must be able to do: plan jobs, start them, and say how each goes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

from resexp.runs.store import Run


@dataclass(frozen=True)
class Job:
    """What is started as one: some runs, in this order."""

    runs: tuple[Run, ...]
    cores: int = 1
    """How much it takes of what the engine has to give."""
    threads: int | None = None
    """CPU threads of a run that begins; None: as many as torch takes."""
    gpu: str | None = None
    """A device in the words of CUDA_VISIBLE_DEVICES; None: all visible ones."""
    pack: int | None = 1
    """Runs side by side; None: as many as pay."""


Kind = Literal["here", "log", "began", "ended", "lost"]
"""Kinds of events. `here`: the job has started. `lost`: a machine fault ended the run."""


class Event(NamedTuple):
    """What a job tells of one of its runs."""

    kind: Kind
    run: Run
    text: str = ""
    """The message; for a run that ended unfinished, what went wrong."""


class End(NamedTuple):
    """How a job ended."""

    words: str = ""
    """What went wrong."""
    fault: bool = False
    """Whether it was the machine, so that it is worth trying again."""


class Handle(Protocol):
    """A job that was started."""

    job: Job

    def poll(self) -> End | None:
        """How it ended; None while it is queued or at work."""

    def events(self) -> list[Event]:
        """What it told since the last call."""

    def stop(self) -> None:
        """Ask it to save and end."""

    def kill(self) -> None:
        """End it at once."""


class Engine(Protocol):
    """What jobs run on."""

    outlives: bool
    """Whether jobs outlive the sweep that started them."""

    def plan(self, todo: Sequence[tuple[Run, float]]) -> tuple[list[Job], int]:
        """Jobs for the runs, each given with its cost, in the order of starting; and how many of their cores there are
        to give at a time."""

    def find(self, runs: Sequence[Run]) -> list[Handle]:
        """Jobs that an earlier sweep started, and that are to train some of these runs or are at it."""

    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        """Start them all."""

    def wait(self, handles: Sequence[Handle]) -> None:
        """Wait a moment, less if one of them has something to tell."""
