"""The endless stream of training batches: order and augmentation are a pure function of (seed, epoch, position).

So a run that continues needs to know nothing but its step, and sees what it would have seen. Epochs are planned on the
host and lie on the device before they are needed; which batch is next, the device counts by itself.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from resexp.config import ArrayData
from resexp.distributed import SINGLE_PROCESS, Ranks


class BatchPlan(NamedTuple):
    """For each position: which image (index into the training images), which crop, whether flipped (1) or not (0)."""

    image: Tensor
    dy: Tensor
    dx: Tensor
    flip: Tensor


def plan_epoch(index: NDArray[np.int64], seed: int, epoch: int, pad: int, flip: bool) -> NDArray[np.int64]:
    """One epoch as the rows of a BatchPlan, (4, n): every image of `index` once, crops of up to `pad` pixels, flips."""
    rng = np.random.default_rng((seed, epoch))
    n = len(index)
    order = rng.permutation(index)
    offsets = rng.integers(0, 2 * pad + 1, (2, n))
    flips = rng.random(n) < 0.5 if flip else np.zeros(n, dtype=bool)
    return np.stack([order, *offsets, flips.astype(np.int64)])


class Batches:
    """Epoch after epoch, each a new permutation; a batch may span epochs, so none is ever short.

    The current epochs are kept in a ring buffer on the device. `prepare` is called from the host before a step;
    `plan` is device arithmetic with fixed shapes, which a CUDA graph can replay.
    """

    def __init__(
        self,
        index: NDArray[np.int64],
        config: ArrayData,
        seed: int,
        size: int,
        device: torch.device,
        ranks: Ranks = SINGLE_PROCESS,
    ) -> None:
        """`index`: the images to draw from. `size`: images per batch, shared by the `ranks`."""
        self.index, self.config, self.seed, self.size = index, config, seed, size
        n = len(index)
        self.epochs = (n + size - 2) // n + 1  # the most epochs that one batch can span
        self._ring = torch.zeros((4, self.epochs * n), dtype=torch.int64, device=device)
        self._within = torch.arange(size, device=device).chunk(ranks.world_size)[ranks.rank]
        self._held: dict[int, int] = {}

    def prepare(self, step: int) -> None:
        """Bring the epochs of batch number `step`, counted from 0, to the device, where they are not there yet."""
        n = len(self.index)
        for epoch in range(step * self.size // n, ((step + 1) * self.size - 1) // n + 1):
            place = epoch % self.epochs
            if self._held.get(place) != epoch:
                rows = torch.from_numpy(plan_epoch(self.index, self.seed, epoch, self.config.pad, self.config.flip))
                if self._ring.is_cuda:
                    rows = rows.pin_memory()  # or the copy would wait for all steps that are queued
                self._ring[:, place * n : (place + 1) * n].copy_(rows, non_blocking=True)
                self._held[place] = epoch

    def plan(self, step: Tensor) -> BatchPlan:
        """The batch of update number `step`, an int64 tensor (1,) on the device; this rank's part of it."""
        position = (step * self.size + self._within) % self._ring.shape[1]
        return BatchPlan(*self._ring.index_select(1, position))


def pixel_mean(images: Tensor, index: Tensor) -> Tensor:
    """Per-pixel mean, float (H, W, 3), of the uint8 images (N, H, W, 3) that `index` names; pixels in [0, 1]."""
    total = torch.zeros(images.shape[1:], dtype=torch.int64, device=images.device)
    for part in torch.split(index, 2000):
        total += images[part].sum(dim=0)  # integers: the order of summation does not matter
    return (total.cpu().double() / len(index) / 255).float().to(images.device)


def normalise(images: Tensor, mean: Tensor) -> Tensor:
    """uint8 (B, H, W, 3) -> float (B, 3, H, W) in channels_last layout, per-pixel mean subtracted (section 4.2)."""
    return (images.float() / 255 - mean).permute(0, 3, 1, 2)


def augment(images: Tensor, mean: Tensor, plan: BatchPlan, pad: int) -> Tensor:
    """The batch of `plan`: per-pixel mean subtracted, zero-padded, cropped, flipped.

    `images` is uint8 (N, H, W, 3), `mean` float (H, W, 3); returns float (B, 3, H, W) in channels_last layout. Batched
    index arithmetic with fixed shapes, on whatever device the images are.
    """
    batch = images[plan.image].float() / 255 - mean
    batch = F.pad(batch, (0, 0, pad, pad, pad, pad))
    height, width = mean.shape[:2]
    rows = plan.dy[:, None] + torch.arange(height, device=images.device)
    columns = torch.arange(width, device=images.device).expand(len(batch), -1)
    columns = plan.dx[:, None] + torch.where(plan.flip[:, None] > 0, width - 1 - columns, columns)
    each = torch.arange(len(batch), device=images.device)[:, None, None]
    return batch[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
