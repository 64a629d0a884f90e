"""Errors, losses and logits of a net on images that are not augmented, and BN's statistics over them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resexp.data.input import InputPipeline
from resexp.data.loader import normalise
from resexp.device.concurrent import HostThrottle, Task
from resexp.device.cuda_graph import CudaGraphed
from resexp.device.hardware import Hardware
from resexp.errors import StopRequested
from resexp.models.layers import averaging_bn
from resexp.runs.logits import FEW_CLASSES

EVAL_BATCH = 500
NO_CLASS = -100
"""Label of the places in an evaluation's last batch that hold no image."""


class Evaluation(NamedTuple):
    """The result of a pass over a split: errors, fractions in [0, 1], and the mean loss."""

    error: float
    top5_error: float | None
    """None if there are few classes."""
    loss: float
    logits: Tensor
    """float32 (N, classes), in the order of the images; of the test images only, else (0, classes)."""

    def record(self, split: str) -> dict[str, float]:
        """As lines of metrics have it."""
        top5 = {} if self.top5_error is None else {f"{split}_top5_error": self.top5_error}
        return {f"{split}_error": self.error, **top5, f"{split}_loss": self.loss}


def rank_of(scores: Tensor, labels: Tensor) -> Tensor:
    """Rank of the true class, shape (N,), from scores (N, classes); ties go to the lower class index."""
    own, classes = labels[:, None], torch.arange(scores.shape[1], device=scores.device)
    score = scores.gather(1, own)
    return ((scores > score) | ((scores == score) & (classes < own))).sum(1)


class Evaluator:
    """Evaluates a net in eval mode, one batch after another; every rank has its part of each."""

    def __init__(
        self,
        model: nn.Module,
        pipeline: InputPipeline,
        hardware: Hardware,
        autocast: torch.autocast,
        *,
        batch: int,
        classes: int,
    ) -> None:
        """`batch`: images per forward pass on each rank."""
        self._model, self._pipeline, self._hardware, self._autocast = model, pipeline, hardware, autocast
        device = pipeline.mean.device
        self._images = torch.zeros((batch, *pipeline.mean.shape), dtype=torch.uint8, device=device)
        self._labels = torch.zeros(batch, dtype=torch.int64, device=device)
        self._logits = torch.zeros((batch, classes), device=device)
        self._sums = torch.zeros(3, device=device)
        self._step = CudaGraphed(self._forward, hardware)

    def evaluate(self, split: str, pause: Callable[[], bool]) -> Task[Evaluation]:
        """Error, loss and logits on "train", "val" or "test". Raises StopRequested if `pause()` between batches."""
        ranks, throttle = self._hardware.ranks, HostThrottle(self._hardware)
        index, (places, classes) = self._pipeline.eval_index(split), self._logits.shape
        starts = range(places * ranks.rank, len(index) + places * ranks.rank, places * ranks.world_size)
        self._model.eval()
        self._sums.zero_()
        logits = self._logits.new_zeros((len(index) if split == "test" else 0, classes))
        parts = self._pipeline.eval_batches(split, [index[first : first + places] for first in starts])
        for number, (first, (images, labels)) in enumerate(zip(starts, parts, strict=True), 1):
            count = len(labels)  # at the end there may be none for the last ranks
            self._images[:count].copy_(images, non_blocking=True)
            self._labels[:count].copy_(labels, non_blocking=True)
            self._labels[count:].fill_(NO_CLASS)
            self._step()
            if split == "test":
                logits[first : first + count] = self._logits[:count]
            if number % throttle.stride == 0:
                if ranks.any_rank(pause()):
                    raise StopRequested
                yield from throttle.limit(0, ahead=1)
        ranks.all_reduce(self._sums)
        ranks.all_reduce(logits)
        yield from throttle.limit(0, ahead=0)
        wrong, wrong5, loss = (value / len(index) for value in self._sums.tolist())
        return Evaluation(wrong, wrong5 if classes > FEW_CLASSES else None, loss, logits)

    @torch.inference_mode()
    def _forward(self) -> None:
        y = self._labels
        with self._autocast, torch.compiler.set_stance("force_eager"):  # compiling for it would not pay
            logits = self._model(normalise(self._images, self._pipeline.mean)).float()
        loss = F.cross_entropy(logits, y, reduction="sum", ignore_index=NO_CLASS)
        counts = y != NO_CLASS
        wrong = ((logits.argmax(1) != y) & counts).sum()
        wrong5 = ((rank_of(logits, y.clamp(min=0)) >= 5) & counts).sum()
        self._logits.copy_(logits)
        self._sums += torch.stack((wrong.float(), wrong5.float(), loss))

    def recompute_bn(self, chosen: np.ndarray[tuple[int], np.dtype[np.int64]], pause: Callable[[], bool]) -> Task[int]:
        """Replace BN's moving averages by mean and variance over the `chosen` training images, without augmentation.

        They go through the net in batches of nearly equal size, each normalised by its own statistics. The average of
        these statistics replaces the moving averages. Returns the number of batches. Raises StopRequested if
        `pause()` between them; then nothing has changed.
        """
        batches = np.array_split(chosen, math.ceil(len(chosen) / len(self._labels)))
        before = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        throttle, count = HostThrottle(self._hardware), 0
        with averaging_bn(self._model) as expect:
            for images, labels in self._pipeline.eval_batches("train", batches):
                images = images.to(self._pipeline.mean.device, non_blocking=True)
                if count and pause():
                    self._model.load_state_dict(before, strict=False)
                    raise StopRequested
                count += len(labels)
                expect(len(labels))
                with torch.no_grad(), self._autocast, torch.compiler.set_stance("force_eager"):
                    self._model(normalise(images, self._pipeline.mean))
                yield from throttle.limit(0, ahead=1)
        yield from throttle.limit(0, ahead=0)
        return len(batches)
