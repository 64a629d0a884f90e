"""Initialises a run: from a finished run of the same net or of a shallower one, to which identity blocks are added,
or from a file of weights of the same net.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from resexp.config import RunConfig
from resexp.config.nets import Net, named
from resexp.config.study import load_run
from resexp.errors import UserError
from resexp.models import ResNet, build_model, load_weights
from resexp.probes import ProbeInput
from resexp.probes.identity import compare, deepen, why_not
from resexp.runs import checkpoint, weights_file
from resexp.runs.store import Run
from resexp.utils.paths import expanded


def check(start: Run, deep: RunConfig) -> RunConfig:
    """The configuration of the run to start from. Raises UserError if a run like `deep` can't."""
    if not start.config_path.exists():
        raise UserError(f"{start.folder}: no run folder to start from (no config.yaml)")
    config = load_run(start.config_path)
    start.check_finished("starts another one")
    if config.data.science() != deep.data.science():  # or it would be validated on images that it was trained on
        raise UserError(f"{start.folder}: trained on other data; a run starts from one with the same data")
    if reason := why_not(config.model, deep.model):
        raise UserError(f"{start.folder}: {reason}; name another run or another depth")
    return config


def check_start(config: RunConfig) -> None:
    """Raise UserError where the run or the file of weights that a run starts from, if any, can't be taken."""
    if config.train.init_weights:
        _read_weights(config)
    elif config.train.init_from:
        check(Run(expanded(config.train.init_from)), config)


def warm_start(deep_config: RunConfig, subject: ProbeInput, classes: int) -> dict[str, Any] | None:
    """Initialise the net so that it computes the same function as the finished run, or takes the file of weights.

    Returns how well a deeper net does, on all images that are trained on: see `probes.identity.compare`; None for a
    file. Raises UserError if it can't be done.
    """
    assert deep_config.train.init_from
    if deep_config.train.init_weights:
        file, path = _read_weights(deep_config)
        load_weights(subject.model, file.weights, path)
        return None
    run = Run(expanded(deep_config.train.init_from))
    config = check(run, deep_config)
    _, weights = checkpoint.last_weights(run)
    shallow, deep = build_model(config.model, classes), subject.model
    checkpoint.load_into(shallow, weights, run.folder)
    shallow.to(subject.images.device)
    assert isinstance(shallow, ResNet)
    assert isinstance(deep, ResNet)

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        return subject.split(len(subject.index))

    deepen(shallow, deep, batches)
    return {"probe": "identity", "step": 0, "from": str(run.folder), **compare(shallow, deep, batches)}


def _read_weights(config: RunConfig) -> tuple[weights_file.WeightsFile, str]:
    """The file of weights to start from, and its path."""
    assert config.train.init_weights
    path, sha256 = config.train.init_weights
    try:
        file = weights_file.read(expanded(path))
    except OSError as error:
        raise UserError(
            f"{path}: the weights to start from can't be read ({error.strerror}); bring them back"
        ) from None
    if file.sha256 != sha256:
        raise UserError(
            f"{path}: changed since the run was made (sha256 {file.sha256[:12]}..., then {sha256[:12]}...); bring the "
            f"old file back"
        )
    if file.description and named(file.description.net, []).config != config.model:
        ours = Net(config.model, 0, 0).name
        raise UserError(
            f"{path}: holds {file.description.net}, and the run's net is {ours}; name weights of the same net"
        )
    return file, path
