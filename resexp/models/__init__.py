"""Nets, by the words of a study file."""

from __future__ import annotations

from torch import nn

from resexp.config import ModelConfig
from resexp.models.resnet import ResNet
from resexp.models.vgg import VGG

__all__ = ["VGG", "ResNet", "build_model"]

FAMILIES: dict[str, type[ResNet | VGG]] = {"plain": ResNet, "residual": ResNet, "preact": ResNet, "vgg": VGG}


def build_model(config: ModelConfig, classes: int = 10) -> nn.Module:
    """The net that `config` describes, He-initialised from torch's current random state."""
    return FAMILIES[config.kind](config, classes)
