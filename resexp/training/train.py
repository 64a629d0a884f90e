"""Training one run folder, and what becomes of it when something goes wrong."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Callable

import torch

from resexp.device.concurrent import Task, run_to_completion
from resexp.distributed import SINGLE_PROCESS, Ranks, lost
from resexp.errors import DeviceFailedError, DeviceOutOfMemoryError, LeaseLostError, RankLostError, UserError
from resexp.runs.records import State, Status
from resexp.runs.store import Run
from resexp.training.loop import Loop
from resexp.training.set_up import set_up
from resexp.utils.interrupts import Interrupted

_OUT_OF_MEMORY = ("CUDA error: out of memory", "ALLOC_FAILED", "unable to find an engine")
"""How CUDA, cuBLAS and cuDNN say so, where PyTorch does not."""


def train(
    run: Run,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_status: Callable[[Status], None] = lambda status: None,
    say: Callable[[str], None] = lambda line: None,
    threads: int | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    world_may_change: bool = False,
) -> Status:
    """Train the run in its folder to the end, or until `stop()`; continue it if it was begun.

    `on_status` receives every status, `say` every line for the user; `threads` limits the CPU threads of a new run.
    A continued run has the same metrics and weights as one that was never interrupted: bit for bit on a CPU. Raises
    UserError or OSError for what can be mended from outside, which leaves the run to be begun or continued; anything
    else marks it as failed. Both are recorded in the folder.

    Where several `ranks` train the run, each of them calls this, and rank 0 alone reads and writes the folder. The
    number of ranks stays the same, unless the `world_may_change`.
    """
    work = attempt(
        run, stop=stop, on_status=on_status, say=say, threads=threads, ranks=ranks, world_may_change=world_may_change
    )
    return run_to_completion(work)


def attempt(
    run: Run,
    *,
    stop: Callable[[], bool],
    on_status: Callable[[Status], None] = lambda status: None,
    say: Callable[[str], None],
    threads: int | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    world_may_change: bool = False,
) -> Task[Status]:
    """`train`, piece by piece, so that several runs can take turns in one process."""
    leased = run.leased() if ranks.rank == 0 else contextlib.nullcontext(run)
    with leased as run, contextlib.ExitStack() as undo:
        lease, loop = run.lease, None
        status = (run.status() if lease else Status()).model_copy(
            update={"state": "running", "message": "", "traceback": ""}
        )
        try:
            if lease:
                run.write_status(status)  # what an earlier attempt came to is over
            with lease.heartbeats() if lease else contextlib.nullcontext():
                start = set_up(run, status, say, ranks, threads, world_may_change, undo)
            loop = Loop(run, status, *start, stop, on_status)
            for steps in loop.work():
                if lease:
                    lease.heartbeat()
                yield steps
        except Interrupted:  # while the images were decoded
            status.state = _idle(run)
            if lease:
                run.write_status(status)
                on_status(status)
        except Exception as raised:
            error = _explained(raised, run)
            status.message = " ".join(f"{error}".split()) or type(error).__name__
            if isinstance(error, UserError | OSError):
                status.state = _idle(run)
            else:
                status.state = "failed"
                status.message = f"{type(error).__name__}: {status.message}"
                status.traceback = traceback.format_exc()
            if lease:
                with contextlib.suppress(OSError, LeaseLostError):  # the disk, or the lease, may be what is wrong
                    run.write_status(status)
                    if loop:
                        loop.close_attempt(status.state)
                on_status(status)
            if error is raised:
                raise
            raise error from raised
        return status


def _idle(run: Run) -> State:
    return "interrupted" if run.checkpoint_path.exists() else "pending"


def _explained(error: Exception, run: Run) -> Exception:
    """What the device's errors mean for the run; any other error as it is."""
    text = str(error)
    words = text.partition("\n")[0][:100]
    if not isinstance(error, RuntimeError):
        return error
    if what := lost(error):
        return RankLostError(f"{run.folder}: another rank is gone ({what}); the same command continues")
    if isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
        return DeviceOutOfMemoryError(
            f"{run.folder}: out of GPU memory; free some, or lower train.batch_size or model.width ({words})"
        )
    if isinstance(error, torch.AcceleratorError) or _device_failed():
        return DeviceFailedError(f"{run.folder}: the GPU failed ({words}); the same command continues")
    return error


def _device_failed() -> bool:
    """Whether an error that did not come from CUDA itself came from a GPU that refuses all work since."""
    try:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
