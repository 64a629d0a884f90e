"""The speed of a training step, compared with two training loops as people write them, and with what the device can do.

Each contender is built in a process of its own and is a function that does a number of units of its work.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from itertools import chain, repeat
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from resexp.bench.turns import COLUMNS, Benchmark, Case, Loop, Measurement, with_range
from resexp.config import RunConfig
from resexp.data import open_dataset
from resexp.data.loader import BatchPlan, augment, pixel_mean
from resexp.device.concurrent import POLL_S, on_stream
from resexp.device.hardware import choose_hardware, tune_process, with_stream
from resexp.errors import UserError
from resexp.models import build_model
from resexp.training.trainer import Trainer
from resexp.utils.machine import cores


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
    if len(images) < case.config.train.batch_size:
        raise UserError(f"it needs a whole batch, and there are {len(images):,} images; lower train.batch_size")
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


BASELINES = ("usual loop", "eager loop")
CEILINGS = {"matmul": matmul, "copy": copy}


def _cases(config: RunConfig, runs: Sequence[int] | None) -> list[Case]:
    """Ours with each number of runs, the baselines, and the ceilings. The rate is constant: more steps may be timed
    than the study has, and other schedules list the rates of its steps.

    Runs share a process on a GPU; on a CPU each has a single-threaded one. None: numbers that show what the machine
    can do.
    """
    config = config.with_train(schedule="milestones", milestones=())
    if choose_hardware(config.train).device.type == "cpu":
        many = [Case("resexp", ours, config, processes=count, threads=1) for count in runs or sorted({1, cores()})]
        whole, ceiling = {"threads": cores()}, {"processes": cores(), "threads": 1}
    else:
        many = [Case("resexp", ours, config, runs=count) for count in runs or (1, 2, 4, 8)]
        whole = ceiling = {}
    fp32 = config.with_train(precision="fp32")
    return [
        *many,
        Case("usual loop", usual_loop, fp32, **whole),
        Case("eager loop", eager_loop, config, **whole),
        *(Case(what, build, config, **ceiling) for what, build in CEILINGS.items()),
    ]


def summary(measured: Sequence[Measurement]) -> dict[str, list[dict[str, Any]]]:
    """The rows of loops. `over`: times as fast as each baseline, in the same round: median, least, most. `of_matmul`,
    `of_copy`: shares of the ceilings."""
    by_name = {m.case.what: m for m in measured}

    def share(m: Measurement, quantity: str, ceiling: str) -> float:
        return m.over(by_name[ceiling], quantity)[0] if ceiling in by_name else 0.0

    rows = []
    for m in measured:
        if m.case.what in CEILINGS:
            continue
        at_once = m.case.runs * m.case.processes
        baselines = [what for what in BASELINES if what in by_name] if m.case.what == "resexp" else []
        rows.append(
            {
                **m.row(),
                "at_once": at_once,
                "ms_per_step": 1000 * at_once * m.case.config.train.batch_size / statistics.median(m.rates()),
                "gflops": statistics.median(m.rates("flop")) / 1e9,
                "of_matmul": share(m, "flop", "matmul"),
                "gbytes": statistics.median(m.rates("bytes")) / 1e9,
                "of_copy": share(m, "bytes", "copy"),
                "over": {what: m.over(by_name[what]) for what in baselines},
                "capture_s": m.facts.get("capture_s"),
            }
        )
    return {"rows": rows}


def _times(row: dict[str, Any], baseline: str) -> str:
    return f"{row['over'][baseline][0]:.2f}" if baseline in row["over"] else ""


BENCHMARK = Benchmark(
    _cases,
    summary,
    {
        "loop": lambda row: row["what"],
        "net": COLUMNS["net"],
        "at once": lambda row: str(row["at_once"]),
        "ms/step": lambda row: f"{row['ms_per_step']:.4g}",
        "img/s": lambda row: with_range(row, ",.0f"),
        "GFLOP/s": lambda row: f"{row['gflops']:,.0f} ({row['of_matmul']:.0%})",
        "GB/s": lambda row: f"{row['gbytes']:,.4g} ({row['of_copy']:.0%})",
        "x usual": lambda row: _times(row, "usual loop"),
        "x eager": lambda row: _times(row, "eager loop"),
        "start-up": COLUMNS["start-up"],
        "capture": lambda row: "" if row["capture_s"] is None else f"{row['capture_s']:.1f} s",
        "memory": COLUMNS["memory"],
    },
    "Medians over the rounds ± half the range. at once: runs side by side. GFLOP/s: "
    "multiply-adds of convolutions and fc layers, forward and backward, as two operations each. GB/s: the fewest "
    "bytes of activations that a step moves without fusing layers. In brackets, the share of what a large matrix "
    "product, or a large copy, reached on the same device in the same round; small layers stay in a GPU's cache, so "
    "a step can move more than a large copy does. x usual, x eager: images/s over the loop with torchvision "
    "transforms, DataLoader and .item() in fp32, and over a good eager loop with its data on the device, each in the "
    "same round. start-up: from the start of the process to the end of the first step. memory: peak of one process; "
    "on a GPU, of the GPU's.",
)
