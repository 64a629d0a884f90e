"""What a net costs: parameters, multiply-adds and activations, counted on a net without memory."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from resexp.config import ModelConfig
from resexp.models import build_model


@dataclass(frozen=True)
class Summary:
    """Counts of one net for one image."""

    parameters: int
    multiply_adds: int
    """Of convolutions and fully connected layers in one forward pass, as the paper counts FLOPs (Table 1)."""
    activations: int
    """Numbers that its convolutions put out."""

    def step_flops(self, batch: int) -> float:
        """Floating-point operations of one training step: forward, and twice as much backward."""
        return 2 * 3 * self.multiply_adds * batch

    def step_bytes(self, batch: int, itemsize: int) -> float:
        """The fewest bytes of activations that a step moves where each layer is one kernel per pass over its data.

        Of each convolution's output, `itemsize` bytes a number. Forward: written, read for BN's statistics, read and
        written normalised, read by the next layer. Backward: the gradient is written, read with the output for BN's
        sums, both read again and one written, then gradient and input read for the weights and the gradient for the
        input. 5 + 9 = 14 passes.
        """
        return 14 * self.activations * batch * itemsize

    def memory(self, batch: int, itemsize: int) -> float:
        """About the bytes of device memory that training takes: each convolution's output is kept for the backward
        pass before and after BN; weights, gradients, momentum and casts; a margin for workspaces."""
        return 1.25 * 2 * self.activations * batch * itemsize + 16 * self.parameters + (512 << 20)


@functools.cache
def summarise(config: ModelConfig, height: int, width: int, classes: int = 10) -> Summary:
    """Count the net that `config` describes on images of `height` x `width` pixels."""
    counts = {"multiply_adds": 0, "activations": 0}

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if isinstance(module, nn.Conv2d):
            counts["activations"] += output.numel()
        if isinstance(module, nn.Conv2d | nn.Linear):
            counts["multiply_adds"] += output.numel() * module.weight[0].numel()

    with torch.device("meta"):
        model = build_model(config, classes)
        for module in model.modules():
            module.register_forward_hook(count)
        with torch.no_grad():
            model.eval()(torch.empty(1, 3, height, width))
    return Summary(sum(p.numel() for p in model.parameters()), **counts)
