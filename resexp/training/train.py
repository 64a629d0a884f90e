"""Sets up and trains one run folder, and records errors in it."""

from __future__ import annotations

import contextlib
import io
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from resexp.config import RunConfig
from resexp.config.study import load_run
from resexp.data import open_dataset
from resexp.device.concurrent import Task, run_to_completion
from resexp.device.hardware import (
    choose_hardware,
    release_stream,
    restoring_threads,
    tune_process,
    use_threads,
    with_stream,
)
from resexp.distributed import SINGLE_PROCESS, Ranks, lost_rank
from resexp.errors import DeviceFailedError, DeviceOutOfMemoryError, LeaseLostError, UserError
from resexp.runs import checkpoint
from resexp.runs.metrics import MetricsWriter
from resexp.runs.records import Manifest, Status
from resexp.runs.store import Run
from resexp.training.loop import STOPPED, LoopState, TrainingLoop
from resexp.training.manifest import begin_attempt
from resexp.training.probing import probe_input, write_record
from resexp.training.trainer import Trainer
from resexp.training.warm_start import warm_start
from resexp.utils.interrupts import Interrupted
from resexp.utils.logs import log

_OUT_OF_MEMORY = (
    "CUDA error: out of memory", "ALLOC_FAILED", "NOT_INITIALIZED when calling", "unable to find an engine",
    "MPS backend out of memory", "can't allocate memory",
)  # fmt: skip
"""How CUDA, cuBLAS, cuDNN, MPS and the CPU's allocator report it, where PyTorch's OutOfMemoryError does not."""


def train(run: Run, **options: Any) -> Status:
    """Train the run in its folder to the end, or until asked to stop. `options` are those of `attempt`."""
    with restoring_threads():
        return run_to_completion(attempt(run, **options))


def attempt(
    run: Run,
    *,
    stop: Callable[[], bool] = lambda: False,
    on_status: Callable[[Status], None] = lambda status: None,
    threads: int | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    allow_world_size_change: bool = False,
) -> Task[Status]:
    """Train the run in its folder to the end, or until `stop()`; continue it if it was begun. This is done piece by
    piece, so that several runs can take turns in one process.

    `on_status` receives every status. `threads` is the number of CPU threads of a new run; a continued run keeps its
    own. A continued run has the same metrics and weights as one that was never interrupted: bit for bit on a CPU.
    Raises UserError or OSError for what the user can fix; the run can then be started or continued. Any other exception
    marks it as failed. Both are recorded in the folder.

    Where several `ranks` train the run, each of them calls this, and rank 0 alone reads and writes the folder. The
    number of ranks stays the same, unless `allow_world_size_change`.
    """
    if ranks.rank > 0:
        status = Status()
        with _translate_device_errors(run), ExitStack() as stack:
            yield from TrainingLoop(run, status, stop, on_status, *_set_up(run, status, ranks, None, stack)).work()
        return status
    with run.leased() as run, ExitStack() as stack:
        status = run.status().model_copy(update={"state": "running", "message": "", "traceback": ""})
        loop = None
        try:
            run.write_status(status)  # without the message and the traceback of an earlier attempt
            assert run.lease
            with _translate_device_errors(run):
                with run.lease.heartbeats():
                    plan = _plan(run, ranks, threads, allow_world_size_change)
                    loop = TrainingLoop(run, status, stop, on_status, *_set_up(run, status, ranks, plan, stack))
                for steps in loop.work():
                    run.lease.heartbeat()
                    yield steps
        except Interrupted:  # while the images were decoded
            status.state = "interrupted" if run.checkpoint_path.exists() else "pending"
            status.message = STOPPED
            run.write_status(status)
            on_status(status)
        except Exception as error:
            status.message = " ".join(f"{error}".split()) or type(error).__name__
            if isinstance(error, UserError | OSError):
                status.state = "interrupted" if run.checkpoint_path.exists() else "pending"
            else:
                status.state = "failed"
                status.message = f"{type(error).__name__}: {status.message}"
                status.traceback = traceback.format_exc()
            with contextlib.suppress(OSError, LeaseLostError):  # the disk or the lease may have caused the error
                run.write_status(status)
                if loop:
                    loop.close_attempt(status.state)
            on_status(status)
            raise
        return status


class _Plan(NamedTuple):
    """What rank 0 reads and decides, and all ranks follow."""

    config: RunConfig
    precision: str
    threads: int


def _plan(run: Run, ranks: Ranks, threads: int | None, allow_world_size_change: bool) -> _Plan:
    """The plan for the run, from its folder: a continued run keeps its precision and its number of threads, for both
    change rounding. Raises UserError if it was trained by another number of ranks."""
    config, manifest, precision = load_run(run.config_path), run.manifest(), None
    if manifest:
        last = manifest.attempts[-1]
        if last.world != ranks.world_size and not allow_world_size_change:
            raise UserError(
                f"{run.folder}: trained by {last.world} process{'es' * (last.world > 1)} so far, now by "
                f"{ranks.world_size}; start as many as before, or add --allow-world-size-change"
            )
        precision, threads = last.precision, last.threads
    hardware = choose_hardware(config.train, precision, ranks)
    if ranks.world_size > 1:
        config = config.with_train(device=hardware.device.type)
    return _Plan(config, hardware.precision, threads or torch.get_num_threads())


def _set_up(
    run: Run, status: Status, ranks: Ranks, plan: _Plan | None, stack: ExitStack
) -> tuple[Trainer, LoopState, MetricsWriter | None, Manifest | None]:
    """Load or initialise the run. Rank 0, which leases it and has the plan, broadcasts both to the other ranks, if any.

    Cleanup callbacks are registered on `stack`; `status` gets the errors measured so far. Raises UserError where the
    run can't be continued, or the images of a rank are not those of rank 0.
    """
    config, precision, threads = ranks.broadcast_object(plan)
    use_threads(threads)
    tune_process()
    hardware = replace(with_stream(choose_hardware(config.train, precision, ranks)), threads=threads)
    stack.callback(release_stream, hardware)
    dataset = open_dataset(config.data)
    if dataset.fingerprint != (fingerprint := ranks.broadcast_object(dataset.fingerprint)):
        raise UserError(
            f"{config.data.source}: other images here (fingerprint {dataset.fingerprint}) than rank 0 has "
            f"({fingerprint}); give every machine the same"
        )
    with torch.cuda.stream(hardware.stream):
        trainer = Trainer(config, dataset, hardware)
        stack.callback(trainer.close)
        progress, metrics, manifest = LoopState(), None, None
        if ranks.rank == 0:
            progress, metrics = _continue(run, trainer, status)
            stack.callback(metrics.close)
            manifest = begin_attempt(run, trainer)
            if ranks.world_size > 1:
                torch.save({"trainer": trainer.state(), **vars(progress)}, state := io.BytesIO())
                ranks.broadcast_object(state.getvalue())
        else:
            content = io.BytesIO(ranks.broadcast_object())
            state = torch.load(content, map_location=hardware.device, weights_only=True)
            trainer.load(state["trainer"])
            progress = LoopState.load(state)
        trainer.wrap_ddp()
    return trainer, progress, metrics, manifest


def _continue(run: Run, trainer: Trainer, status: Status) -> tuple[LoopState, MetricsWriter]:
    """Load the newest whole checkpoint and drop the metrics written after it; they will be written again."""
    config, progress, kept, sha256 = trainer.config, LoopState(), 0, None
    state, damage = checkpoint.load(run, trainer.hardware.device)
    if damage:
        log.warning(f"{run.folder}: {damage}")
    if state:
        if (state["signature"], state["seed"]) != (config.signature, config.seed):
            raise UserError(
                f"{run.checkpoint_path}: checkpoint of another configuration (signature {state['signature']} "
                f"seed {state['seed']}, config.yaml has {config.signature} seed {config.seed}); "
                f"delete it to begin anew"
            )
        trainer.load(state["trainer"])
        progress, kept, sha256 = LoopState.load(state), state["metrics_bytes"], state.get("metrics_sha256")
    elif config.train.init_from:
        net = probe_input(config, trainer.model, trainer.pipeline)
        if found := warm_start(config, net, trainer.dataset):
            write_record(run, found)
    metrics = MetricsWriter(run, kept, sha256)
    found = dict.fromkeys(("train_error", "running_train_error", "clean_train_error", "val_error", "test_error"))
    for record in run.metrics():
        found |= {name: record[name] for name in found if name in record}
    for name, error in found.items():  # none of a line that was dropped
        setattr(status, name, error)
    return progress, metrics


@contextlib.contextmanager
def _translate_device_errors(run: Run) -> Iterator[None]:
    """Raise errors of the device and of the network as errors that name the run and the remedy."""
    try:
        yield
    except RuntimeError as error:
        text = str(error)
        reason = text.partition("\n")[0][:100]
        if what := lost_rank(error):
            raise UserError(f"{run.folder}: another rank is gone ({what}); the same command continues") from error
        if isinstance(error, torch.OutOfMemoryError) or any(sign in text for sign in _OUT_OF_MEMORY):
            memory = "memory" if _OUT_OF_MEMORY[-1] in text else "GPU memory"
            raise DeviceOutOfMemoryError(
                f"{run.folder}: out of {memory}; free some, or lower train.batch_size or model.width ({reason})"
            ) from error
        if isinstance(error, torch.AcceleratorError) or _device_failed():
            raise DeviceFailedError(f"{run.folder}: the GPU failed ({reason}); the same command continues") from error
        raise


def _device_failed() -> bool:
    """Whether the GPU is unusable: a synchronise raises an error."""
    try:
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
