"""Nets, by the keys of a study file, and weights for them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resexp.config import ModelConfig
from resexp.errors import UserError
from resexp.models.resnet import ResNet, from_torchvision
from resexp.models.vgg import VGG
from resexp.utils.text import listed

__all__ = ["VGG", "ResNet", "build_model", "load_weights"]


def build_model(config: ModelConfig, classes: int = 10) -> nn.Module:
    """The net that `config` describes, initialised as its `init` says, from torch's current random state."""
    return VGG(config, classes) if config.kind == "vgg" else ResNet(config, classes)


def load_weights(model: nn.Module, weights: dict[str, Tensor], where: str) -> None:
    """Give `model` these weights, under resexp's or torchvision's names.

    The random state of dropout stays that of `model`. Raises UserError, which begins with `where`, unless all others
    are there with their shapes, and nothing else is.
    """
    own = model.state_dict()
    if isinstance(model, ResNet):
        weights = {from_torchvision(name): value for name, value in weights.items()}
    weights = {name: value for name, value in weights.items() if ".draws." not in name}
    missing = [name for name in own if name not in weights and ".draws." not in name]
    unknown = [name for name in weights if name not in own]
    other = [name for name, value in weights.items() if name in own and value.shape != own[name].shape]
    for what, names in (("lacks", missing), ("has, but the net lacks,", unknown)):
        if names:
            raise UserError(f"{where}: {what} {listed(names, 1)}; name weights of the same net")
    if other:
        ours, theirs = own[other[0]].shape, weights[other[0]].shape
        of_last_layer = [name for name in own if own[name].is_floating_point()][-2:]
        if theirs and set(other) <= set(of_last_layer):
            says = f"weights for {theirs[0]} classes, and here are {ours[0]}; name weights for the same classes"
        else:
            says = (
                f"{other[0]} has the shape {_size(theirs)}, and in the net {_size(ours)}; name weights of the same net"
            )
        raise UserError(f"{where}: {says}")
    model.load_state_dict(weights, strict=False)


def _size(shape: torch.Size) -> str:
    return "x".join(map(str, shape)) or "scalar"
