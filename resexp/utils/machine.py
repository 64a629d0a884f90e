"""What this machine has."""

from __future__ import annotations

import os


def memory() -> int:
    """Bytes of memory of the machine."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def cores() -> int:
    """CPU cores this process may use; under Slurm, the cores of the job, whether it binds it to them or
    not."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    usable = min(there, int(given)) if given.isdecimal() and int(given) else there
    return max(1, usable // _sharing)


_sharing = 1
"""Processes of a sweep that use the cores."""


def share_cores(processes: int) -> None:
    """Count only this process's part of the cores from now on: an equal one for each process of a sweep."""
    global _sharing
    _sharing = processes


def tune_libraries() -> None:
    """Limit the spinning of idle OpenMP threads, and give each CUDA stream its own hardware queue, unless the user has
    configured these. libgomp, PyTorch's OpenMP on Linux, reads its variable when torch is imported; the CUDA driver
    reads its own when a process makes its first context.

    By default idle threads spin for milliseconds. Where other work is running, the spinning takes the core from the
    thread that is waited for: with this limit, a net trained on two threads next to one or two busy processes was 1.4
    to 6.6 times as fast. On idle cores the limit costs about 2 %; not to spin at all cost 20 to 30 %.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "2000"
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")  # with CUDA's 8, the streams of many runs share queues
