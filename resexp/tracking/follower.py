"""Sends the lines of metrics.jsonl to trackers, each line once, also across sweeps.

Where a sweep is killed, its successor may pass on the lines of the last second again.
"""

from __future__ import annotations

import contextlib
import math
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from resexp.config.section import flat
from resexp.config.study import load_run
from resexp.errors import RunFailedError, UserError
from resexp.runs.store import Run, StudyFolder
from resexp.tracking.adapters import TRACKERS, Scalars, TrackedRun, Tracker
from resexp.utils.files import locked
from resexp.utils.logs import log
from resexp.utils.untrusted import Count, JsonRecord, parse_json, read_record

LOOK_S = 1.0
"""Seconds between reads of the metrics of a run."""


class Sent(JsonRecord):
    """What has been sent to a tracker for a run."""

    lines: Count = 0
    id: str = ""
    """See `Tracker.id`."""
    over: bool = False
    """Whether it has the final numbers."""


class Tracked(JsonRecord):
    """tracked.json in a run folder: what was passed on, by tracker."""

    trackers: dict[str, Sent] = Field(default_factory=dict)


@dataclass
class _Followed:
    """A run, how far its metrics were read, and its open trackers."""

    run: Run
    tracked: Tracked = field(default_factory=Tracked)
    open: dict[str, Tracker] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    file: int = -1
    offset: int = 0
    lines: int = 0
    read_at: float = -math.inf

    def new_lines(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """The number, from 0, and the record of each whole line since the last call.

        Every attempt at a run begins with a new file, which has the lines before its checkpoint again.
        """
        self.read_at = time.monotonic()
        try:
            with self.run.metrics_path.open("rb") as file:
                if (number := os.fstat(file.fileno()).st_ino) != self.file:
                    self.file, self.offset, self.lines = number, 0, 0
                file.seek(self.offset)
                content = file.read()
        except FileNotFoundError:
            return
        whole = content[: content.rfind(b"\n") + 1]
        self.offset += len(whole)
        for line in whole.splitlines():
            yield self.lines, parse_json(line)
            self.lines += 1

    def save(self) -> None:
        if self.tracked.trackers:
            self.run.publish(_path(self.run), self.tracked.model_dump_json(indent=1), sync=False)


class Follower:
    """Passes the metrics of a study's runs on to trackers.

    A tracker that fails is left alone for the rest of the run, and a warning is logged. What it has not got then, the
    next sweep or `resexp export STUDY --track` passes on.
    """

    def __init__(self, folder: Path, trackers: Sequence[str]) -> None:
        self._folder, self._trackers = folder, list(dict.fromkeys(trackers))
        self._followed: dict[Path, _Followed] = {}
        self.failures = 0
        """Number of runs and trackers that failed."""

    def update(self, running: Sequence[Run]) -> None:
        """Pass on what runs at work have written, of each once in a while."""
        for run in running if self._trackers else ():
            followed = self._of(run)
            if time.monotonic() >= followed.read_at + LOOK_S:
                self._pass_on(followed)

    def ended(self, run: Run) -> None:
        """Pass on the rest of a run that is over or interrupted."""
        if not self._trackers:
            return
        followed = self._of(run)
        self._pass_on(followed)
        over = run.status().state in ("finished", "diverged")
        for name, sent in followed.tracked.trackers.items():
            if name in self._trackers and name not in followed.failed and not sent.over:
                with self._failing(followed, [name]):
                    self._tracker(followed, name).close(_final(run) if over else None)
                    sent.over = over
        with self._failing(followed, self._trackers):
            followed.save()
        del self._followed[run.folder]

    def close(self) -> None:
        """Pass on what is left of every run, and close its trackers."""
        for followed in list(self._followed.values()):
            self.ended(followed.run)

    def _of(self, run: Run) -> _Followed:
        if run.folder not in self._followed:
            followed = self._followed[run.folder] = _Followed(run)
            with self._failing(followed, self._trackers):
                followed.tracked = read_record(_path(run), Tracked) or Tracked()
        return self._followed[run.folder]

    def _pass_on(self, followed: _Followed) -> None:
        with self._failing(followed, self._trackers):
            lines = list(followed.new_lines())
            for name in self._trackers:
                sent = followed.tracked.trackers.get(name, Sent())
                due = [(number, line) for number, line in lines if number >= sent.lines]
                if due and not sent.over and name not in followed.failed:
                    followed.tracked.trackers[name] = sent
                    with self._failing(followed, [name]):
                        tracker = self._tracker(followed, name)
                        for number, line in due:
                            if values := _numbers(line):
                                tracker.log(line["step"], values)
                            sent.lines = number + 1
            if lines:
                followed.save()

    def _tracker(self, followed: _Followed, name: str) -> Tracker:
        if name not in followed.open:
            run, sent = followed.run, followed.tracked.trackers[name]
            config = load_run(run.config_path).model_dump(mode="json", include={"data", "model", "train", "seed"})
            study, label = self._folder.resolve().name, f"{run.label}-{run.folder.name}"
            settings = {
                key: v if isinstance(v, str | int | float | bool) else str(v) for key, v in flat(config).items()
            }
            tracker = TRACKERS[name](TrackedRun(study, label, settings, self._folder, sent.id))
            sent.id, followed.open[name] = tracker.id, tracker
        return followed.open[name]

    @contextlib.contextmanager
    def _failing(self, followed: _Followed, names: Sequence[str]) -> Iterator[None]:
        """Let an error end nothing but the work of these trackers on a run."""
        try:
            yield
        except Exception as error:  # a network that fails, a service that refuses: no reason to end a sweep
            if names := [name for name in names if name not in followed.failed]:
                followed.failed.update(names)
                self.failures += 1
                why = str(error).partition("\n")[0] or type(error).__name__
                later = f"resexp export {self._folder} " + " ".join(f"--track {name}" for name in names)
                log.warning(f"{followed.run.title}: {', '.join(names)} failed ({why}); to continue: {later}")


def track_study(study: StudyFolder, trackers: Sequence[str]) -> int:
    """Pass on what trackers have not got yet of the runs of a study; returns the number of runs that have metrics.

    Raises UserError while a sweep of the study is at work, and if it has no metrics; RunFailedError if a tracker
    failed.
    """
    with locked(study.lock_path, f"the study in {study.folder}"):
        runs = [run for run in study.runs() if run.metrics_path.exists()]
        if not runs:
            raise UserError(f"{study.folder}: no run has metrics yet; run `resexp sweep` first")
        follower = Follower(study.folder, trackers)
        for run in runs:
            follower.ended(run)
    if follower.failures:
        raise RunFailedError(f"{study.folder}: not all runs were passed on; the same command continues")
    return len(runs)


def _numbers(line: dict[str, Any]) -> Scalars:
    return {
        name: value
        for name, value in line.items()
        if isinstance(value, int | float) and math.isfinite(value) and name != "step"
    }


def _final(run: Run) -> Scalars:
    """The last numbers of evaluations and of the test."""
    lines = [line for line in run.metrics() if line["event"] in ("eval", "test")]
    return {name: value for line in lines for name, value in _numbers(line).items()}


def _path(run: Run) -> Path:
    return run.folder / "tracked.json"
