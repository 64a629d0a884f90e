"""What a net costs: parameters, multiply-adds and activations, summed over its layers.

Forward hooks record the layers while one image passes through the net on the meta device.
"""

from __future__ import annotations

import functools
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from resexp.config import ModelConfig
from resexp.config.plugins import PluginRef
from resexp.errors import UserError
from resexp.layer_table import Layer, LayerKind
from resexp.models import build_model
from resexp.models.blocks import Block


@dataclass(frozen=True)
class NetSummary:
    """Counts of one net for one image."""

    layers: tuple[Layer, ...]
    """In the order in which an image meets them; a block's shortcut comes last."""

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
        """Number of output values of all convolutions."""
        return sum(math.prod(layer.output) for layer in self.layers if layer.kind == "conv")

    @property
    def receptive_field(self) -> int:
        """Receptive field of the last convolution, pixels per side."""
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

    def kept_bytes(self, batch: int, itemsize: int) -> int:
        """About the bytes of activations that a step keeps for its backward pass: each convolution's output before and
        after BN, `itemsize` bytes a number."""
        return 2 * self.activations * batch * itemsize

    def training_bytes(self, batch: int, itemsize: int) -> float:
        """About the bytes of device memory that training takes: the activations it keeps; weights, gradients, momentum
        and casts; a margin for workspaces."""
        return 1.25 * self.kept_bytes(batch, itemsize) + 16 * self.parameters + (512 << 20)


@functools.cache
def summarise_net(config: ModelConfig, height: int, width: int, classes: int = 10) -> NetSummary:
    """Count the net that `config` describes on images of `height` x `width` pixels.

    Raises UserError where a plug-in's part fails on tensors without numbers.
    """
    try:
        return _traced(config, height, width, classes)
    except UserError:
        raise
    except Exception as error:
        if names := [f"{value}" for _, value in config if isinstance(value, PluginRef)]:
            raise UserError(
                f"{', '.join(names)}: can't be counted on PyTorch's meta device, where tensors have shapes without "
                f"numbers: {error}"
            ) from error
        raise


def _traced(config: ModelConfig, height: int, width: int, classes: int) -> NetSummary:
    with torch.device("meta"):
        model = build_model(config, classes)
        trace = _Trace(first=next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)))
        for name, module in model.named_modules():
            if isinstance(module, Block):
                module.register_forward_pre_hook(functools.partial(trace.enter, name))
            module.register_forward_hook(functools.partial(trace.leave, name))
        with torch.no_grad():
            model.eval()(torch.empty(1, 3, height, width))
        trace.count(model.parameters())  # those of layers that a plug-in does not call
    # A layer that is called several times has its parameters once.
    return NetSummary(tuple(replace(layer, parameters=trace.parameters.pop(layer.name, 0)) for layer in trace.layers))


class _Trace:
    """Forward hooks that record each layer. Parameters of other modules (BN, scalars) count for the preceding layer, or
    with the first."""

    def __init__(self, first: str) -> None:
        self.layers: list[Layer] = []
        self.parameters: Counter[str] = Counter()
        self.counted = set[int]()
        self.weighted = first
        self.field = self.field_of_block = (1, 1)
        """Receptive field of one feature-map position, and its stride in input pixels."""
        self.block: str | None = None

    def count(self, parameters: Iterable[nn.Parameter]) -> None:
        """Add those parameters that were not counted yet; a layer may be called several times."""
        new = {id(parameter): parameter.numel() for parameter in parameters if id(parameter) not in self.counted}
        self.counted.update(new)
        self.parameters[self.weighted] += sum(new.values())

    def enter(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A block begins."""
        self.block, self.field_of_block = name, self.field

    def leave(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """A module has made `output`."""
        if isinstance(module, nn.Conv2d | nn.Linear):
            self.weighted = name
        self.count(module.parameters(recurse=False))
        if isinstance(module, nn.Conv2d | nn.MaxPool2d):
            self._window(name, module, output)
        elif isinstance(module, nn.Linear):
            self._average(module.in_features)
            cost, what = output.numel() * module.in_features, f"fc {module.out_features}"
            self.layers.append(Layer(name, "fc", what, self.block, False, (module.out_features, 1, 1), 0, cost, None))
        elif isinstance(module, Block):
            self.block = None

    def _window(self, name: str, module: nn.Conv2d | nn.MaxPool2d, output: Tensor) -> None:
        """A layer whose outputs each see a square of its input."""
        _, channels, height, width = output.shape
        kind: LayerKind
        if isinstance(module, nn.Conv2d):
            size, stride = module.kernel_size[0], module.stride[0]
            kind, what, cost = "conv", f"conv, {channels}", output.numel() * module.weight[0].numel()
        else:
            size, stride = int(module.kernel_size), int(module.stride)  # type: ignore[arg-type]
            kind, what, cost = "pool", "max pool", 0
        on_shortcut = "shortcut" in name.split(".")
        before, step = self.field_of_block if on_shortcut else self.field
        field = before + (size - 1) * step
        if not on_shortcut:
            self.field = (field, step * stride)
        what = f"{size}x{size} {what}" + (f", /{stride}" if stride > 1 else "")
        size_of_output = (channels, height, width)
        self.layers.append(Layer(name, kind, what, self.block, on_shortcut, size_of_output, 0, cost, field))

    def _average(self, features: int) -> None:
        """Count the average of the last feature map, which is a function and so has no hook. There was one if a fully
        connected layer takes fewer features than the map has values."""
        channels, height, width = self.layers[-1].output
        side = math.isqrt(features // channels)
        if (height, width) != (side, side):
            pooled = (channels, side, side)
            self.layers.append(Layer("average", "pool", "average pool", self.block, False, pooled, 0, 0, None))
