"""What a net costs: parameters, multiply-adds and activations, summed over its layers."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from resexp.config import ModelConfig
from resexp.layer_table import Layer
from resexp.models.trace import trace


@dataclass(frozen=True)
class Summary:
    """Counts of one net for one image."""

    layers: tuple[Layer, ...]
    """In the order in which an image meets them."""

    @functools.cached_property
    def parameters(self) -> int:
        """All that is trained."""
        return sum(layer.parameters for layer in self.layers)

    @functools.cached_property
    def multiply_adds(self) -> int:
        """Multiply-adds of convolutions and fully connected layers per forward pass: the paper's FLOPs (Table 1)."""
        return sum(layer.multiply_adds for layer in self.layers)

    @functools.cached_property
    def activations(self) -> int:
        """Numbers that its convolutions put out."""
        return sum(math.prod(layer.output) for layer in self.layers if layer.kind == "conv")

    @property
    def receptive_field(self) -> int:
        """Pixels a side of the image that one output of the last convolution sees."""
        fields = [layer.receptive_field for layer in self.layers if layer.kind == "conv" and not layer.on_shortcut]
        assert fields[-1] is not None
        return fields[-1]

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

    def kept(self, batch: int, itemsize: int) -> int:
        """About the bytes of activations that a step keeps for its backward pass: each convolution's output before and
        after BN, `itemsize` bytes a number."""
        return 2 * self.activations * batch * itemsize

    def memory(self, batch: int, itemsize: int) -> float:
        """About the bytes of device memory that training takes: the activations it keeps; weights, gradients, momentum
        and casts; a margin for workspaces."""
        return 1.25 * self.kept(batch, itemsize) + 16 * self.parameters + (512 << 20)


@functools.cache
def summarise(config: ModelConfig, height: int, width: int, classes: int = 10) -> Summary:
    """Count the net that `config` describes on images of `height` x `width` pixels."""
    return Summary(trace(config, height, width, classes))
