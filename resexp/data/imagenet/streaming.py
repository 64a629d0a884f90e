"""Images that are decoded while a net is trained: ImageNet's batches, a few ahead of the device."""

from __future__ import annotations

import functools
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from resexp.config import ImageNetData, RunConfig
from resexp.data.imagenet import ImageNet
from resexp.data.imagenet.loader import ImageRequest, Loader, Pending, centre, plan
from resexp.data.imagenet.statistics import statistics
from resexp.data.imagenet.tree import Split
from resexp.data.loader import normalise
from resexp.device.hardware import Hardware
from resexp.utils.machine import cores

BATCHES_AHEAD = 4
"""Batches that are decoded, or being decoded, while another is trained on."""
SAMPLE = 2000
"""Training images that probes look at."""


@dataclass
class _Slot:
    """A batch on the host, on its way to the device."""

    images: Tensor
    labels: Tensor
    light: Tensor
    pending: Pending
    step: int = -1
    copied: torch.cuda.Event | None = None
    """CUDA event after the copy; then the host buffer may be reused."""


class StreamingInput:
    """Batches of images read from files; what is done to them is a pure function of (seed, epoch, position).

    Threads decode, resize and crop (section 3.4: the shorter side drawn from [256, 480], a crop of 224, or its flip).
    They go to the device as bytes, where the mean is subtracted and light is added (Krizhevsky et al. 2012).
    """

    def __init__(self, config: RunConfig, dataset: ImageNet, hardware: Hardware) -> None:
        data, ranks, device = config.data, hardware.ranks, hardware.device
        assert isinstance(data, ImageNetData)
        self._dataset, self._data, self._config, self._cuda = dataset, data, config, device.type == "cuda"
        found = statistics(dataset)
        mean = found.pixel_mean if data.mean == "pixel" else np.broadcast_to(found.channel_mean, found.pixel_mean.shape)
        self.mean = torch.tensor(mean, device=device)
        self._basis = torch.tensor(found.components * found.eigenvalues, device=device)  # columns: components
        self.val_resize, self._centre = data.val_resize, centre(data.val_resize)
        self.loader = Loader(dataset, decoders(data, hardware), data.timeout, found.channel_mean.tolist())
        self._within = np.array_split(np.arange(config.train.batch_size), ranks.world_size)[ranks.rank]
        n = len(dataset.train_index)
        self._plan = functools.lru_cache(2)(lambda epoch: plan(config.seed, epoch, n, data))
        self._slots = [self._slot() for _ in range(BATCHES_AHEAD)]
        there = self._slot()
        self._images, self._labels, self._light = (t.to(device) for t in (there.images, there.labels, there.light))

    def _slot(self) -> _Slot:
        count, crop = len(self._within), self._data.crop
        images = self._pinned(count, crop, crop, 3, dtype=torch.uint8)
        labels, light = self._pinned(count, dtype=torch.int64), self._pinned(count, 3)
        return _Slot(images, labels, light, Pending(self.loader, []))

    def _pinned(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.zeros(shape, dtype=dtype, pin_memory=self._cuda)  # or a copy would wait for what is queued

    def prepare(self, step: int) -> None:
        """See InMemoryInput."""
        for later in range(step, min(step + BATCHES_AHEAD, self._config.train.steps)):
            if self._slots[later % BATCHES_AHEAD].step != later:
                self._begin(later)
        slot = self._slots[step % BATCHES_AHEAD]
        slot.pending.wait()
        for there, here in ((self._images, slot.images), (self._labels, slot.labels), (self._light, slot.light)):
            if there.device.type == "cpu":  # torch's threads would keep spinning on the cores that decode
                np.copyto(there.numpy(), here.numpy())
            else:
                there.copy_(here, non_blocking=True)
        if self._cuda:
            # Who waits for it leaves the core to a thread that decodes.
            slot.copied = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            slot.copied.record()

    def settle(self) -> None:
        """Wait until no batch is being read."""
        for slot in self._slots:
            slot.pending.wait()

    def _begin(self, step: int) -> None:
        """Let the threads decode this rank's part of a batch; it may reach into the next epoch."""
        slot = self._slots[step % BATCHES_AHEAD]
        if slot.copied is not None:
            slot.copied.synchronize()
        requests, labels = list[ImageRequest](), self._dataset.labels("train")
        epochs, within = np.divmod(step * self._config.train.batch_size + self._within, len(self._dataset.train_index))
        for epoch in np.unique(epochs):
            plan, here = self._plan(int(epoch)), epochs == epoch
            images, places = plan.image[within[here]], np.flatnonzero(here)
            slot.labels[places] = torch.from_numpy(labels[images])
            slot.light[places] = torch.from_numpy(plan.lighting[within[here]])
            requests += [
                ImageRequest("train", int(i), plan.view(at)) for i, at in zip(images, within[here], strict=True)
            ]
        slot.step, slot.pending = step, self.loader.load(requests, slot.images.numpy())

    def batch(self, step: Tensor) -> tuple[Tensor, Tensor]:
        """See InMemoryInput; `step` is the one that was prepared last."""
        light = self._light @ self._basis.T
        return normalise(self._images, self.mean) + light[:, :, None, None], self._labels

    def eval_index(self, split: str) -> NDArray[np.int64]:
        """See InMemoryInput. For "train", a fixed and evenly drawn subset; "val" and "test" are both all of `val/`."""
        if split != "train":
            return np.arange(self._dataset.images("val"))
        return self._drawn(self._data.train_eval_images)

    def _drawn(self, count: int) -> NDArray[np.int64]:
        """`count` training images of all classes; smaller selections are part of larger ones."""
        return np.sort(np.random.default_rng(0).permutation(len(self._dataset.train_index))[:count])

    def eval_batches(
        self, split: str, chunks: Sequence[NDArray[np.int64]], side: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """See InMemoryInput; the centre crop, or a centre square of `side` pixels."""
        part: Split = "train" if split == "train" else "val"
        labels = torch.from_numpy(self._dataset.labels(part))
        for chunk, images, _ in self._read_ahead(part, chunks, side or self._data.crop):
            yield images, labels[chunk].pin_memory() if self._cuda else labels[chunk]

    def whole(self, chunks: Sequence[NDArray[np.int64]]) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """The images of `val/` that `chunks` name in their own sizes, those of a chunk that have one size together:
        which, and pixels uint8 (b, H, W, 3)."""
        for chunk, _, pending in self._read_ahead("val", chunks, None):
            images = pending.images
            sizes: dict[tuple[int, ...], list[int]] = defaultdict(list)
            for place, image in enumerate(images):
                sizes[image.shape].append(place)
            for places in sizes.values():
                yield chunk[places], torch.from_numpy(np.stack([images[place] for place in places]))

    def _read_ahead(
        self, part: Split, chunks: Sequence[NDArray[np.int64]], side: int | None
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Pending]]:
        """Each chunk with centre crops of `side` pixels; without `side`, whole images are in what was pending.

        The next two chunks have been begun by then.
        """

        def begin(chunk: NDArray[np.int64]) -> tuple[Tensor, Pending]:
            requests = [ImageRequest(part, int(image), self._centre) for image in chunk]
            images = self._pinned(len(chunk), side or 0, side or 0, 3, dtype=torch.uint8)
            return images, self.loader.load(requests, images.numpy() if side else None)

        begun = deque(map(begin, chunks[:2]))
        for number, chunk in enumerate(chunks):
            images, pending = begun.popleft()
            begun.extend(map(begin, chunks[number + 2 : number + 3]))
            pending.wait()
            yield chunk, images, pending

    def sample(self) -> tuple[Tensor, Tensor, NDArray[np.int64]]:
        """See InMemoryInput: a subset of the images for the clean training error."""
        ((images, labels),) = self.eval_batches("train", [self._drawn(min(SAMPLE, self._data.train_eval_images))])
        return images.to(self.mean.device), labels.to(self.mean.device), np.arange(len(labels))

    def while_waiting(self, look: Callable[[], None]) -> None:
        """See InMemoryInput."""
        self.loader.waiting = look

    def close(self) -> None:
        """See InMemoryInput."""
        self.loader.close()


def decoders(data: ImageNetData, hardware: Hardware) -> int:
    """Threads that decode, unless `data` says how many: with GPUs each process gets its share of the cores, on a CPU
    as many as compute."""
    if data.workers:
        return data.workers
    if hardware.device.type == "cpu":
        return torch.get_num_threads()
    return max(1, cores() // hardware.ranks.local_world_size)
