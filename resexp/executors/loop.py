"""THE loop of a sweep: start jobs as there is room, hear how their runs go, try again what the machine broke."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from resexp.config import ExecutorConfig
from resexp.errors import UserError
from resexp.executors.engine import End, Engine, Event, Handle, Job
from resexp.runs import lease
from resexp.runs.store import Run
from resexp.utils.interrupts import Stop

log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Live:
    """A job at work: which of its runs it has not begun, and which it has not ended, with their last signs of life."""

    handle: Handle
    waiting: list[Run]
    running: dict[Path, tuple[Run, float, float]]
    """By folder: the run, its last sign of life by the file system's clock, and when it was seen by ours."""
    began: bool = False
    heard: float | None = None
    """When it told something last; None before it is at work."""


class Loop:
    """Trains runs by an engine, until they all have ended or it is asked to stop."""

    def __init__(
        self,
        engine: Engine,
        config: ExecutorConfig,
        *,
        fail_fast: bool = False,
        stop: Stop,
        tick: Callable[[list[Run]], None],
        ended: Callable[[Run, str], bool],
    ) -> None:
        """`tick` hears the runs in progress now and then, `ended` each run that is over, with what went wrong; it
        answers whether the run is finished. When `stop` is asked, or a run did not finish under `fail_fast`, the others
        are asked to save and end."""
        self._engine, self._config, self._fail_fast, self._stop = engine, config, fail_fast, stop
        self._tick, self._ended = tick, ended
        self._queue, self._live = list[Job](), list[_Live]()
        self._tries = Counter[Path]()
        self._failed = self._asked = False

    def train(self, todo: Sequence[tuple[Run, float]], *, wait: bool = True) -> int:
        """Train these runs, each given with its cost. Unless asked to `wait`, leave them to the engine.

        Returns how many are left to it: still queued or at work, without us.
        """
        self._live = [_follow(handle) for handle in self._engine.find([run for run, _ in todo])]
        found = {run.folder for live in self._live for run in live.waiting}
        self._queue, capacity = self._engine.plan([item for item in todo if item[0].folder not in found])
        try:
            while self._queue or self._live:
                if (self._stop() or (self._failed and self._fail_fast)) and not self._asked:
                    self._ask()
                self._start(capacity)
                if self._engine.outlives and (self._stop() or not wait):
                    break
                self._engine.wait([live.handle for live in self._live])
                for live in list(self._live):
                    self._attend(live)
                self._tick([run for live in self._live for run, _, _ in live.running.values()])
        except BaseException as error:
            if not self._engine.outlives:
                for live in self._live:  # a second Ctrl-C is not to be waited for; anything else is not their fault
                    (live.handle.kill if isinstance(error, KeyboardInterrupt) else live.handle.stop)()
            raise
        return sum(len(live.waiting) + len(live.running) for live in self._live)

    def _ask(self) -> None:
        self._asked = True
        self._queue.clear()
        if not (self._engine.outlives and self._stop()):
            for live in self._live:
                live.handle.stop()

    def _start(self, capacity: int) -> None:
        room, starting = capacity - sum(live.handle.job.cores for live in self._live), list[Job]()
        while self._queue and self._queue[0].cores <= room:
            starting.append(self._queue.pop(0))
            room -= starting[-1].cores
        if starting:
            try:
                self._live += map(_follow, self._engine.start(starting))
            except UserError as error:
                if not self._live:
                    raise
                self._queue[:0] = starting  # running jobs must still be followed
                log.warning(f"{error}; asked again")

    def _attend(self, live: _Live) -> None:
        end = live.handle.poll()  # asked before listening: then nothing that it told can be missed
        for event in live.handle.events():
            self._heard(live, event)
        if end is None:
            self._listen_for_life(live)
            return
        self._live.remove(live)
        at_work = [run for run, _, _ in live.running.values()]
        blamed = at_work if live.began or self._asked else live.waiting
        untouched = live.waiting if live.began else []
        again = [run for run in blamed if self._try_again(run, end)]
        for run in blamed:
            if run not in again:
                self._over(run, end.words)
        if (left := (*again, *untouched)) and not self._asked:
            self._queue.insert(0, replace(live.handle.job, runs=left))

    def _heard(self, live: _Live, event: Event) -> None:
        run, live.heard = event.run, time.monotonic()
        if event.kind == "here":
            return
        if event.kind == "log":
            log.info(event.text)
        elif event.kind == "began":
            live.began = True
            if run in live.waiting:  # or it is tried again alone, for want of memory
                live.waiting.remove(run)
            live.running[run.folder] = (run, 0.0, time.monotonic())
        else:
            live.began = True
            live.running.pop(run.folder, None)
            if run in live.waiting:
                live.waiting.remove(run)
            if event.kind == "lost" and self._try_again(run, End(event.text, fault=True)):
                self._queue.insert(0, replace(live.handle.job, runs=(run,)))
            else:
                self._over(run, event.text)

    def _over(self, run: Run, said: str) -> None:
        self._failed = not self._ended(run, said) or self._failed

    def _try_again(self, run: Run, end: End) -> bool:
        """Whether a fault is worth another try, which is then counted and said."""
        if not end.fault or self._asked or self._tries[run.folder] == self._config.retries:
            return False
        self._tries[run.folder] += 1
        number = f"{self._tries[run.folder]} of {self._config.retries}"
        log.warning(f"{run.name}, at step {run.status().step}: {end.words}; tried again ({number})")
        return True

    def _listen_for_life(self, live: _Live) -> None:
        """Kill a job one of whose runs has been silent for too long."""
        now = time.monotonic()
        if self._engine.outlives:
            return  # its own time limit ends what hangs there
        if live.heard and not live.running and now >= live.heard + self._config.heartbeat_timeout:
            name = live.handle.job.runs[0].name
            log.warning(f"{name}: its job has done nothing for {now - live.heard:.0f} s; it is killed")
            live.handle.kill()
            live.heard = now
        for folder, (run, beat, seen) in live.running.items():
            if now < seen + self._config.heartbeat_timeout / 10:
                continue  # no need to look
            if (latest := lease.last_heartbeat(folder)) != beat:
                live.running[folder] = (run, latest, now)
            elif now >= seen + self._config.heartbeat_timeout:
                log.warning(f"{run.name}: no sign of life for {now - seen:.0f} s; its job is killed")
                live.handle.kill()
                live.running[folder] = (run, beat, now)


def _follow(handle: Handle) -> _Live:
    return _Live(handle, list(handle.job.runs), {})
