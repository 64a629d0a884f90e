"""Initialises a run: from a finished run of the same net or of a shallower one, to which identity blocks are added,
or from a file of weights of the same net.
"""

from __future__ import annotations

import functools
from typing import Any

from resexp.config import RunConfig
from resexp.config.nets import NamedNet
from resexp.config.plugins import PluginRef
from resexp.config.study import load_run
from resexp.data import Dataset
from resexp.data.imagenet import ImageNet
from resexp.errors import UserError
from resexp.models import ResNet, build_model, load_weights
from resexp.probes import ProbeInput, identity
from resexp.runs import checkpoint, weights_file
from resexp.runs.store import Run
from resexp.utils.paths import expanded


def check_donor(donor: Run, config: RunConfig, images: str) -> RunConfig:
    """The configuration of the run to start from. Raises UserError if a run like `config`, on images with the
    fingerprint `images`, can't."""
    if not donor.config_path.exists():
        raise UserError(f"{donor.folder}: no run folder to start from (no config.yaml)")
    donor_config = load_run(donor.config_path)
    donor.check_finished("starts another one")
    manifest = donor.manifest()
    same_images = manifest is not None and manifest.data.fingerprint == images
    # or it would be validated on images it was trained on
    if not same_images or donor_config.data.measured() != config.data.measured():
        raise UserError(f"{donor.folder}: trained on other data; a run starts from one with the same data")
    if reason := identity.why_not(donor_config.model, config.model):
        raise UserError(f"{donor.folder}: {reason}; name another run or another depth")
    return donor_config


def check_start(config: RunConfig, images: str) -> None:
    """Raise UserError where the run or the file of weights that a run starts from, if any, can't be taken.

    `images`: the fingerprint of the run's images.
    """
    if config.train.init_weights:
        _read_weights(config)
    elif config.train.init_from:
        check_donor(Run(expanded(config.train.init_from)), config, images)


def warm_start(config: RunConfig, new: ProbeInput, dataset: Dataset | ImageNet) -> dict[str, Any] | None:
    """Give the net the function of a finished run (the donor), or the weights of a file.

    Returns the record of `identity.compare` over all training images; None for a file. Raises UserError if it can't be
    done.
    """
    if config.train.init_weights:
        load_weights(new.model, _read_weights(config).weights, config.train.init_weights[0])
        return None
    assert config.train.init_from
    donor = Run(expanded(config.train.init_from))
    donor_model = build_model(check_donor(donor, config, dataset.fingerprint).model, len(dataset.classes))
    _, weights = checkpoint.last_weights(donor)
    checkpoint.load_into(donor_model, weights, donor.folder)
    donor_model.to(new.images.device)
    assert isinstance(donor_model, ResNet)
    assert isinstance(new.model, ResNet)
    batches = functools.partial(new.split, len(new.index))
    identity.deepen(donor_model, new.model, batches)
    found = identity.compare(donor_model, new.model, batches)
    if isinstance(config.model.block, PluginRef) and found["largest_logit_difference"] > 1e-3:
        raise UserError(
            f"{donor.folder}: block {config.model.block} is no identity where its last norm is zero; name a run of "
            "another block"
        )
    return {"probe": "identity", "step": 0, "from": str(donor.folder), **found}


def _read_weights(config: RunConfig) -> weights_file.WeightsFile:
    """The file of weights to start from."""
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
    ours = NamedNet(config.model, 0, 0).name
    if file.description and file.description.net != ours:
        raise UserError(
            f"{path}: holds {file.description.net}, and the run's net is {ours}; name weights of the same net"
        )
    return file
