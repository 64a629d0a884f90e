"""Nets, by the keys of a study file, and weights for them."""

from __future__ import annotations

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

    The random state of dropout may be missing. Raises UserError, which begins with `where`, unless all others are
    there with their shapes, and nothing else is.
    """
    own = model.state_dict()
    if isinstance(model, ResNet):
        weights = {from_torchvision(name): value for name, value in weights.items()}
    missing = [name for name in own if name not in weights and ".draws." not in name]
    unknown = [name for name in weights if name not in own]
    other = [name for name, value in weights.items() if name in own and value.shape != own[name].shape]
    classes = [name for name in own if own[name].is_floating_point()][-2:]  # the last layer's
    if other and set(other) <= set(classes) and not missing and not unknown:
        ours, theirs = len(own[other[0]]), len(weights[other[0]])
        raise UserError(
            f"{where}: weights for {theirs} classes, and here are {ours}; name weights for the same classes"
        )
    for what, names in (("lacks", missing), ("has, but the net lacks,", unknown)):
        if names:
            raise UserError(f"{where}: {what} {listed(names, 1)}; name weights of the same net")
    if other:
        name = other[0]
        raise UserError(
            f"{where}: {name} has the shape {_shape(weights[name])}, and in the net {_shape(own[name])}; name weights "
            f"of the same net"
        )
    model.load_state_dict(weights, strict=False)


def _shape(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "scalar"
