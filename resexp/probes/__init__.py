"""Probes: measurements inside a net, at any moment of its training. They read training images, never the test set."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from resexp.config import ModelConfig
from resexp.probes.gradients import gradients
from resexp.probes.landscape import landscape
from resexp.probes.lesion import lesion
from resexp.probes.signals import branches, responses, signals
from resexp.probes.subject import ProbeInput, Probing

__all__ = ["PROBES", "Probe", "ProbeInput", "Probing"]


@dataclass(frozen=True)
class Probe:
    """A measurement of a net, and which nets it makes no sense for."""

    take: Callable[[ProbeInput], Probing]
    headline: Callable[[dict[str, Any]], str]
    """The main number of the result, for one line."""
    why_not: Callable[[ModelConfig], str] = lambda model: ""
    """Why the probe makes no sense for a net; empty where it does."""


def _without_blocks(model: ModelConfig) -> str:
    return "VGG has no blocks" if model.kind == "vgg" else ""


def _without_branches(model: ModelConfig) -> str:
    return f"a {model.kind} net has no residual branches" if model.shortcut is None else ""


def _without_responses(model: ModelConfig) -> str:
    if model.kind in ("preact", "vgg"):
        return f"a {model.kind} net has no BN between a 3x3 layer and its ReLU"
    return ""


def _gradients(found: dict[str, Any]) -> str:
    first, *_, last = (layer["norm"] for layer in found["layers"])
    return (
        f"norm {found['norm']:.3g}, first layer {first:.3g}, last {last:.3g}; signal to noise {_shown(found['snr'])}; "
        f"neighbours at {found['distances'][2]} agree by {_shown(found['agreement'][2])}"
    )


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.2g}"


def _signals(found: dict[str, Any]) -> str:
    variances = [layer["variance"] for layer in found["layers"]]
    return f"variance of a layer's output {min(variances):.3g} to {max(variances):.3g}"


def _branches(found: dict[str, Any]) -> str:
    ratios = [block["ratio"] for block in found["blocks"] if block["ratio"] is not None]
    if not ratios:
        return "nothing comes through"
    return f"|F(x)| is {min(ratios):.2f} to {max(ratios):.2f} of |x|, median {statistics.median(ratios):.2f}"


def _lesion(found: dict[str, Any]) -> str:
    errors = [block["error"] for block in found["without"] if block["same"]]
    if not errors:
        return f"training error {100 * found['intact']:.1f} %; no block keeps its dimensions"
    without = 100 * statistics.median(errors)
    return f"training error {100 * found['intact']:.1f} %; without a block {without:.1f} % in the median"


def _landscape(found: dict[str, Any]) -> str:
    losses = [loss for row in found["loss"] for loss in row]
    return f"loss {losses[len(losses) // 2]:.3g}, around it {min(losses):.3g} to {max(losses):.3g}"


PROBES: dict[str, Probe] = {
    "gradients": Probe(gradients, _gradients),
    "signals": Probe(signals, _signals),
    "responses": Probe(responses, lambda found: f"mean over layers {found['mean_std']:.2f}", _without_responses),
    "branches": Probe(branches, _branches, _without_branches),
    "lesion": Probe(lesion, _lesion, _without_blocks),
    "landscape": Probe(landscape, _landscape),
}
"""By the names that a study file has for them."""
