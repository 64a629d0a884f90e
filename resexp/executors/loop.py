"""The main loop of a sweep: start jobs when slots are free, follow their runs, and retry runs after machine faults."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from resexp.config import ExecutorConfig
from resexp.errors import UserError
from resexp.executors.base import End, Event, Executor, Handle, Job
from resexp.runs import lease
from resexp.runs.store import Run
from resexp.utils.interrupts import Stop

log = logging.getLogger(__name__)


class _Active:
    """A job that was started: its runs that wait, and its runs at work."""

    def __init__(self, handle: Handle) -> None:
        self.handle, self.waiting = handle, list(handle.job.runs)
        self.running: dict[Path, tuple[Run, float, float]] = {}
        """By folder: the run, its last heartbeat by the file system's clock, and when we noticed it by ours."""
        self.began = False
        self.last_event: float | None = None
        """When its last event came; None before it is at work."""


class SweepLoop:
    """Trains runs by an executor, until they all have ended or it is asked to stop."""

    def __init__(
        self,
        executor: Executor,
        config: ExecutorConfig,
        *,
        fail_fast: bool = False,
        stop: Stop,
        tick: Callable[[list[Run]], None],
        ended: Callable[[Run, str], bool],
    ) -> None:
        """`tick` is called periodically with the running runs, `ended(run, error)` for each run that ended; it returns
        whether the run is finished. On `stop`, or when a run did not finish under `fail_fast`, the others save and end.
        """
        self._executor, self._config, self._fail_fast, self._stop = executor, config, fail_fast, stop
        self._tick, self._ended = tick, ended
        self._queue, self._active = list[Job](), list[_Active]()
        self._tries = Counter[Path]()
        self._failed = self._stopping = False

    def train(self, todo: Sequence[tuple[Run, float]], *, wait: bool = True) -> int:
        """Train runs, given with their cost. With `wait=False`, return once they are submitted.

        Returns the number of runs that are still queued or running on the cluster.
        """
        self._active = [_Active(handle) for handle in self._executor.find([run for run, _ in todo])]
        found = {run.folder for job in self._active for run in job.waiting}
        left = [(run, cost * (1 - run.status().share)) for run, cost in todo if run.folder not in found]
        self._queue, capacity = self._executor.plan(left)
        try:
            while self._queue or self._active:
                if (self._stop() or (self._failed and self._fail_fast)) and not self._stopping:
                    self._stop_all()
                self._start(capacity)
                if self._executor.outlives and (self._stop() or not wait):
                    break
                self._executor.wait([job.handle for job in self._active])
                for job in list(self._active):
                    self._poll_job(job)
                self._tick([run for job in self._active for run, _, _ in job.running.values()])
        except BaseException as error:
            if not self._executor.outlives:
                for job in self._active:  # after a second Ctrl-C nothing is waited for
                    (job.handle.kill if isinstance(error, KeyboardInterrupt) else job.handle.stop)()
            raise
        return sum(len(job.waiting) + len(job.running) for job in self._active)

    def _stop_all(self) -> None:
        self._stopping = True
        self._queue.clear()
        if not (self._executor.outlives and self._stop()):
            for job in self._active:
                job.handle.stop()

    def _start(self, capacity: int) -> None:
        room, starting = capacity - sum(job.handle.job.cores for job in self._active), list[Job]()
        while self._queue and self._queue[0].cores <= room:
            starting.append(self._queue.pop(0))
            room -= starting[-1].cores
        if starting:
            try:
                self._active += map(_Active, self._executor.start(starting))
            except UserError as error:
                if not self._active:
                    raise
                self._queue[:0] = starting  # running jobs must still be followed
                log.warning(f"{error}; asked again")

    def _poll_job(self, job: _Active) -> None:
        end = job.handle.poll()  # before the events: then none of them can be missed
        for event in job.handle.events():
            self._on_event(job, event)
        if end is None:
            self._check_heartbeats(job)
            return
        self._active.remove(job)
        at_work = [run for run, _, _ in job.running.values()]
        blamed = at_work if job.began or self._stopping else job.waiting
        untouched = job.waiting if job.began else []
        again = []
        for run in blamed:
            if self._claim_retry(run, end):
                again.append(run)
            else:
                self._over(run, end.error)
        if (left := (*again, *untouched)) and not self._stopping:
            self._queue.insert(0, replace(job.handle.job, runs=left))

    def _on_event(self, job: _Active, event: Event) -> None:
        run, job.last_event = event.run, time.monotonic()
        if event.kind == "log":
            log.info(event.text)
        if event.kind in ("here", "log"):
            return
        job.began = True
        if run in job.waiting:  # not there if the worker trains it again alone, after it ran out of memory
            job.waiting.remove(run)
        if event.kind == "began":
            job.running[run.folder] = (run, 0.0, job.last_event)
            return
        job.running.pop(run.folder, None)
        if event.kind == "lost" and self._claim_retry(run, End(event.text, retry=True)):
            self._queue.insert(0, replace(job.handle.job, runs=(run,)))
        else:
            self._over(run, event.text)

    def _over(self, run: Run, error: str) -> None:
        self._failed = not self._ended(run, error) or self._failed

    def _claim_retry(self, run: Run, end: End) -> bool:
        """Count and log another try of the run, if it gets one. Returns whether it does."""
        if not end.retry or self._stopping or self._tries[run.folder] == self._config.retries:
            return False
        self._tries[run.folder] += 1
        number = f"{self._tries[run.folder]} of {self._config.retries}"
        log.warning(f"{run.name}, at step {run.status().step}: {end.error}; tried again ({number})")
        return True

    def _check_heartbeats(self, job: _Active) -> None:
        """Kill a job one of whose runs has been silent for too long."""
        now = time.monotonic()
        if self._executor.outlives:
            return  # its own time limit ends what hangs there
        if job.last_event and not job.running and now >= job.last_event + self._config.heartbeat_timeout:
            name = job.handle.job.runs[0].name
            log.warning(f"{name}: its job has done nothing for {now - job.last_event:.0f} s; it is killed")
            job.handle.kill()
            job.last_event = now
        for folder, (run, beat, seen) in job.running.items():
            if now < seen + self._config.heartbeat_timeout / 10:
                continue
            if (latest := lease.last_heartbeat(folder)) != beat:
                job.running[folder] = (run, latest, now)
            elif now >= seen + self._config.heartbeat_timeout:
                log.warning(f"{run.name}: no sign of life for {now - seen:.0f} s; its job is killed")
                job.handle.kill()
                job.running[folder] = (run, beat, now)
