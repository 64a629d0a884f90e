"""The layers of a net, seen by sending one image without memory through it."""

from __future__ import annotations

import functools
import math
from collections import Counter
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from resexp.config import ModelConfig
from resexp.layer_table import Kind, Layer
from resexp.models import build_model
from resexp.models.blocks import Block


def trace(config: ModelConfig, height: int, width: int, classes: int) -> tuple[Layer, ...]:
    """The layers of the net that `config` describes, in the order in which an image of `height` x `width` pixels meets
    them; a block's shortcut comes last."""
    with torch.device("meta"):
        model = build_model(config, classes)
        seen = _Trace(first=next(name for name, module in model.named_modules() if isinstance(module, nn.Conv2d)))
        for name, module in model.named_modules():
            if isinstance(module, Block):
                module.register_forward_pre_hook(functools.partial(seen.enter, name))
            module.register_forward_hook(functools.partial(seen.leave, name))
        with torch.no_grad():
            model.eval()(torch.empty(1, 3, height, width))
    return tuple(replace(layer, parameters=seen.parameters[layer.name]) for layer in seen.layers)


@dataclass(frozen=True)
class _View:
    """What one number of a feature map sees of the image."""

    field: int = 1
    """Pixels a side."""
    step: int = 1
    """Pixels between the middles of what two neighbours see."""

    def through(self, size: int, stride: int) -> _View:
        """After a convolution or pooling of `size` x `size`."""
        return _View(self.field + (size - 1) * self.step, self.step * stride)


class _Trace:
    """Hooks that write down each layer. What has parameters and is no layer is counted with the layer before it, or
    with the first."""

    def __init__(self, first: str) -> None:
        self.layers: list[Layer] = []
        self.parameters: Counter[str] = Counter()
        self.weighted = first
        self.view = self.view_of_block = _View()
        self.block: str | None = None

    def enter(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        """A block begins."""
        self.block, self.view_of_block = name, self.view

    def leave(self, name: str, module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        """A module has made `output`."""
        if isinstance(module, nn.Conv2d | nn.Linear):
            self.weighted = name
        self.parameters[self.weighted] += sum(p.numel() for p in module.parameters(recurse=False))
        if isinstance(module, nn.Conv2d):
            size, stride = module.kernel_size[0], module.stride[0]
            cost = output.numel() * module.weight[0].numel()
            what = f"{size}x{size} conv, {module.out_channels}"
            self._spatial(name, "conv", what, size, stride, output, cost)
        elif isinstance(module, nn.MaxPool2d):
            size, stride = int(module.kernel_size), int(module.stride)  # type: ignore[arg-type]
            self._spatial(name, "pool", f"{size}x{size} max pool", size, stride, output)
        elif isinstance(module, nn.Linear):
            self._average(module.in_features)
            cost = output.numel() * module.in_features
            self._add(name, "fc", f"fc {module.out_features}", (module.out_features, 1, 1), None, cost)
        elif isinstance(module, Block):
            self.block = None

    def _spatial(
        self, name: str, kind: Kind, what: str, size: int, stride: int, output: Tensor, multiply_adds: int = 0
    ) -> None:
        on_shortcut = "shortcut" in name.split(".")
        view = (self.view_of_block if on_shortcut else self.view).through(size, stride)
        if not on_shortcut:
            self.view = view
        halves = f", /{stride}" if stride > 1 else ""
        _, channels, height, width = output.shape
        self._add(name, kind, what + halves, (channels, height, width), view.field, multiply_adds, on_shortcut)

    def _average(self, features: int) -> None:
        """Averages are taken by functions, which have no hooks: there was one if a fully connected layer takes another
        number of features than the last feature map has."""
        channels, height, width = self.layers[-1].output
        side = math.isqrt(features // channels)
        if (height, width) != (side, side):
            self._add("average", "pool", "average pool", (channels, side, side), None)

    def _add(
        self,
        name: str,
        kind: Kind,
        what: str,
        output: tuple[int, int, int],
        receptive_field: int | None,
        multiply_adds: int = 0,
        on_shortcut: bool = False,
    ) -> None:
        self.layers.append(Layer(name, kind, what, self.block, on_shortcut, output, 0, multiply_adds, receptive_field))
