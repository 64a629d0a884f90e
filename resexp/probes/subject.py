"""What a probe measures: a net in some state, and the images it is trained on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from resexp.config import ModelConfig
from resexp.data.loader import normalise

Probing = Generator[int, None, dict[str, Any]]
"""A probe at work: yields 0 between pieces, so that it can be stopped, and returns what it found."""

SAMPLE = 1000
"""Images that most probes measure on."""
BATCH = 250
"""Default number of images per forward pass."""


@dataclass(frozen=True)
class ProbeInput:
    """A net that a probe may modify, and its training images, on one device in float32."""

    config: ModelConfig
    model: nn.Module
    images: Tensor
    """uint8 (N, H, W, 3)."""
    labels: Tensor
    mean: Tensor
    """Per-pixel mean, (H, W, 3)."""
    index: np.ndarray[Any, np.dtype[np.int64]]
    """The images that are trained on."""

    def split(self, images: int, size: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """The first `images` training images of a random order, or all, not augmented: the same ones for every net.

        They come in batches of `size`; by default BATCH, fewer for images over 32 x 32.
        """
        order = np.random.default_rng(0).permutation(self.index)[:images]
        height, width = self.images.shape[1:3]
        size = size or max(1, BATCH * 32 * 32 // max(32 * 32, height * width))
        for chosen in torch.split(torch.from_numpy(order).to(self.images.device), size):
            yield normalise(self.images[chosen], self.mean), self.labels[chosen]


@dataclass(frozen=True)
class Probe:
    """A measurement of a net, and which nets it makes no sense for."""

    measure: Callable[[ProbeInput], Probing]
    headline: Callable[[dict[str, Any]], str]
    """The main number of the result, for one line."""
    why_not: Callable[[ModelConfig], str] = lambda model: ""
    """Why the probe makes no sense for a net; empty if it does."""


@torch.no_grad()
def forward(model: nn.Module, x: Tensor) -> None:
    """A forward pass for its hooks.

    no_grad holds for the whole thread, so a probe must not keep it on while another run has its turn.
    """
    model(x)


@torch.no_grad()
def error_and_loss(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[float, float]:
    """Training error, a fraction, and mean loss in eval mode."""
    model.eval()
    found, images = [], 0
    for x, y in batches:
        logits = model(x)
        found.append(torch.stack(((logits.argmax(1) != y).sum(), F.cross_entropy(logits, y, reduction="sum"))))
        images += len(y)
    wrong, loss = torch.stack(found).sum(0).tolist()
    return wrong / images, loss / images


def wide(x: Tensor) -> Tensor:
    """`x` in float64 (float32 on MPS), for exact sums of squares."""
    return x.detach().float() if x.device.type == "mps" else x.detach().double()


def moments_of_outputs(
    subject: ProbeInput, modules: Mapping[str, nn.Module]
) -> Generator[int, None, dict[str, Moments]]:
    """The moments of each module's output on SAMPLE images, in the mode that the net is in."""
    found = {name: Moments() for name in modules}
    with ExitStack() as hooks:
        for name, module in modules.items():
            hooks.enter_context(found[name].of_outputs(module))
        for x, _ in subject.split(SAMPLE):
            forward(subject.model, x)
            yield 0
    return found


class Moments:
    """Mean and variance of numbers that come in pieces, over all axes together and over each channel."""

    def __init__(self) -> None:
        self.count = 0
        self._sum: Tensor | float = 0.0
        self._squares: Tensor | float = 0.0

    def of_outputs(self, module: nn.Module) -> RemovableHandle:
        """Add each output of the module until the handle is removed."""
        return module.register_forward_hook(lambda module, inputs, output: self.add(output))

    def add(self, x: Tensor) -> None:
        """Add a batch (B, C, ...)."""
        x = wide(x).transpose(0, 1).flatten(1)
        self.count += x.shape[1]
        self._sum = self._sum + x.sum(1)
        self._squares = self._squares + x.square().sum(1)

    @property
    def of_channels(self) -> tuple[Tensor, Tensor]:
        """Mean and variance over images and positions, (C,) each."""
        mean, squares = torch.as_tensor(self._sum) / self.count, torch.as_tensor(self._squares) / self.count
        return mean, (squares - mean**2).clamp(min=0)

    @property
    def mean(self) -> float:
        """Over images, positions and channels."""
        return float(self.of_channels[0].mean())

    @property
    def variance(self) -> float:
        """Over images, positions and channels."""
        mean, variance = self.of_channels
        return float(variance.mean() + mean.var(correction=0))

    @property
    def channel_std(self) -> float:
        """The standard deviation over images and positions, averaged over channels."""
        return float(self.of_channels[1].sqrt().mean())
