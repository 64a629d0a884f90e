"""Where the images of a trainer come from: all of them on its device, or decoded as they are needed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resexp.config import ImageNetData, RunConfig
from resexp.data import Dataset, ImageNet
from resexp.data.imagenet.streaming import StreamingInput
from resexp.data.loader import Batches, augment, pixel_mean
from resexp.device.hardware import Hardware


def to_device(array: NDArray[Any], device: torch.device) -> Tensor:
    """The array on the device. A GPU's copy from pinned memory does not wait for what is queued."""
    here = torch.from_numpy(array)
    return here.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else here.to(device)


class InMemoryInput:
    """The images of a run, as one of its ranks sees them: all on the device, where batches are cut out of them.

    Images are uint8 (B, H, W, 3), labels int64 (B,). `mean`, which is subtracted, is float (H, W, 3) in [0, 1], on the
    device.
    """

    def __init__(self, config: RunConfig, dataset: Dataset, hardware: Hardware) -> None:
        device, batch = hardware.device, config.train.batch_size
        assert not isinstance(config.data, ImageNetData)
        self._dataset, self._pad = dataset, config.data.pad
        self._images, self._labels = (torch.from_numpy(array).to(device) for array in dataset.train())
        self._test: tuple[Tensor, Tensor] | None = None
        self.mean = pixel_mean(self._images, torch.from_numpy(dataset.train_index).to(device))
        self.batches = Batches(dataset.train_index, config.data, config.seed, batch, device, hardware.ranks)

    def prepare(self, step: int) -> None:
        """Called on the host before step `step`: make its batch available."""
        self.batches.prepare(step)

    def batch(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """This rank's part of the batch of update number `step`, an int64 tensor (1,) on the device: augmented images,
        float (B, 3, H, W) in channels_last layout, and labels. Device arithmetic with fixed shapes, for CUDA graphs."""
        plan = self.batches.plan(step)
        return augment(self._images, self.mean, plan, self._pad), self._labels[plan.image]

    def eval_index(self, split: str) -> NDArray[np.int64]:
        """Indices of the images on which the clean error of `split` is computed."""
        if split == "test":
            return np.arange(len(self._dataset.test()[1]))
        return self._dataset.train_index if split == "train" else self._dataset.val_index

    def eval_batches(self, split: str, chunks: Sequence[NDArray[np.int64]]) -> Iterator[tuple[Tensor, Tensor]]:
        """The images of `split` that each of the `chunks` of its index names, not augmented, and their labels: on the
        device, or where a copy to it does not wait for what is queued."""
        device = self._images.device
        if split == "test" and self._test is None:
            images, labels = (to_device(array, device) for array in self._dataset.test())
            self._test = images, labels
        images, labels = (self._test if split == "test" else None) or (self._images, self._labels)
        for chosen in torch.split(to_device(np.concatenate(chunks), device), [len(chunk) for chunk in chunks]):
            yield images[chosen], labels[chosen]

    def sample(self) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        """Training images and labels, not augmented, for probes, on the device; and which of them are trained on."""
        return self._images, self._labels, self._dataset.train_index

    def while_waiting(self, look: Callable[[], None]) -> None:
        """Call `look` about once a second while waiting for images; an exception from it ends the wait."""

    def close(self) -> None:
        """Stop the reader threads, if any."""


InputPipeline = InMemoryInput | StreamingInput


def open_input(config: RunConfig, dataset: Dataset | ImageNet, hardware: Hardware) -> InputPipeline:
    """The pipeline of a run. Slow work is logged. To be closed."""
    if isinstance(dataset, ImageNet):
        return StreamingInput(config, dataset, hardware)
    return InMemoryInput(config, dataset, hardware)
