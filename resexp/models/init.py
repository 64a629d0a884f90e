"""Initial weights."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resexp.config import ModelConfig
from resexp.config.plugins import PluginRef
from resexp.models.layers import from_plugin


def init_weights(config: ModelConfig, modules: Iterable[nn.Module]) -> None:
    """Initialise the convolutions and fully connected layers among `modules`, drawn in their order; biases are zero."""
    init_convolution = _initialiser(config)
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.Linear):
            initialise = init_convolution if isinstance(module, nn.Conv2d) else he
            initialise(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def init_classifier(config: ModelConfig, layer: nn.Linear) -> None:
    """Scale the initial weights of the last layer to `model.classifier_std`; with Fixup they become zero."""
    if config.norm == "fixup":
        nn.init.zeros_(layer.weight)
    elif config.classifier_std is not None:
        with torch.no_grad():
            layer.weight.mul_(config.classifier_std / math.sqrt(2 / layer.in_features))


def _initialiser(config: ModelConfig) -> Callable[[Tensor], object]:
    """The function that fills the weight of a convolution, in place."""
    if isinstance(config.init, PluginRef):
        return functools.partial(from_plugin, "init", config.init)
    if isinstance(config.activation, PluginRef):
        gain = math.sqrt(2)
    else:  # the standard deviation of weights, times sqrt(fan-in), that preserves the variance of signals
        nonlinearity = {"gelu": "relu", "tat": "linear"}.get(config.activation, config.activation)
        gain = nn.init.calculate_gain(nonlinearity)  # type: ignore[arg-type]
    known: dict[str, Callable[[Tensor], object]] = {
        "he": functools.partial(he, gain=gain),
        "orthogonal": functools.partial(nn.init.orthogonal_, gain=gain),
        "delta-orthogonal": functools.partial(delta_orthogonal, gain=gain),
        "dirac": dirac,
    }
    return known[config.init]


def he(weight: Tensor, gain: float = math.sqrt(2)) -> None:
    """Normal numbers of standard deviation `gain` / sqrt(fan-in) (arXiv 1502.01852)."""
    nn.init.normal_(weight, std=gain / math.sqrt(weight[0].numel()))


@torch.no_grad()
def dirac(weight: Tensor) -> None:
    """The identity, plus random filters of norm 0.1 (arXiv 1706.00388, where both factors are learned).

    The identity alone fills as many channels as the image has. All others would stay zero, and so would their
    gradients.
    """
    nn.init.normal_(weight)
    random = 0.1 * F.normalize(weight.flatten(1)).view_as(weight)
    nn.init.dirac_(weight).add_(random)


@torch.no_grad()
def delta_orthogonal(weight: Tensor, gain: float) -> None:
    """Zeros, and in the middle of each kernel an orthogonal matrix times `gain` (arXiv 1806.05393, algorithm 1).

    `weight` has shape (out, in, k, k). The singular values of the middle pixel's (out, in) matrix are all `gain`.
    """
    middle = torch.empty(weight.shape[:2])
    nn.init.orthogonal_(middle, gain)
    weight.zero_()
    weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = middle.to(weight.device)
