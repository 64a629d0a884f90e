"""How fast training is beside the loops people write by hand: `make benchmark`. Prints ratios and a JSON line.

Everything is measured in one run, in turns, since machines differ and are noisy:

1. one ResNet-20 step (batch 128, 32x32, one thread) against a hand-written PyTorch loop over data in memory;
2. images/s of a sweep on two cores (two single-threaded runs) against the usual loop (torchvision transforms, a
   DataLoader with two workers, two threads, ``.item()`` each step);
3. peak memory of a run on 50,000 images of 32x32, beside a process that only imports torch.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from multiprocessing.synchronize import Barrier

import torch
from torch import nn
from torch.nn import functional as F

from resexp.config import ModelConfig, RunConfig, ShapesData, TrainConfig
from resexp.data import open_dataset
from resexp.models import build_model
from resexp.training.hardware import choose, tune_process
from resexp.training.trainer import Trainer

CONFIG = RunConfig(
    data=ShapesData(source="shapes", train_images=50_000, test_images=100, size=32),
    model=ModelConfig(depth=20),
    train=TrainConfig(device="cpu"),
)
BATCH = CONFIG.train.batch_size
ROUNDS, STEPS = 7, 6


def ours() -> Callable[[int], None]:
    """Our trainer, as a function that takes so many steps."""
    tune_process(None)
    trainer = Trainer(CONFIG, open_dataset(CONFIG.data), choose(CONFIG.train))
    return lambda steps: trainer.advance(trainer.step + steps, lambda: False)


def by_hand() -> Callable[[int], None]:
    """The plain PyTorch loop over tensors that are ready: no augmentation, nothing recorded."""
    model, optimizer = _model_and_sgd()
    images, labels = open_dataset(CONFIG.data).train()
    x = (torch.from_numpy(images[: 20 * BATCH]).float() / 255 - 0.5).permute(0, 3, 1, 2).contiguous()
    y = torch.from_numpy(labels[: 20 * BATCH])

    def run(steps: int) -> None:
        for step in range(steps):
            part = slice(step % 20 * BATCH, (step % 20 + 1) * BATCH)
            optimizer.zero_grad()
            F.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()

    return run


def usual() -> Callable[[int], None]:
    """The common public recipe: torchvision transforms on PIL images, DataLoader workers, `.item()` each step."""
    from torch.utils.data import DataLoader, Dataset
    from torchvision import transforms

    transform = transforms.Compose(
        [
            transforms.ToPILImage(),
            transforms.RandomCrop(32, padding=4),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)),
        ]
    )
    images, labels = open_dataset(CONFIG.data).train()

    class Images(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return len(images)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            return transform(images[index]), int(labels[index])

    model, optimizer = _model_and_sgd()
    loader = iter(DataLoader(Images(), BATCH, shuffle=True, num_workers=2, drop_last=True))

    def run(steps: int) -> None:
        total = 0.0
        for _ in range(steps):
            x, y = next(loader)
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            total += loss.item()

    return run


def _model_and_sgd() -> tuple[nn.Module, torch.optim.Optimizer]:
    model = build_model(CONFIG.model).train()
    return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)


def timed(run: Callable[[int], None], steps: int) -> float:
    """Seconds a step."""
    started = time.perf_counter()
    run(steps)
    return (time.perf_counter() - started) / steps


def _one_of_two(barrier: Barrier, results: multiprocessing.Queue[float]) -> None:
    torch.set_num_threads(1)
    run = ours()
    run(2)
    barrier.wait()
    for _ in range(ROUNDS):
        barrier.wait()
        seconds = timed(run, STEPS)
        results.put(BATCH / seconds)
        barrier.wait()


def step_ratio() -> list[float]:
    """Ours / by hand, seconds a step, in turns, one thread."""
    torch.set_num_threads(1)
    a, b = ours(), by_hand()
    a(2), b(2)
    return [timed(a, STEPS) / timed(b, STEPS) for _ in range(ROUNDS)]


def sweep_ratio() -> list[float]:
    """Images/s of two single-threaded runs side by side / of the usual loop with two threads and two workers."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(3), context.Queue()
    for _ in range(2):
        context.Process(target=_one_of_two, args=(barrier, results), daemon=True).start()
    torch.set_num_threads(2)
    loop = usual()
    loop(3)
    barrier.wait()  # until both have warmed up: from here on, only one side computes at a time
    ratios = []
    for _ in range(ROUNDS):
        theirs = BATCH / timed(loop, STEPS)
        barrier.wait()
        barrier.wait()
        ratios.append((results.get() + results.get()) / theirs)
    return ratios


def peak_mib(code: str) -> float:
    """Peak resident memory of a process that runs `code`, in MiB."""
    child = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport resource; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"],
        capture_output=True,
        text=True,
        check=True,
    )
    return int(child.stdout) / (1024 if sys.platform == "linux" else 1024**2)


def main() -> None:
    """Measure, and print a table and a JSON line."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["RESEXP_DATA"] = folder
        open_dataset(CONFIG.data)
        alone = peak_mib("import torch")
        run = peak_mib("from tests.benchmarks.loops import ours; ours()(5)")
        figures = {"step: ours / by hand": step_ratio(), "sweep on two cores: ours / usual loop": sweep_ratio()}
    print(f"{'ratio':40} median   min   max")
    for name, ratios in figures.items():
        print(f"{name:40} {statistics.median(ratios):6.2f} {min(ratios):5.2f} {max(ratios):5.2f}")
    print(f"peak memory beside torch itself: {run - alone:.0f} MiB ({run:.0f} - {alone:.0f})")
    print(json.dumps({"figures": figures, "peak_mib": {"run": run, "torch": alone}, "torch": torch.__version__}))


if __name__ == "__main__":
    main()
