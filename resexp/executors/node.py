"""The body of a Slurm job: runs `resexp train` on its nodes."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from resexp.executors.base import wait_for_release
from resexp.runs.store import Run
from resexp.utils.interrupts import EXIT_SIGNAL

if TYPE_CHECKING:
    from submitit.helpers import DelayedSubmission

RELEASE_S = 300.0
"""Seconds to wait for other attempts to release the runs."""
GRACE_S = 300.0
"""Seconds to wait after Slurm's SIGTERM for Slurm to kill or requeue the job."""
POLL_S = 0.5
TORCHRUN = {"TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
"""Or a restart may hang (PyTorch's issue 135712)."""
RESTARTS = 3
"""Restarts of a run's processes on several nodes after one of them dies."""


@dataclass
class SlurmJob:
    """Trains runs in a subprocess. On Slurm's warning signal (time limit or preemption) the subprocess saves and
    the job is queued again, so that the runs continue."""

    runs: tuple[Path, ...]
    folder: Path
    """Working directory; paths in the configurations may be relative to it."""
    environment: dict[str, str]
    nodes: int
    processes: int
    """Processes per node and run, with several nodes."""
    runs_per_gpu: int | None = None
    """Runs on the job's GPU at a time; see `ExecutorConfig`."""

    def __call__(self) -> None:
        """Train, and exit as the command did: Slurm keeps the code."""
        self._child: subprocess.Popen[bytes] | None = None
        self._ending = False
        signal.signal(signal.SIGTERM, self._end)  # it reaches all processes of the job
        wait_for_release([Run(run) for run in self.runs], RELEASE_S)
        worst = 0
        for command in self.commands(os.environ):
            print("$", *command, flush=True)
            self._child = subprocess.Popen(
                command,
                cwd=self.folder,
                env={**os.environ, **TORCHRUN, **self.environment},
                # Slurm sends its warning to every process of the job; only submitit in this process may act on it.
                preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
            )
            while (code := self._child.poll()) is None:
                time.sleep(POLL_S)
            worst = max(worst, code if code >= 0 else EXIT_SIGNAL - code)
            if code and self._ending:  # cancelled, or preempted: then a job that ends is not queued again
                time.sleep(GRACE_S)
                break
        if worst:
            sys.exit(worst)

    def _end(self, number: int, frame: FrameType | None) -> None:
        self._ending = True

    def checkpoint(self) -> DelayedSubmission:
        """Have the runs saved; the same work is to be queued again. Called by submitit in its signal handler."""
        from submitit.helpers import DelayedSubmission

        if self._child:
            self._child.terminate()
            with contextlib.suppress(ChildProcessError):  # it ended before
                os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)  # `wait` would need a lock that poll has
        return DelayedSubmission(replace(self))

    def commands(self, environment: Mapping[str, str]) -> list[list[str]]:
        """What to run on this node, one after the other; `environment` is the one that Slurm gave it."""
        train = ["-m", "resexp", "train"]
        if self.nodes == 1:
            at_once = ["--runs-per-gpu", f"{self.runs_per_gpu}"] if self.runs_per_gpu else []
            return [[sys.executable, *train, *at_once, *map(str, self.runs)]]
        job, first = environment["SLURM_JOB_ID"], "1" if environment["SLURM_NODEID"] == "0" else "0"
        port = 20000 + int(job) % 10000  # one that other jobs on the same node are not likely to use
        together = [
            *(f"--nnodes={self.nodes}", f"--nproc-per-node={self.processes}", f"--max-restarts={RESTARTS}"),
            *("--rdzv-backend=c10d", f"--rdzv-id={job}", f"--rdzv-conf=is_host={first}"),
            f"--rdzv-endpoint={environment['SLURM_LAUNCH_NODE_IPADDR']}:{port}",
        ]
        return [[sys.executable, "-m", "torch.distributed.run", *together, *train, str(run)] for run in self.runs]
