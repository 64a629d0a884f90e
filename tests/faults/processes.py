"""Sweeps as processes that can be killed: one of them, or all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path

from resexp.runs.store import Run
from resexp.utils.files import is_locked
from tests.conftest import command


def children(pid: int) -> list[int]:
    """The processes that a process has started, as far as both are alive."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def descendants(pid: int) -> list[int]:
    """All processes that come from a process."""
    return [one for child in children(pid) for one in (child, *descendants(child))]


def kill(*pids: int, number: int = signal.SIGKILL) -> None:
    """Send a signal to processes; one that has ended meanwhile is none the worse."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


class Sweep:
    """A `resexp sweep` in a session of its own."""

    def __init__(self, study: Path, results: Path, *options: object) -> None:
        words = command("sweep", "--config", study, "--results", results, *options)
        self.process = subprocess.Popen(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    @property
    def ended(self) -> bool:
        return self.process.poll() is not None

    def ends_within(self, seconds: float) -> bool:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.ended

    def workers(self, runs: list[Run]) -> list[int]:
        """The processes at work on runs."""
        ours = set(descendants(self.process.pid))
        holders = [holder(run) for run in runs if is_locked(run.lock_path)]
        return sorted({pid for pid in holders if pid in ours})

    def said(self) -> str:
        said, _ = self.process.communicate(timeout=100)
        return said


def holder(run: Run) -> int | None:
    """The process that was the last to lock a run."""
    words = run.lock_path.read_text().split()
    return int(words[1]) if len(words) > 1 else None
