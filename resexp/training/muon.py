"""Muon: momentum whose matrices are orthogonalised (Jordan et al. 2024, "Muon: An optimizer for hidden layers")."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

MOMENTUM = 0.95
COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that brings all singular values near 1."""
ITERATIONS = 5


def orthogonalise(matrix: Tensor) -> Tensor:
    """U V^T of a matrix U S V^T, shape (m, n), roughly: singular values come to lie between 0.7 and 1.2.

    Newton-Schulz iterations in float32.
    """
    a, b, c = COEFFICIENTS
    x = matrix.float()
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: Tensor = x if wide else x.T
    return found


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for convolutions, as matrices (out, in * k * k); SGD with Nesterov momentum for all else.

    Weight decay is decoupled for convolutions. The rate of a matrix (m, n) is multiplied by sqrt(max(1, m / n)). The
    step reads nothing on the host, so it can be captured as a CUDA graph.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: Tensor, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            rate, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                buffer = self.state[parameter]["momentum_buffer"]
                gradient = parameter.grad
                if parameter.ndim == 4:
                    buffer.lerp_(gradient, 1 - MOMENTUM)
                    rows, columns = parameter.shape[0], parameter[0].numel()
                    update = orthogonalise(gradient.lerp(buffer, MOMENTUM).flatten(1)).view_as(parameter)
                    parameter.mul_(1 - rate * decay)
                    parameter.sub_(rate * math.sqrt(max(1, rows / columns)) * update)
                else:
                    gradient = gradient + decay * parameter
                    buffer.mul_(momentum).add_(gradient)
                    parameter.sub_(rate * (gradient + momentum * buffer))
