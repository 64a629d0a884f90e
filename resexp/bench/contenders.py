"""What is timed: resexp's own steps, two training loops as people write them, and what the device can do at all.

Each is built in a process of its own and is a function that does a number of units of its work.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from resexp.config import ArrayData, ImageNetData, RunConfig
from resexp.data import open_dataset
from resexp.data.loader import BatchPlan, augment, pixel_mean
from resexp.device.concurrent import POLL_S, on_stream
from resexp.device.hardware import Hardware, choose_hardware, tune_process, with_stream
from resexp.models import build_model
from resexp.models.summary import summarise_net
from resexp.training.trainer import Trainer

Loop = Callable[[int], None]
"""Does a number of units; it need not wait for the device."""


@dataclass(frozen=True)
class Case:
    """One row of the table."""

    what: str
    build: Callable[[Case, dict[str, Any]], Loop]
    """Makes the function that is timed, and writes down facts about it; a function that another process can import."""
    config: RunConfig
    runs: int = 1
    """Side by side in one process."""
    processes: int = 1
    """Side by side, each with `runs`."""
    threads: int | None = None
    """CPU threads of each process."""

    @property
    def hardware(self) -> Hardware:
        """Where it runs."""
        return choose_hardware(self.config.train)

    @property
    def data(self) -> ArrayData:
        """The images; the loops by hand have them all in arrays."""
        assert not isinstance(self.config.data, ImageNetData)
        return self.config.data


def ours(case: Case, facts: dict[str, Any]) -> Loop:
    """Trainers, side by side; a unit is one step of each."""
    return stepping(make_trainers(case, facts))


def make_trainers(case: Case, facts: dict[str, Any]) -> list[Trainer]:
    """The runs of a case, on streams of their own."""
    tune_process()
    dataset = open_dataset(case.config.data)
    trainers = []
    for seed in range(case.runs):
        hardware = with_stream(choose_hardware(case.config.train))
        with torch.cuda.stream(hardware.stream):
            config = case.config.model_copy(update={"seed": seed})
            trainers.append(Trainer(config, dataset, hardware))
    facts["graphs"] = trainers[0].hardware.graphs
    return trainers


def stepping(trainers: Sequence[Trainer]) -> Loop:
    """One step of each trainer, side by side."""

    def loop(steps: int) -> None:
        works = [on_stream(t.hardware, t.advance(t.step + steps, lambda: False)) for t in trainers]
        while works:
            done = [next(work, None) for work in works]
            works = [work for work, steps in zip(works, done, strict=True) if steps is not None]
            if not any(done):
                time.sleep(POLL_S)
        for trainer in trainers:
            trainer.read()

    return loop


def eager_loop(case: Case, facts: dict[str, Any]) -> Loop:
    """Baseline: a hand-written eager loop with images and augmentation on the device, autocast, no synchronisation."""
    step, batch, pad = Sgd(case), case.config.train.batch_size, case.data.pad
    device = step.device
    images, labels = (torch.from_numpy(array).to(device) for array in open_dataset(case.data).train())
    mean = pixel_mean(images, torch.arange(len(images), device=device))

    def loop(steps: int) -> None:
        for _ in range(steps):
            pick = torch.randint(len(images), (batch,), device=device)
            top, left = torch.randint(2 * pad + 1, (2, batch), device=device)
            flip = torch.rand(batch, device=device) < 0.5
            step(augment(images, mean, BatchPlan(pick, top, left, flip), pad), labels[pick])

    return loop


def usual_loop(case: Case, facts: dict[str, Any]) -> Loop:
    """The common public recipe: torchvision transforms on PIL images, DataLoader workers, `.item()` each step."""
    from torchvision import transforms  # slow to import, and no part of the others' start-up

    images, labels = open_dataset(case.data).train()
    transform = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(images.shape[1:3], padding=case.data.pad),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.49, 0.48, 0.45), (0.25, 0.24, 0.26)),
        ]
    )

    class Images(Dataset[tuple[Tensor, int]]):
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[Tensor, int]:
            pixels: Tensor = transform(images[index])
            return pixels, int(labels[index])

    workers = facts["workers"] = min(8, torch.get_num_threads())
    facts["lead_in"] = 2 * workers  # batches that were made while others had their turn
    loader = DataLoader(
        Images(),
        case.config.train.batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=case.hardware.device.type == "cuda",
        drop_last=True,
        persistent_workers=True,
        multiprocessing_context="fork",
    )
    batches, step = chain.from_iterable(repeat(loader)), Sgd(case, layout=torch.contiguous_format)

    def loop(steps: int) -> None:
        total = 0.0
        for _ in range(steps):
            x, y = next(batches)
            total += step(x.to(step.device, non_blocking=True), y.to(step.device, non_blocking=True)).item()

    return loop


class Sgd:
    """The update of loops by hand, of resexp's own model where no other is given."""

    def __init__(
        self, case: Case, model: nn.Module | None = None, layout: torch.memory_format = torch.channels_last
    ) -> None:
        hardware = case.hardware
        self.device = hardware.device
        torch.backends.cudnn.benchmark = True
        self.model = (model or build_model(case.config.model)).to(self.device).to(memory_format=layout).train()
        self.autocast = torch.autocast(self.device.type, hardware.dtype, enabled=hardware.precision != "fp32")
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=hardware.precision == "fp16")
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """One step; returns its loss."""
        self.optimizer.zero_grad()
        with self.autocast:
            loss = F.cross_entropy(self.model(x), y)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach()


def matmul(case: Case, facts: dict[str, Any]) -> Loop:
    """A large matrix product in the type that convolutions have under autocast: what the device can compute."""
    hardware = case.hardware
    size = 8192 if hardware.device.type == "cuda" else 2048
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32  # "fp32" as convolutions take it
    a, b = (torch.randn(size, size, device=hardware.device, dtype=hardware.dtype) for _ in range(2))
    out = a @ b
    facts |= {"images": 0.0, "flop": 2 * size**3, "bytes": 0.0}

    def loop(times: int) -> None:
        for _ in range(times):
            torch.mm(a, b, out=out)

    return loop


def copy(case: Case, facts: dict[str, Any]) -> Loop:
    """A large copy in memory: what the device can move, bytes read and bytes written."""
    device = case.hardware.device
    numbers = (1 << 30 if device.type == "cuda" else 1 << 28) // 4
    a, b = (torch.rand(numbers, device=device) for _ in range(2))
    facts |= {"images": 0.0, "flop": 0.0, "bytes": 2 * 4 * numbers}

    def loop(times: int) -> None:
        for _ in range(times):
            b.copy_(a)

    return loop


def work_of_a_step(case: Case) -> dict[str, float]:
    """What one step of all runs of a process does: images, floating-point operations, and bytes of activations.

    A contender whose unit is no step has its own numbers among its facts.
    """
    dataset, images = open_dataset(case.config.data), case.config.train.batch_size * case.runs
    net = summarise_net(case.config.model, *dataset.size, len(dataset.classes))
    moved = net.step_bytes(images, case.hardware.dtype.itemsize)
    return {"images": float(images), "flop": net.step_flops(images), "bytes": moved}
