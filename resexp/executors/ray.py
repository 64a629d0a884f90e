"""Runs jobs as Ray tasks, on an existing cluster or on one started for this sweep."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from resexp.config import ExecutorConfig, plugins
from resexp.data import data_home
from resexp.errors import UserError
from resexp.executors import schedule
from resexp.executors.base import End, Event, Executor, Handle, Job
from resexp.executors.worker import train
from resexp.runs.store import Run
from resexp.utils.interrupts import Stop
from resexp.utils.logs import log
from resexp.utils.machine import cores

try:
    import ray
except ModuleNotFoundError:
    raise UserError("executor.name: ray is not installed; pip install 'resexp[ray]', or use local") from None

TICK_S = 0.5
STORE_BYTES = 100_000_000
"""Memory for Ray's object store, which stays almost empty."""
ANSWER_S = 10.0
"""Seconds within which a cluster must answer."""


class Ray(Executor):
    """The executor of a Ray cluster."""

    def __init__(self, config: ExecutorConfig) -> None:
        self._config = config

    def make_jobs(self, todo: Sequence[tuple[Run, float]]) -> tuple[list[Job], int]:
        """Jobs of `runs_per_job` runs in the order of starting; Ray decides how many run at a time."""
        settings = self._config.ray
        threads, gpu = max(1, int(settings.cpus)), None if settings.gpus else ""
        at_a_time = self._config.runs_per_gpu if settings.gpus else 1
        chunks = schedule.in_chunks(todo, self._config.runs_per_job)
        if chunks:
            self._connect()
        return [Job(chunk, 1, threads, gpu, at_a_time) for chunk in chunks], self._config.jobs or len(chunks)

    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        """A task for each."""
        size = {"num_cpus": self._config.ray.cpus, "num_gpus": self._config.ray.gpus}
        task = ray.remote(max_calls=1, max_retries=0, num_returns="streaming", **size)(_work)
        handles = list[Handle]()
        for job in jobs:
            there = replace(job, runs=tuple(Run(run.folder.absolute(), run.label) for run in job.runs))
            handles.append(
                _Task(job, task.remote(there, Path.cwd(), data_home().absolute(), os.environ.get(plugins.VARIABLE, "")))
            )
        return handles

    def wait(self, handles: Sequence[Handle]) -> None:
        """Wait until one of them has an event or ends."""
        if tasks := {handle.stream: handle for handle in handles if isinstance(handle, _Task)}:
            ray.wait([*tasks], timeout=TICK_S)
            for stream in ray.wait([*tasks], num_returns=len(tasks), timeout=0)[0]:
                tasks[stream].ready = True

    def _connect(self) -> None:
        address, settings = self._config.ray.address or os.environ.get("RAY_ADDRESS"), dict[str, Any]()
        if address:
            _reach(address)
        else:
            log.info("starting Ray on this machine")
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
            # Ray would leave one in the user's home, which all later clusters would ask for.
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
            settings = {"num_cpus": cores(), "object_store_memory": STORE_BYTES, "_node_ip_address": "127.0.0.1"}
        handler = signal.getsignal(signal.SIGTERM)
        try:
            ray.init(
                address or "local", include_dashboard=None if address else False,
                log_to_driver=False, logging_level=logging.ERROR, ignore_reinit_error=True, **settings,
            )  # fmt: skip
        except (OSError, RuntimeError, ValueError) as error:
            last = f"{error}".strip().rpartition("\n")[2]  # of a traceback that Ray puts in its message
            raise UserError(f"Ray at {address or 'this machine'}: {last}") from None
        finally:
            signal.signal(signal.SIGTERM, handler)  # Ray puts its own in its place
        cpus, gpus = self._config.ray.cpus, self._config.ray.gpus
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
            log.info(f"no node of the Ray cluster has {cpus:g} CPUs and {gpus:g} GPUs; jobs wait until one joins it")


def _reach(address: str) -> None:
    """Raise UserError unless something answers at the address: Ray itself would try for ever."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or "/" in host or not port.isdecimal():
        raise UserError(
            f"executor.ray.address: {address}; expected auto, or HOST:PORT of a cluster that we are a node of"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S).close()
    except (OSError, OverflowError) as error:
        raise UserError(f"executor.ray.address: no Ray cluster answers at {address}: {error}") from None


class _Task(Handle):
    def __init__(self, job: Job, stream: ray.ObjectRefGenerator) -> None:
        self.job, self.stream = job, stream
        self.ready = False
        """Whether the task has new events or has ended. Set by `Ray.wait` in one call, since polling thousands of tasks
        is slow."""
        self._end: End | None = None

    def poll(self) -> tuple[list[Event], End | None]:
        """After the death of a worker or a node, the task is worth another try."""
        events = list[Event]()
        while self.ready and self._end is None:
            try:
                events.append(ray.get(next(self.stream)))
                self.ready = bool(ray.wait([self.stream], timeout=0)[0])
            except StopIteration:
                self._end = End()
            except ray.exceptions.TaskCancelledError:
                self._end = End("it was cancelled", retry=True)
            except ray.exceptions.RayTaskError as error:
                self._end = End(f"{type(error.cause).__name__}: {error.cause}")
            except ray.exceptions.RayError as error:
                self._end = End(f"Ray lost its worker ({type(error).__name__})", retry=True)
        return events, self._end

    def stop(self) -> None:
        """Ask it to save and end: its worker gets Ctrl-C."""
        ray.cancel(self.stream)

    def kill(self) -> None:
        """Kill the task and treat it as ended, without waiting for its worker."""
        ray.cancel(self.stream, force=True)
        self._end = End("it was killed", retry=True)


def _work(job: Job, folder: Path, data: Path, plugin_files: str) -> Iterator[Event]:
    """Train the runs of a job in a worker process of Ray, which ends with the job."""
    stop = Stop().install()
    os.environ["RESEXP_DATA"], os.environ[plugins.VARIABLE] = str(data), plugin_files
    with contextlib.suppress(OSError):  # only relative paths to data need it
        os.chdir(folder)
    if hidden := [run for run in job.runs if not run.config_path.exists()]:
        where = f"{hidden[0].folder} is not there on {os.uname().nodename}"
        for index in range(len(job.runs)):
            shared = "all nodes of a Ray cluster must see the results on a shared file system"
            yield Event("run_ended", index, f"{where}: {shared}")
        return
    events = train(job, stop)
    try:
        for event in events:
            if not stop():  # Ray accepts no more from a task that was cancelled
                yield event
    finally:
        stop.ask()
        for _ in events:  # cancelled while it sent one: it must still save
            pass
