"""Nets, by the words of a study file."""

from __future__ import annotations

from resexp.config import ModelConfig
from resexp.models.resnet import ResNet

__all__ = ["ResNet", "build_model"]


def build_model(config: ModelConfig, classes: int = 10) -> ResNet:
    """The net that `config` describes, He-initialised from torch's current random state."""
    return ResNet((config.depth - 2) // 6, config.width, config.shortcut, classes)
