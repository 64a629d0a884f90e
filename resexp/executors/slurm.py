"""Job arrays on a Slurm cluster, by submitit; each job trains run folders on a shared file system.

The run folders are the truth: job.json names the job that trains a run, status.json has what became of it. Slurm is
only asked which jobs are in its queue and, for the minutes that it remembers, how the others left it: in one call for
all of them, and never its accounting.
"""

from __future__ import annotations

import contextlib
import datetime
import io
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from resexp.config import ExecutorConfig
from resexp.errors import UserError
from resexp.executors import schedule
from resexp.executors.base import End, Event, Executor, Handle, Job
from resexp.executors.node import SlurmJob
from resexp.runs import lease
from resexp.runs.records import Submission
from resexp.runs.store import Run
from resexp.utils.interrupts import EXIT_USAGE
from resexp.utils.logs import log

if TYPE_CHECKING:
    import submitit

INHERITED = ("RESEXP_DATA", "RESEXP_PLUGINS", "PYTHONPATH", "OMP_NUM_THREADS")
"""Variables that jobs have from the sweep that submitted them, whatever else the cluster lets through."""
REQUEUES = 1_000_000
"""Maximum number of requeues after time limits."""
SQUEUE_S = 60.0
_GONE = {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED"}
_GONE |= {"REVOKED", "TIMEOUT", "FORGOTTEN"}


class _State(NamedTuple):
    """What squeue reports of a job, or FORGOTTEN."""

    name: str
    exit_status: int = 0
    """Wait status: exit code << 8, plus the number of the signal."""

    @property
    def is_gone(self) -> bool:
        """Whether it has left the queue."""
        return self.name in _GONE

    @property
    def is_pending(self) -> bool:
        """Whether it is in the queue and not at work."""
        return not self.is_gone and self.name not in ("RUNNING", "COMPLETING")


class Slurm(Executor):
    """The executor of a Slurm cluster."""

    outlives = True

    def __init__(self, config: ExecutorConfig) -> None:
        if find_spec("submitit") is None:
            raise UserError("executor slurm: submitit is not installed; pip install 'resexp[slurm]'")
        if not shutil.which("sbatch"):
            raise UserError("executor slurm: no sbatch on this machine; submit from a login node of the cluster")
        self._config = config
        self.states: dict[str, _State] = {}
        """What Slurm last reported, by job."""
        self._unreachable = False

    def make_jobs(self, todo: Sequence[tuple[Run, float]]) -> tuple[list[Job], int]:
        """Jobs of `runs_per_job` runs in the order of starting; Slurm decides how many run at a time."""
        return [Job(chunk) for chunk in schedule.in_chunks(todo, self._config.runs_per_job)], sys.maxsize

    def find_jobs(self, runs: Sequence[Run]) -> list[Handle]:
        """Handles of the queued or running jobs that were submitted for these runs and have not finished them."""
        jobs: dict[str, list[tuple[Run, Submission]]] = {}
        submissions = _submissions(runs)
        self.states = _squeue({submission.user for _, submission in submissions})
        for run, submission in submissions:
            state = self.states.get(submission.job)
            if state and not state.is_gone and not _has_ended(run, submission.attempt):
                jobs.setdefault(submission.job, []).append((run, submission))
        if jobs:
            log.info(f"{sum(map(len, jobs.values()))} of them were submitted before: {_named(jobs)}")
        return [_Submitted(self, job_id, submissions) for job_id, submissions in jobs.items()]

    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        """Submit them as one array. Raises UserError if Slurm refuses it."""
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        before = {run.folder: lease.newest(run.folder) for job in jobs for run in job.runs}
        logs = jobs[0].runs[0].folder.absolute().parents[1] / ".slurm"
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # submitit prints what it raises
                submitted = self._submitit(logs).submit_array([self._training(job) for job in jobs])
        except (FailedJobError, FailedSubmissionError) as error:
            raise UserError(_refusal(f"{error}")) from None
        user, now = f"{os.getuid()}", datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        handles: list[Handle] = []
        job_ids = [submitted_job.job_id for submitted_job in submitted]
        for job, job_id in zip(jobs, job_ids, strict=True):
            records = list[tuple[Run, Submission]]()
            for run in job.runs:
                attempt = before[run.folder]
                path = f"{run.folder.resolve()}"
                record = Submission(engine="slurm", job=job_id, user=user, submitted=now, attempt=attempt, folder=path)
                run.write_submission(record)
                records.append((run, record))
            self.states[job_id] = _State("PENDING")
            handles.append(_Submitted(self, job_id, records))
        log.info(f"{sum(len(job.runs) for job in jobs)} runs submitted: {_named(job_ids)}")
        log.info(f"what jobs print: {logs}")
        return handles

    def wait(self, handles: Sequence[Handle]) -> None:
        """Query the queue after a while. Where Slurm does not answer, the last states are kept."""
        time.sleep(self._config.slurm.poll_seconds)
        jobs = [handle for handle in handles if isinstance(handle, _Submitted)]
        try:
            states = _squeue({submission.user for job in jobs for _, submission in job.submissions})
        except UserError as error:
            if not self._unreachable:
                log.info(f"{error}; asked again until it answers")
            self._unreachable = True
            return
        self._unreachable = False
        for job_id in {job.job_id for job in jobs} - states.keys():  # Slurm keeps nothing of what never began
            states[job_id] = _State("CANCELLED" if self.states[job_id].is_pending else "FORGOTTEN")
        self.states = states

    def _submitit(self, logs: Path) -> submitit.AutoExecutor:
        import submitit

        slurm = self._config.slurm
        executor = submitit.AutoExecutor(logs, cluster="slurm", slurm_max_num_timeout=REQUEUES)
        executor.update_parameters(
            name=f"resexp-{logs.parent.name}",
            timeout_min=slurm.time_limit_minutes,
            nodes=slurm.nodes,
            tasks_per_node=1,
            cpus_per_task=slurm.cpus_per_task,
            gpus_per_node=slurm.gpus or None,
            mem_gb=slurm.memory_gb,
            stderr_to_stdout=True,
            slurm_partition=slurm.partition,
            slurm_account=slurm.account,
            slurm_setup=list(slurm.setup),
            slurm_array_parallelism=self._config.jobs or sys.maxsize,
            slurm_srun_args=[f"--cpus-per-task={slurm.cpus_per_task}"],  # srun does not take it over from sbatch
            slurm_additional_parameters={"requeue": True, **slurm.options},
        )
        return executor

    def _training(self, job: Job) -> SlurmJob:
        slurm = self._config.slurm
        environment = {name: os.environ[name] for name in INHERITED if name in os.environ}
        processes = slurm.gpus or 1
        threads = slurm.cpus_per_task if slurm.nodes == 1 else max(1, slurm.cpus_per_task // processes)
        return SlurmJob(
            runs=tuple(run.folder.absolute() for run in job.runs),
            folder=Path.cwd(),
            environment={"OMP_NUM_THREADS": f"{threads}", **environment},
            nodes=slurm.nodes,
            processes=processes,
            runs_per_gpu=self._config.runs_per_gpu,
        )


class _Submitted(Handle):
    def __init__(self, slurm: Slurm, job_id: str, submissions: list[tuple[Run, Submission]]) -> None:
        self.job_id, self.submissions = job_id, submissions
        self.job = Job(tuple(run for run, _ in submissions))
        self._slurm = slurm
        self._left, self._begun = dict(enumerate(submissions)), set[int]()

    def poll(self) -> tuple[list[Event], End | None]:
        """Events as the folders of its runs show them, once it is at work. What is not finished when it leaves the
        queue, and not cancelled, is tried again."""
        state, events = self._slurm.states[self.job_id], list[Event]()
        if state.is_pending:
            return events, None
        for index, (run, submission) in list(self._left.items()):
            if index not in self._begun and lease.newest(run.folder) > submission.attempt:
                self._begun.add(index)
                events.append(Event("run_began", index))
            if (state.is_gone or index in self._begun) and _has_ended(run, submission.attempt):
                error = ""
            elif state.name == "CANCELLED":
                error = f"its Slurm job {self.job_id} was cancelled"
            elif state.is_gone and state.exit_status == EXIT_USAGE << 8:
                error = f"refused in Slurm job {self.job_id}: {run.status().message}"
            else:
                continue
            del self._left[index]
            events.append(Event("run_ended", index, error))
        gone = End(f"its Slurm job {self.job_id} is gone ({state.name})", retry=True)
        return events, gone if state.is_gone else None

    def stop(self) -> None:
        """Cancel it; what is at work is asked to save, and has the time that Slurm gives it."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(["scancel", self.job_id], check=False, timeout=SQUEUE_S, start_new_session=True)


def queued(runs: Iterable[Run]) -> dict[Path, str]:
    """The jobs in Slurm's queue that are to train these runs, by folder; none where Slurm does not answer."""
    submissions = _submissions(runs)
    try:
        states = _squeue({submission.user for _, submission in submissions})
    except UserError:
        return {}
    jobs = {run.folder: submission.job for run, submission in submissions}
    return {folder: job for folder, job in jobs.items() if job in states and not states[job].is_gone}


def _submissions(runs: Iterable[Run]) -> list[tuple[Run, Submission]]:
    """The runs that a job was asked to train; not copies of them."""
    found = [(run, submission) for run in runs if (submission := run.submission())]
    return [(run, submission) for run, submission in found if submission.folder == f"{run.folder.resolve()}"]


def _has_ended(run: Run, attempt: int) -> bool:
    """Whether the run finished or diverged, or failed in an attempt newer than `attempt` that is no longer alive.

    A `failed` of an older attempt does not count: the new one may not have written its status yet.
    """
    state = run.status().state
    failed = state == "failed" and lease.newest(run.folder) > attempt and not run.is_held()
    return failed or state in ("finished", "diverged")


def _squeue(users: set[str]) -> dict[str, _State]:
    """The jobs of these users that Slurm knows of. Raises UserError if it does not answer."""
    if not users:
        return {}
    command = ["squeue", "--noheader", "--array", "--states=all", f"--user={','.join(sorted(users))}"]
    command.append("--Format=JobArrayID:64,State:32,exit_code:16")
    try:
        # Not in our session: Ctrl-C is for us.
        found = subprocess.run(
            command, capture_output=True, text=True, check=True, timeout=SQUEUE_S, start_new_session=True
        )
    except FileNotFoundError:
        raise UserError("squeue: not on this machine") from None
    except subprocess.TimeoutExpired:
        raise UserError(f"squeue: no answer in {SQUEUE_S:.0f} s") from None
    except subprocess.CalledProcessError as error:
        raise UserError(f"squeue: {' '.join(error.stderr.removeprefix('squeue: ').split())}") from None
    rows = re.findall(r"^(\S+) +(\S+) +(\d+) *$", found.stdout, re.MULTILINE)  # other lines are remarks
    return {job: _State(state, int(status)) for job, state, status in rows}


def _named(jobs: Iterable[str]) -> str:
    """The jobs, those of an array as one: ``Slurm job 12, 14``."""
    return f"Slurm job {', '.join(sorted({job.partition('_')[0] for job in jobs}, key=int))}"


def _refusal(output: str) -> str:
    """The error of sbatch, in one line."""
    errors = [line.partition("error: ")[2] for line in output.splitlines() if "sbatch: error: " in line]
    remedy = "; raise executor.runs_per_job" if "job array" in output else ""
    return f"executor slurm: sbatch: {', '.join(errors) or ' '.join(output.split())}{remedy}"
