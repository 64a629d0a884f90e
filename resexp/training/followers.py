"""The other ranks of a run: what rank 0 does with its trainer, they do with theirs."""

from __future__ import annotations

import contextlib
import io
from typing import Any

import torch

from resexp.config import RunConfig
from resexp.data import open_dataset
from resexp.device.concurrent import Task, on_stream, run_to_completion
from resexp.device.hardware import choose, tune_process, with_stream
from resexp.distributed import Torchrun, lost
from resexp.errors import StopRequested, UserError
from resexp.training.trainer import Trainer
from resexp.utils.interrupts import Stop


def assemble(trainer: Trainer) -> None:
    """Let the other ranks create the trainer of rank 0 in its present state, and continue together.

    Raises UserError where one of them can't.
    """
    ranks = trainer.hardware.ranks
    if isinstance(ranks, Torchrun):
        content = io.BytesIO()
        torch.save(trainer.state(), content)
        ranks.command("begin")
        ranks.broadcast_object(
            {
                "config": trainer.config.model_dump_json(),
                "device": trainer.hardware.device.type,
                "precision": trainer.hardware.precision,
                "threads": torch.get_num_threads(),
                "fingerprint": trainer.dataset.fingerprint,
                "state": content.getvalue(),
            }
        )
        if problem := ranks.first_error():
            raise UserError(problem)
        trainer.join()


def follow(ranks: Torchrun, stop: Stop) -> int:
    """Follow the orders of rank 0 until the last; returns the exit code that it gives.

    Raises UserError where another rank is gone.
    """
    try:
        return _follow(ranks, stop)
    except RuntimeError as error:
        if not (what := lost(error)):
            raise
        raise UserError(f"rank {ranks.rank}: another rank is gone ({what})") from error


def _follow(ranks: Torchrun, stop: Stop) -> int:
    trainer: Trainer | None = None
    while True:
        word, *arguments = ranks.next_command()
        if word in ("end", "begin") and trainer:
            trainer.close()
        if word == "end":
            return int(arguments[0])
        if word == "begin":
            trainer = _begin(ranks)
            continue
        assert trainer
        with contextlib.suppress(StopRequested):
            run_to_completion(on_stream(trainer.hardware, _obey(trainer, word, arguments, stop)))


def _begin(ranks: Torchrun) -> Trainer | None:
    """The trainer that `assemble` describes; None if a rank can't create it, which rank 0 then knows."""
    trainer, problem = None, ""
    try:
        trainer = _make(ranks, ranks.broadcast_object())
    except (UserError, OSError) as error:
        problem = f"{error}"
    if ranks.first_error(problem) or trainer is None:
        return None
    with torch.cuda.stream(trainer.hardware.stream):
        trainer.join()
    return trainer


def _make(ranks: Torchrun, given: dict[str, Any]) -> Trainer:
    config = RunConfig.model_validate_json(given["config"])
    device = config.train.model_copy(update={"device": given["device"]})
    tune_process(given["threads"])
    hardware = with_stream(choose(device, given["precision"], ranks=ranks))
    dataset = open_dataset(config.data)
    if dataset.fingerprint != given["fingerprint"]:
        raise UserError(
            f"{config.data.source}: other images here (fingerprint {dataset.fingerprint}) than rank 0 has "
            f"({given['fingerprint']}); give every machine the same"
        )
    with torch.cuda.stream(hardware.stream):
        trainer = Trainer(config, dataset, hardware)
        trainer.load(torch.load(io.BytesIO(given["state"]), map_location=hardware.device, weights_only=True))
    return trainer


def _obey(trainer: Trainer, word: str, arguments: list[str], stop: Stop) -> Task[None]:
    if word == "advance":
        yield from trainer.advance(int(arguments[0]), stop)
    elif word == "evaluate":
        yield from trainer.evaluate(arguments[0], stop)
    else:
        {"read": trainer.read, "broadcast_weights": trainer.broadcast_weights, "reduce_lr": trainer.reduce_lr}[word]()
