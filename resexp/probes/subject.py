"""What a probe measures: a net in some state, and the images it is trained on."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resexp.config import ModelConfig
from resexp.data.loader import normalise
from resexp.models.layers import averaging_bn

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

        They come in batches of equal size, at most `size`; by default BATCH, fewer for images over 32 x 32. A last
        batch of one image would have no variance for BN.
        """
        order = np.random.default_rng(0).permutation(self.index)[:images]
        height, width = self.images.shape[1:3]
        size = size or max(1, BATCH * 32 * 32 // max(32 * 32, height * width))
        for chosen in torch.from_numpy(order).to(self.images.device).tensor_split(math.ceil(len(order) / size)):
            yield normalise(self.images[chosen], self.mean), self.labels[chosen]


def in_eval_mode(subject: ProbeInput) -> nn.Module:
    """The net in eval mode. BN of a net that was never trained has no averages; it gets those over SAMPLE images."""
    model = subject.model.eval()
    averages = [norm.running_mean for norm in model.modules() if isinstance(norm, nn.BatchNorm2d)]
    if not any(mean is not None and mean.any() for mean in averages):
        with averaging_bn(model) as expect, torch.no_grad():
            for x, _ in subject.split(SAMPLE):
                expect(len(x))
                model(x)
    return model


@dataclass(frozen=True)
class Probe:
    """A measurement of a net, and which nets it makes no sense for."""

    measure: Callable[[ProbeInput], Probing]
    headline: Callable[[dict[str, Any]], str]
    """The main number of the result, for one line."""
    why_not: Callable[[ModelConfig], str] = lambda model: ""
    """Why the probe makes no sense for a net; empty if it does."""


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


def shown(value: float | None) -> str:
    """A number of a record in a headline; records have None for what is not finite."""
    return "none" if value is None else f"{value:.3g}"


def ends_of(values: Sequence[float | None]) -> str:
    """The least and the largest: ``0.5 to 12``, ``0.5 to 12 (3 not finite)``."""
    known = [value for value in values if value is not None]
    if not known:
        return "none"
    missing = f" ({len(values) - len(known)} not finite)" if len(known) < len(values) else ""
    return f"{min(known):.3g} to {max(known):.3g}{missing}"
