"""Probes: what a net is like inside, at any moment of its training. They read training images, never the test set."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from resexp.config import ModelConfig
from resexp.probes.gradients import gradients
from resexp.probes.landscape import landscape
from resexp.probes.lesion import lesion
from resexp.probes.signals import branches, responses, signals
from resexp.probes.subject import Probing, Subject

__all__ = ["PROBES", "Probe", "Probing", "Subject"]


@dataclass(frozen=True)
class Probe:
    """How a net is looked at, and which nets it makes no sense for."""

    take: Callable[[Subject], Probing]
    refuses: Callable[[ModelConfig], str] = lambda model: ""
    """Why the probe makes no sense for a net; empty where it does."""


def _without_blocks(model: ModelConfig) -> str:
    return "VGG has no blocks" if model.kind == "vgg" else ""


def _without_branches(model: ModelConfig) -> str:
    return f"a {model.kind} net has no residual branches" if model.shortcut is None else ""


def _without_responses(model: ModelConfig) -> str:
    if model.kind in ("preact", "vgg"):
        return f"a {model.kind} net has no BN between a 3x3 layer and its ReLU"
    return ""


PROBES: dict[str, Probe] = {
    "gradients": Probe(gradients),
    "signals": Probe(signals),
    "responses": Probe(responses, _without_responses),
    "branches": Probe(branches, _without_branches),
    "lesion": Probe(lesion, _without_blocks),
    "landscape": Probe(landscape),
}
