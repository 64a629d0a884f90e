"""The main loop of a sweep: start jobs when slots are free, follow their runs, and retry runs after machine faults."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from resexp.config import ExecutorConfig
from resexp.errors import UserError
from resexp.executors.base import End, Event, Executor, Handle, Job
from resexp.runs import lease
from resexp.runs.store import Run
from resexp.utils.interrupts import Stop
from resexp.utils.logs import log


class _StartedJob:
    """A started job, with its waiting and its running runs."""

    def __init__(self, handle: Handle) -> None:
        self.handle, self.job, self.waiting = handle, handle.job, list(handle.job.runs)
        self.running = list[Run]()
        self.heartbeats = list[float]()
        """The last ones of the running runs, by the file system's clock."""
        self.last_sign: float | None = None
        """When we last noticed an event or a heartbeat, by our clock; None before it is at work."""


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
        on_ended: Callable[[Run, str], bool],
    ) -> None:
        """`tick` is called periodically with the running runs, `on_ended(run, error)` for each run that ended; it
        returns whether the run is finished. On `stop`, or when a run did not finish under `fail_fast`, the others save
        and end.
        """
        self._executor, self._config, self._fail_fast, self._stop = executor, config, fail_fast, stop
        self._tick, self._on_ended = tick, on_ended
        self._queue, self._started = list[Job](), list[_StartedJob]()
        self._retries = Counter[Run]()
        self._failed = self._stopping = False

    def train(self, todo: Sequence[tuple[Run, float]], *, wait: bool = True) -> int:
        """Train runs, given with their cost. With `wait=False`, return once they are submitted.

        Returns the number of runs that are still queued or running on the cluster.
        """
        self._started = [_StartedJob(handle) for handle in self._executor.find_jobs([run for run, _ in todo])]
        found = {run.folder for started in self._started for run in started.waiting}
        left = [(run, cost * (1 - run.status().share)) for run, cost in todo if run.folder not in found]
        self._queue, slots = self._executor.make_jobs(left)
        try:
            while self._queue or self._started:
                if (self._stop() or (self._failed and self._fail_fast)) and not self._stopping:
                    self._stop_all()
                self._start(slots - sum(started.job.slots for started in self._started))
                if self._executor.outlives and (self._stop() or not wait):
                    break
                self._executor.wait([started.handle for started in self._started])
                for started in list(self._started):
                    self._poll_job(started)
                self._tick([run for started in self._started for run in started.running])
        except BaseException as error:
            if not self._executor.outlives:
                for started in self._started:  # after a second Ctrl-C nothing is waited for
                    (started.handle.kill if isinstance(error, KeyboardInterrupt) else started.handle.stop)()
            raise
        return sum(len(started.waiting) + len(started.running) for started in self._started)

    def _stop_all(self) -> None:
        self._stopping = True
        self._queue.clear()
        if not (self._executor.outlives and self._stop()):
            for started in self._started:
                started.handle.stop()

    def _start(self, room: int) -> None:
        """Start the next jobs, as many as find `room` in free slots."""
        starting = list[Job]()
        while self._queue and self._queue[0].slots <= room:
            starting.append(self._queue.pop(0))
            room -= starting[-1].slots
        if starting:
            try:
                self._started += map(_StartedJob, self._executor.start(starting))
            except UserError as error:
                if not self._started:
                    raise
                self._queue[:0] = starting  # running jobs must still be followed
                log.warning(f"{error}; asked again")

    def _poll_job(self, started: _StartedJob) -> None:
        events, end = started.handle.poll()
        for event in events:
            self._on_event(started, event)
        if end is None:
            self._check_heartbeats(started)
            return
        self._started.remove(started)
        if len(started.waiting) < len(started.job.runs) or self._stopping:
            again = self._end_or_retry(started.running, end) + started.waiting
        else:
            again = self._end_or_retry(started.waiting, end)
        if not self._stopping:
            self._enqueue_first(started.job, again)

    def _on_event(self, started: _StartedJob, event: Event) -> None:
        run, started.last_sign = started.job.runs[event.run_index], time.monotonic()
        if event.kind == "log":
            if event.text:
                log.info(event.text)
            return
        for runs in (started.waiting, started.running):  # a run that ran out of memory begins twice
            if run in runs:
                runs.remove(run)
        if event.kind == "run_began":
            started.running.append(run)
        else:
            self._enqueue_first(started.job, self._end_or_retry([run], End(event.text, event.retry)))

    def _end_or_retry(self, runs: Iterable[Run], end: End) -> list[Run]:
        """Returns the runs that get another try, after counting and logging it; the others have ended."""
        again = []
        for run in runs:
            if end.retry and not self._stopping and self._retries[run] < self._config.retries:
                self._retries[run] += 1
                number = f"{self._retries[run]} of {self._config.retries}"
                log.warning(f"{run.title}, at step {run.status().step}: {end.error}; tried again ({number})")
                again.append(run)
            elif not self._on_ended(run, end.error):
                self._failed = True
        return again

    def _enqueue_first(self, job: Job, runs: Sequence[Run]) -> None:
        """Put these runs of a job in front of the queue, if there are any."""
        if runs:
            self._queue.insert(0, replace(job, runs=tuple(runs)))

    def _check_heartbeats(self, started: _StartedJob) -> None:
        """Kill a job that has been silent for too long. One process trains its runs in turns, so a heartbeat of any of
        them is one of the job."""
        now, timeout = time.monotonic(), self._config.heartbeat_timeout
        if self._executor.outlives or started.last_sign is None or now < started.last_sign + timeout / 10:
            return  # where jobs outlive the sweep, a time limit of their own ends what hangs
        heartbeats = [lease.last_heartbeat(run.folder) for run in started.running]
        if heartbeats != started.heartbeats:
            started.heartbeats, started.last_sign = heartbeats, now
        elif (silence := now - started.last_sign) >= timeout:
            name = (started.running or started.job.runs)[0].title
            log.warning(f"{name}: no heartbeat for {silence:.0f} s; its job is killed")
            started.handle.kill()
            started.last_sign = now
