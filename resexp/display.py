"""How a sweep is shown while it runs: live bars on a terminal, a bounded number of plain lines elsewhere."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.text import Text

from resexp.utils.logs import log

if TYPE_CHECKING:  # the command line shows states before it needs pydantic
    from resexp.runs.records import Status
    from resexp.runs.store import Run

STYLES = {
    "finished": "green",
    "running": "cyan",
    "queued": "blue",
    "interrupted": "yellow",
    "pending": "dim",
    "diverged": "red",
    "failed": "red",
}
"""How a terminal with colours shows each state."""


def state_text(state: str, text: str = "") -> Text:
    """A state, or a text about it, in the state's colour. Consoles leave colours out for NO_COLOR and TERM=dumb."""
    return Text(text or state, style=STYLES[state])


def state_counts(counts: Mapping[str, int]) -> Text:
    """``12 finished, 2 running``, each in its colour."""
    return Text(", ").join(state_text(state, f"{counts[state]:,} {state}") for state in STYLES if state in counts)


def percent(fraction: float | None, digits: int = 1) -> str:
    """``12.3 %``, or nothing."""
    return "" if fraction is None else f"{100 * fraction:.{digits}f} %"


def clock(seconds: float | None) -> str:
    """Hours, minutes and seconds, such as ``0:02:03``, or nothing."""
    if seconds is None:
        return ""
    minutes, second = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{second:02}"


def speed(status: Status) -> str:
    """``1,234 img/s``, or nothing."""
    return "" if status.images_per_second is None else f"{status.images_per_second:,.0f} img/s"


class Display:
    """Shows a sweep while it runs, in at most five lines per run: when it begins, after each quarter of its steps, and
    when it ends. The time left is estimated from the cost done so far."""

    def sweep(self, runs: Sequence[tuple[Run, float]], skipped: int) -> AbstractContextManager[object]:
        """Show the sweep of these runs, each with its cost, until the context that is returned ends."""
        log.info(f"{len(runs)} to train, {skipped} finished before")
        self._begin(runs)
        return nullcontext()

    def _begin(self, runs: Sequence[tuple[Run, float]]) -> None:
        self.runs, self.ended_runs = len(runs), 0
        self.cost = {run.folder: cost for run, cost in runs}
        self.done = {run.folder: run.status().share * cost for run, cost in runs}
        self.started, self.done_at_start = time.monotonic(), sum(self.done.values())
        self.quarters: dict[Path, int] = {}

    def update(self, running: list[Run]) -> None:
        """Show where these runs are."""
        for run in running:
            status = self._status(run)
            quarter = int(4 * status.share)
            if status.steps and quarter < 4 and quarter > self.quarters.get(run.folder, -1):
                self.quarters[run.folder] = quarter
                error, left = percent(status.train_error), clock(self._left)
                words = (error and f"training error {error}", speed(status), left and f"{left} left in all")
                log.info(", ".join([f"{run.title}: step {status.step:,}/{status.steps:,}", *filter(None, words)]))

    def ended(self, run: Run, problem: str) -> None:
        """Show that a run has ended, and the problem if there was one."""
        status = self._status(run)
        if status.state in ("finished", "diverged", "failed"):  # one that was stopped still has work left
            self.done[run.folder] = self.cost[run.folder]
            self.ended_runs += 1
        if not problem:
            problem = (
                f"finished; training error {percent(status.running_train_error)} running, "
                f"{percent(status.clean_train_error)} clean; test error {percent(status.test_error)}"
            )
        log.info(f"{self._count}{run.title}: {problem}")

    @property
    def _count(self) -> str:
        return f"[{self.ended_runs}/{self.runs}] "

    def _status(self, run: Run) -> Status:
        """The status of a run, whose share of the work is noted."""
        status = run.status()
        self.done[run.folder] = self.cost[run.folder] * status.share
        return status

    @property
    def _left(self) -> float | None:
        """Seconds, or None before anything is known."""
        done = sum(self.done.values())
        gained = done - self.done_at_start
        return (time.monotonic() - self.started) * (sum(self.cost.values()) - done) / gained if gained > 0 else None


class Bars(Display):
    """One live bar per running run, and the sweep's own, which counts the runs."""

    _count = ""

    def __init__(self, console: Console) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[where]}"),
            TextColumn("{task.fields[error]}", style="bold"),
            TextColumn("{task.fields[speed]}"),
            TextColumn("{task.fields[left]}", style="cyan"),
            console=console,
            expand=True,
            auto_refresh=False,  # a second thread loses lines that are printed while it draws
        )
        self.tasks: dict[Path, TaskID] = {}

    def sweep(self, runs: Sequence[tuple[Run, float]], skipped: int) -> Progress:
        """Show the sweep of these runs, each with its cost, until the context that is returned ends."""
        if skipped:
            log.info(f"{skipped} finished before")
        self._begin(runs)
        self.whole = self._add(f"[bold]{'sweep' if self.runs > 1 else 'run'}", sum(self.cost.values()))
        return self.progress

    def _add(self, name: str, total: float) -> TaskID:
        return self.progress.add_task(name, total=total, where="", error="", speed="", left="")

    def update(self, running: list[Run]) -> None:
        """Show where these runs are."""
        rate = 0.0
        for run in running:
            status = self._status(run)
            if not status.steps:
                continue
            if run.folder not in self.tasks:
                self.tasks[run.folder] = self._add(escape(run.title), status.steps)
            rate += status.images_per_second or 0
            self.progress.update(
                self.tasks[run.folder],
                completed=status.step,
                where=f"{status.step:,}/{status.steps:,}",
                error=f"train {percent(status.train_error)}" if status.train_error is not None else "",
                speed=speed(status),
                left=clock(status.eta),
            )
        self.progress.update(
            self.whole,
            completed=sum(self.done.values()),
            where=f"{self.ended_runs}/{self.runs} runs",
            speed=f"{rate:,.0f} img/s" if rate else "",
            left=clock(self._left),
        )
        self.progress.refresh()

    def ended(self, run: Run, problem: str) -> None:
        """Turn the run's bar into a line."""
        if run.folder in self.tasks:
            self.progress.remove_task(self.tasks.pop(run.folder))
        super().ended(run, problem)
        self.update([])


def make_display(console: Console) -> Display:
    """Bars on a terminal; lines on a pipe, in CI, and on a terminal that can't redraw."""
    redraws = console.is_terminal and not console.is_dumb_terminal and not os.environ.get("CI")
    return Bars(console) if redraws else Display()
