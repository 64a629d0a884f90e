"""Setting up an attempt at a run: rank 0 reads the run folder, the other ranks begin as it does."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import torch

from resexp.config import RunConfig, plugins
from resexp.config.study import load_run
from resexp.data import open_dataset
from resexp.device.hardware import choose, give_back, tune_process, with_stream
from resexp.distributed import Ranks
from resexp.errors import UserError
from resexp.runs import checkpoint
from resexp.runs.metrics import Metrics
from resexp.runs.records import Manifest, Status
from resexp.runs.store import Run
from resexp.training import manifest
from resexp.training.loop import Progress
from resexp.training.probing import probe_input, write_record
from resexp.training.trainer import Trainer
from resexp.training.warm_start import warm_start


class Start(NamedTuple):
    """What an attempt begins with, on one of its ranks."""

    trainer: Trainer
    progress: Progress
    metrics: Metrics | None
    """On rank 0, as the manifest."""
    manifest: Manifest | None


def set_up(
    run: Run,
    status: Status,
    say: Callable[[str], None],
    ranks: Ranks,
    threads: int | None,
    world_may_change: bool,
    undo: contextlib.ExitStack,
) -> Start:
    """Continue a run where it stopped, or begin it, on every rank; `undo` is to be closed in the end.

    On rank 0 the run is leased; `status` gets the errors measured so far. Raises UserError where that can't be done.
    """
    if ranks.rank > 0:
        config, precision, threads, fingerprint, content = ranks.broadcast_object()
        trainer = _trainer(config, precision, threads, say, ranks, undo, fingerprint)
        with torch.cuda.stream(trainer.hardware.stream):
            state = torch.load(io.BytesIO(content), map_location=trainer.hardware.device, weights_only=True)
            trainer.load(state["trainer"])
            trainer.join()
        return Start(trainer, Progress(**state["progress"]), None, None)
    config, before = load_run(run.config_path), run.manifest()
    last = before.attempts[-1] if before else None
    if last and last.world != ranks.world and not world_may_change:
        raise UserError(
            f"{run.folder}: trained by {last.world} process{'es' * (last.world > 1)} so far, now by {ranks.world}; "
            f"start as many as before, or add --allow-world-size-change"
        )
    # What sums are rounded to, and in which order, must not change in the middle of a run.
    precision, threads = (last.precision, last.threads) if last else (None, threads)
    trainer = _trainer(config, precision, threads, say, ranks, undo)
    with torch.cuda.stream(trainer.hardware.stream):
        progress, metrics = _continue(run, trainer, status, say)
        if ranks.world > 1:
            content = io.BytesIO()
            torch.save({"trainer": trainer.state(), "progress": vars(progress)}, content)
            train = config.train.model_copy(update={"device": trainer.hardware.device.type})
            ranks.broadcast_object(
                (
                    config.model_copy(update={"train": train}),
                    trainer.hardware.precision,
                    torch.get_num_threads(),
                    trainer.dataset.fingerprint,
                    content.getvalue(),
                )
            )
        trainer.join()
    return Start(trainer, progress, metrics, _begin_attempt(run, trainer, before))


def _trainer(
    config: RunConfig,
    precision: str | None,
    threads: int | None,
    say: Callable[[str], None],
    ranks: Ranks,
    undo: contextlib.ExitStack,
    fingerprint: str | None = None,
) -> Trainer:
    """A trainer in its initial state. The images must have the fingerprint, if one is given."""
    tune_process(threads)
    hardware = replace(with_stream(choose(config.train, precision, say, ranks)), threads=threads)
    undo.callback(give_back, hardware)
    dataset = open_dataset(config.data, say)
    if fingerprint not in (None, dataset.fingerprint):
        raise UserError(
            f"{config.data.source}: other images here (fingerprint {dataset.fingerprint}) than rank 0 has "
            f"({fingerprint}); give every machine the same"
        )
    with torch.cuda.stream(hardware.stream):
        trainer = Trainer(config, dataset, hardware, say)
    undo.callback(trainer.close)
    return trainer


def _continue(run: Run, trainer: Trainer, status: Status, say: Callable[[str], None]) -> tuple[Progress, Metrics]:
    """Load the newest whole checkpoint and drop the metrics written after it; they will be written again."""
    for left_over in run.folder.glob("*.tmp"):
        left_over.unlink()  # of a process that was killed while it wrote; we hold the lock
    config, progress = trainer.config, Progress()
    state, damage = checkpoint.load(run, trainer.hardware.device)
    if damage:
        say(f"{run.folder}: {damage}")
    if state:
        if (state["signature"], state["seed"]) != (config.signature, config.seed):
            raise UserError(
                f"{run.checkpoint_path}: checkpoint of another configuration (signature {state['signature']} "
                f"seed {state['seed']}, config.yaml has {config.signature} seed {config.seed}); "
                f"delete it to begin anew"
            )
        trainer.load(state["trainer"])
        progress = Progress(state["evaluated"], state["tested"], state["best"], state["window"])
    elif config.train.init_from and (found := warm_start(config, probe_input(trainer), len(trainer.dataset.classes))):
        write_record(run, found)
    kept, sha256 = (state["metrics_bytes"], state.get("metrics_sha256")) if state else (0, None)
    metrics = Metrics(run, kept, sha256)
    for record in run.metrics():
        progress.bn_recomputed |= record["event"] == "bn"
        for name in ("train_error", "clean_train_error", "val_error", "test_error"):
            setattr(status, name, record.get(name, getattr(status, name)))
    return progress, metrics


def _begin_attempt(run: Run, trainer: Trainer, before: Manifest | None) -> Manifest:
    """Add the attempt to the manifest. Raises UserError where earlier ones had other data."""
    data = manifest.of_data(trainer.config, trainer.dataset)
    if before and before.data.fingerprint != data.fingerprint:
        raise UserError(
            f"{run.folder}: begun on other data (fingerprint {before.data.fingerprint}, now "
            f"{data.fingerprint}); bring the old data back, or delete the run folder to begin anew"
        )
    attempt = manifest.new_attempt(trainer.hardware, trainer.step)
    begun = Manifest(
        signature=trainer.config.signature,
        parameters=sum(p.numel() for p in trainer.model.parameters()),
        data=data,
        plugins=plugins.sources({custom.source for custom in trainer.config.customs.values()}),
        attempts=[*(before.attempts if before else []), attempt],
    )
    run.write_manifest(begun)
    return begun
