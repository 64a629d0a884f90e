"""A run that begins where another one ended: with the same net, or a deeper one with identity blocks inserted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from resexp.config import RunConfig
from resexp.config.study import load_run
from resexp.errors import UserError
from resexp.models import ResNet, build_model
from resexp.probes import ProbeInput
from resexp.probes.identity import compare, deepen, why_not
from resexp.runs import checkpoint
from resexp.runs.store import Run
from resexp.utils.paths import expanded


def check(start: Run, deep: RunConfig) -> RunConfig:
    """The configuration of the run to start from. Raises UserError where a run like `deep` can't."""
    if not start.config_path.exists():
        raise UserError(f"{start.folder}: no run folder to start from (no config.yaml)")
    config = load_run(start.config_path)
    if (state := start.status().state) != "finished":
        raise UserError(f"{start.folder}: {state}; only what a finished run has learnt can be handed on")
    if config.data.science() != deep.data.science():  # or it would be validated on images that it was trained on
        raise UserError(f"{start.folder}: trained on other data; what it learnt is handed on for the same data only")
    if reason := why_not(config.model, deep.model):
        raise UserError(f"{start.folder}: {reason}; name another run or another depth")
    return config


def warm_start(deep_config: RunConfig, subject: ProbeInput, classes: int) -> dict[str, Any]:
    """Initialise the deep net so that it computes the same function as the finished run.

    Returns how well it does, on all images that are trained on: see `probes.identity.compare`. Raises UserError where
    it can't be done.
    """
    assert deep_config.train.init_from
    run = Run(expanded(deep_config.train.init_from))
    config = check(run, deep_config)
    _, weights = checkpoint.final_weights(run)
    shallow, deep = build_model(config.model, classes), subject.model
    checkpoint.into(shallow, weights, run.folder)
    shallow.to(subject.images.device)
    assert isinstance(shallow, ResNet)
    assert isinstance(deep, ResNet)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return subject.split(len(subject.index))

    deepen(shallow, deep, batches)
    return {"probe": "identity", "step": 0, "from": str(run.folder), **compare(shallow, deep, batches)}
