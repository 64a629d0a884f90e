"""Initial weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from resexp.config import ModelConfig
from resexp.config.plugins import Custom, find
from resexp.models.layers import gain


def init_weights(config: ModelConfig, modules: Iterable[nn.Module]) -> None:
    """Initialise the convolutions and fully connected layers among `modules`, drawn in their order; biases are zero."""
    fill = _filler(config)
    for module in modules:
        if isinstance(module, nn.Conv2d | nn.Linear):
            if isinstance(module, nn.Conv2d):
                fill(module.weight)
            else:
                he(module.weight)
            if module.bias is not None:
                nn.init.zeros_(module.bias)


def _filler(config: ModelConfig) -> Callable[[Tensor], object]:
    chosen = config.init
    if isinstance(chosen, Custom):
        made = find("init", chosen.name, chosen.source).make
        return lambda weight: made(weight, **dict(chosen.options))
    size = gain(config)
    known: dict[str, Callable[[Tensor], object]] = {
        "he": lambda weight: he(weight, size),
        "orthogonal": lambda weight: nn.init.orthogonal_(weight, size),
        "delta-orthogonal": lambda weight: delta_orthogonal(weight, size),
        "dirac": nn.init.dirac_,
    }
    return known[chosen]


def he(weight: Tensor, size: float = 2**0.5) -> None:
    """Normal numbers of standard deviation `size` / sqrt(fan-in) (arXiv 1502.01852)."""
    nn.init.kaiming_normal_(weight, nonlinearity="relu") if size == 2**0.5 else nn.init.normal_(
        weight, std=size / weight[0].numel() ** 0.5
    )


@torch.no_grad()
def delta_orthogonal(weight: Tensor, size: float) -> None:
    """Zeros, and in the middle of each kernel an orthogonal matrix times `size` (arXiv 1806.05393, algorithm 1).

    `weight` has shape (out, in, k, k). The singular values of the middle pixel's (out, in) matrix are all `size`.
    """
    middle = torch.empty(weight.shape[:2])
    nn.init.orthogonal_(middle, size)
    weight.zero_()
    weight[:, :, weight.shape[2] // 2, weight.shape[3] // 2] = middle.to(weight.device)
