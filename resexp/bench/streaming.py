"""What is timed of a study of ImageNet: reading its images, computing its steps, and both together.

Nothing is read while another has its turn: each waits for what it has begun, and so is timed for just what it did.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from resexp.bench.contestants import Case, Loop, Sgd, make_trainers, stepping, waiting
from resexp.data import ImageNet, open_dataset
from resexp.data.imagenet.streaming import StreamingInput, decoders
from resexp.device.hardware import tune_process

FEW = 16
"""Images in a batch of a DataLoader: of more, the last workers of a turn would have to be waited for too long."""


def input_alone(case: Case, facts: dict[str, Any]) -> Loop:
    """Batches are read and brought to the device; nothing is computed."""
    tune_process()
    pipeline, steps = _pipeline(StreamingInput, case), itertools.count()
    facts |= {"decoders": _decoders(case), "computes": False}

    def loop(batches: int) -> None:
        for step in itertools.islice(steps, batches):
            pipeline.prepare(step)
        pipeline.settle()

    return waiting(loop, case.hardware.device)


def compute_alone(case: Case, facts: dict[str, Any]) -> Loop:
    """Steps on a batch that stays on the device."""
    (trainer,) = make_trainers(case, facts)
    trainer.close()
    trainer.pipeline = _pipeline(_Kept, case)
    return stepping([trainer])


def together(case: Case, facts: dict[str, Any]) -> Loop:
    """Steps as a run takes them."""
    (trainer,) = make_trainers(case, facts)
    steps, pipeline = stepping([trainer]), trainer.pipeline
    assert isinstance(pipeline, StreamingInput)
    facts["decoders"] = _decoders(case)

    def loop(batches: int) -> None:
        steps(batches)
        pipeline.settle()

    return loop


class _Kept(StreamingInput):
    """One batch, for all steps."""

    _read = False

    def prepare(self, step: int) -> None:
        if not self._read:
            super().prepare(0)
            self.settle()
            self._read = True


def _images(case: Case) -> ImageNet:
    dataset = open_dataset(case.config.data)
    assert isinstance(dataset, ImageNet)
    return dataset


def _decoders(case: Case) -> int:
    return decoders(_images(case).config, case.hardware)


def _pipeline(kind: type[StreamingInput], case: Case) -> StreamingInput:
    return kind(case.config, _images(case), case.hardware)


def torchvision_input(case: Case, facts: dict[str, Any]) -> Loop:
    """The common public recipe: Pillow and torchvision transforms in a DataLoader's workers, as many as `input` has
    threads."""
    from torchvision import transforms  # slow to import, and no part of the others' start-up

    dataset = _images(case)
    labels = dataset.labels("train")
    transform = transforms.Compose(
        [transforms.RandomResizedCrop(dataset.config.crop), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
    )

    class Images(Dataset[tuple[Tensor, int]]):
        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            try:
                image = Image.open(dataset.file("train", index)).convert("RGB")
            except OSError:
                image = Image.new("RGB", dataset.size)
            pixels: Tensor = transform(image)
            return pixels, int(labels[index])

    class Turn(Sampler[list[int]]):
        left = 0

        def __iter__(self) -> Iterator[list[int]]:
            for _ in range(self.left):
                chosen = torch.randint(len(labels), (case.config.train.batch_size,)).tolist()
                yield from (chosen[start : start + FEW] for start in range(0, len(chosen), FEW))

    turn, device = Turn(), case.hardware.device
    facts |= {"decoders": _decoders(case), "computes": False}
    loader = DataLoader(
        Images(),
        batch_sampler=turn,
        num_workers=facts["decoders"],
        pin_memory=device.type == "cuda",
        persistent_workers=True,
        multiprocessing_context="fork",
    )

    def loop(batches: int) -> None:
        turn.left = batches
        for x, y in loader:
            x.to(device, non_blocking=True), y.to(device, non_blocking=True)

    return waiting(loop, device)


def usual_amp(case: Case, facts: dict[str, Any]) -> Loop:
    """The common public loop on a batch that stays on the device: torchvision's net, autocast, channels_last, compiled
    on a GPU."""
    from torchvision import models

    dataset, model, batch = _images(case), case.config.model, case.config.train.batch_size
    make = getattr(models, f"{'vgg' if model.kind == 'vgg' else 'resnet'}{model.depth}")
    step = Sgd(case, model=make(num_classes=len(dataset.classes)))
    if step.device.type == "cuda":
        step.model.compile()
    x = torch.randn(batch, 3, *dataset.size, device=step.device).to(memory_format=torch.channels_last)
    y = torch.zeros(batch, dtype=torch.int64, device=step.device)

    def loop(steps: int) -> None:
        for _ in range(steps):
            step(x, y)

    return waiting(loop, step.device)
