"""Nonlinearities."""

from __future__ import annotations

import functools
import math

from torch import Tensor, nn
from torch.nn import functional as F

from resexp.config import ModelConfig
from resexp.config.plugins import Custom, find

LEAK = 0.01
"""Slope of `leaky_relu` below zero: PyTorch's default."""
ETA = 0.9
"""What TAT brings the cosine of two orthogonal inputs to at the end of the net (arXiv 2203.08120, section 4.1)."""


def make_activation(config: ModelConfig) -> nn.Module:
    """The nonlinearity of one place in a net."""
    chosen = config.activation
    if isinstance(chosen, Custom):
        made: nn.Module = find("activation", chosen.name, chosen.source).make(**dict(chosen.options))
        return made
    if chosen == "tat":
        return Tailored(tailored_slope(config.depth - 1))
    known: dict[str, type[nn.Module]] = {
        "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh, "gelu": nn.GELU,
    }  # fmt: skip
    return known[chosen]()


def gain(config: ModelConfig) -> float:
    """What weights of variance 1 / fan-in are multiplied by, so that signals keep their size through a layer."""
    names = {"relu": "relu", "gelu": "relu", "leaky_relu": "leaky_relu", "tanh": "tanh", "tat": "linear"}
    name = names.get(config.activation, "relu") if isinstance(config.activation, str) else "relu"
    return nn.init.calculate_gain(name, LEAK if name == "leaky_relu" else None)  # type: ignore[arg-type]


class Tailored(nn.Module):
    """A leaky ReLU, scaled so that it keeps the second moment of a standard normal input (arXiv 2203.08120)."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope, self.scale = slope, math.sqrt(2 / (1 + slope**2))

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)."""
        return F.leaky_relu(x, self.slope) * self.scale


def cosine_after(slope: float, cosine: float) -> float:
    """The cosine between two signals after a wide layer and a Tailored ReLU, from that before it (arXiv
    2203.08120, equation 9)."""
    angle = math.sqrt(max(0.0, 1 - cosine**2)) - cosine * math.acos(max(-1.0, min(1.0, cosine)))
    return cosine + (1 - slope) ** 2 / (math.pi * (1 + slope**2)) * angle


@functools.cache
def tailored_slope(layers: int, eta: float = ETA) -> float:
    """The slope at which `layers` layers turn a cosine of 0 into `eta`, by bisection: deeper nets are more linear."""

    def at_the_end(slope: float) -> float:
        cosine = 0.0
        for _ in range(layers):
            cosine = cosine_after(slope, cosine)
        return cosine

    if at_the_end(0.0) <= eta:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at_the_end(middle) > eta else (low, middle)
    return (low + high) / 2
