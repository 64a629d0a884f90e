"""The endless stream of training batches: order and augmentation are a pure function of (seed, epoch, position).

So a run that continues needs to know nothing but its step, and sees what it would have seen.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F


class Plan(NamedTuple):
    """For each position: which image (index into the training images), which crop, whether flipped."""

    image: Tensor
    dy: Tensor
    dx: Tensor
    flip: Tensor


class Stream:
    """Epoch after epoch, each a new permutation; a batch may span two epochs, so none is ever short."""

    def __init__(self, index: NDArray[np.int64], seed: int, pad: int, flip: bool) -> None:
        """`index` are the images to draw from; `pad` the crop's range in pixels."""
        self.index, self.seed, self.pad, self.flip = index, seed, pad, flip
        self._epochs: dict[int, Plan] = {}

    def epoch(self, number: int) -> Plan:
        """The plan of one epoch."""
        if number not in self._epochs:
            rng = np.random.default_rng((self.seed, number))
            n = len(self.index)
            order = rng.permutation(self.index)
            offsets = rng.integers(0, 2 * self.pad + 1, (2, n))
            flip = rng.random(n) < 0.5 if self.flip else np.zeros(n, dtype=bool)
            self._epochs = {k: v for k, v in self._epochs.items() if k == number - 1}
            self._epochs[number] = Plan(*map(torch.from_numpy, (order, offsets[0], offsets[1], flip)))
        return self._epochs[number]

    def batch(self, step: int, size: int) -> Plan:
        """The plan of the batch of update number `step`, counted from 0."""
        position, parts, n = step * size, [], len(self.index)
        while size:
            epoch, start = divmod(position, n)
            taken = min(size, n - start)
            parts.append(Plan(*(column[start : start + taken] for column in self.epoch(epoch))))
            position, size = position + taken, size - taken
        return parts[0] if len(parts) == 1 else Plan(*map(torch.cat, zip(*parts, strict=True)))


def normalise(images: Tensor, mean: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in channels_last layout, per-pixel mean subtracted (section 4.2)."""
    return (images.float() / 255 - mean).permute(0, 3, 1, 2)


def augment(images: Tensor, mean: Tensor, plan: Plan, pad: int) -> Tensor:
    """The batch of `plan`: per-pixel mean subtracted, zero-padded, cropped, flipped.

    `images` is uint8 (N, H, W, 3), `mean` float (H, W, 3); returns float (B, 3, H, W) in channels_last layout. Batched
    index arithmetic with fixed shapes, on whatever device the images are.
    """
    batch = images[plan.image].float() / 255 - mean
    batch = F.pad(batch, (0, 0, pad, pad, pad, pad))
    height, width = mean.shape[:2]
    rows = plan.dy[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(len(batch), -1)
    columns = plan.dx[:, None] + torch.where(plan.flip[:, None], width - 1 - columns, columns)
    each = torch.arange(len(batch), device=images.device)[:, None, None]
    return batch[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
