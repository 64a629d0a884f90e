"""Whether a study of ImageNet waits for its images or for its nets, measured in one run.

A contender's turn ends when all that it began to read has arrived, so nothing is read in another's turn.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from resexp.bench.steps import Sgd, make_trainers, stepping
from resexp.bench.turns import COLUMNS, Benchmark, Case, Loop, Measurement, with_range
from resexp.config import RunConfig
from resexp.data import ImageNet, open_dataset
from resexp.data.imagenet.statistics import statistics as take_statistics
from resexp.data.imagenet.streaming import StreamingInput, decoders
from resexp.device.hardware import choose_hardware, tune_process
from resexp.errors import UserError
from resexp.utils.machine import cores

LOADER_BATCH = 16
"""Images per batch of a DataLoader. With more, a turn would end with a long wait for the last workers."""
_STEPS = 1 << 40
"""Steps of a timed run; more than can be reached."""
NOT_COMPUTED = {"computes": False, "flop": 0.0, "bytes": 0.0}
"""Facts about a contender that only reads."""


def input_alone(case: Case, facts: dict[str, Any]) -> Loop:
    """Batches are read and brought to the device; nothing is computed."""
    tune_process()
    pipeline, steps = StreamingInput(case.config, _images(case), case.hardware), itertools.count()
    facts |= {"decoders": _decoders(case), **NOT_COMPUTED}

    def loop(batches: int) -> None:
        for step in itertools.islice(steps, batches):
            pipeline.prepare(step)
        pipeline.settle()

    return loop


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
                yield from (chosen[start : start + LOADER_BATCH] for start in range(0, len(chosen), LOADER_BATCH))

    turn, device = Turn(), case.hardware.device
    facts |= {"decoders": _decoders(case), **NOT_COMPUTED}
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

    return loop


def compute_alone(case: Case, facts: dict[str, Any]) -> Loop:
    """Steps on a batch that stays on the device."""
    (trainer,) = make_trainers(case, facts)
    assert isinstance(trainer.pipeline, StreamingInput)
    trainer.pipeline.prepare(0)
    trainer.pipeline.settle()
    trainer.pipeline.prepare = lambda step: None  # type: ignore[method-assign]
    return stepping([trainer])


def usual_amp(case: Case, facts: dict[str, Any]) -> Loop:
    """The common public loop on a batch that stays on the device: torchvision's net, autocast, channels_last, compiled
    on a GPU."""
    from torchvision import models  # slow to import, as above

    dataset, model, batch = _images(case), case.config.model, case.config.train.batch_size
    if model.kind not in ("residual", "vgg") or model.variant != "imagenet" or model.width != 64:
        raise UserError("torchvision has no such net; it has residual nets and VGG of width 64")
    name = f"{'vgg' if model.kind == 'vgg' else 'resnet'}{model.depth}"
    step = Sgd(case, model=models.get_model(name, num_classes=len(dataset.classes)))
    if step.device.type == "cuda":
        step.model.compile()
    x = torch.randn(batch, 3, *dataset.size, device=step.device).to(memory_format=torch.channels_last)
    y = torch.zeros(batch, dtype=torch.int64, device=step.device)

    def loop(steps: int) -> None:
        for _ in range(steps):
            step(x, y)

    return loop


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


CONTENDERS = {
    "input": input_alone,
    "torchvision's input": torchvision_input,
    "compute": compute_alone,
    "usual AMP loop": usual_amp,
    "together": together,
}
RIVALS = {"input": "torchvision's input", "compute": "usual AMP loop"}
"""What each is compared with."""


def _images(case: Case) -> ImageNet:
    dataset = open_dataset(case.config.data)
    assert isinstance(dataset, ImageNet)
    return dataset


def _decoders(case: Case) -> int:
    return decoders(_images(case).config, case.hardware)


def _cases(config: RunConfig, runs: Sequence[int] | None) -> list[Case]:
    endless = config.with_train(steps=_STEPS, schedule="milestones", milestones=())
    threads = cores() if choose_hardware(config.train).device.type == "cpu" else None
    cases = [Case(what, build, endless, threads=threads) for what, build in CONTENDERS.items()]
    take_statistics(_images(cases[0]))  # once, and not in each process
    return cases


def summary(measured: Sequence[Measurement]) -> dict[str, list[dict[str, Any]]]:
    """The rows of contenders, and which of input and compute is the slower one.

    `over`: times as fast as its rival in the same round: median, least, most. `decoders`: threads, or processes, that
    read images. `times`: how many times as fast the other one is.
    """
    by_name = {m.case.what: m for m in measured}
    rows: list[dict[str, Any]] = []
    for what, m in by_name.items():
        rival = by_name.get(RIVALS.get(what, ""))
        rows.append(
            {
                **m.row(),
                "ms_per_batch": 1000 * m.facts["images"] / statistics.median(m.rates()),
                "decoders": m.facts.get("decoders"),
                "gflops": statistics.median(m.rates("flop")) / 1e9 if m.facts.get("computes", True) else None,
                "over": m.over(rival) if rival else None,
            }
        )
    bottlenecks = []
    if {"input", "compute"} <= by_name.keys():
        rates = {row["what"]: row["images_per_second"] for row in rows if row["what"] not in RIVALS.values()}
        slower, faster = sorted(("input", "compute"), key=rates.__getitem__)
        times = by_name[faster].over(by_name[slower])
        bottlenecks.append({"net": rows[0]["net"], "slower": slower, "images_per_second": rates, "times": times})
    return {"rows": rows, "bottlenecks": bottlenecks}


def _remark(found: dict[str, Any]) -> str:
    median, least, most = found["times"]
    rates = ", ".join(f"{what} {rate:,.4g}" for what, rate in found["images_per_second"].items())
    other = "compute" if found["slower"] == "input" else "input"
    return (
        f"{found['net']}: the bottleneck is {found['slower']}; {other} is {median:.3g} times as fast [{least:.3g}, "
        f"{most:.3g}]; images/s: {rates}"
    )


BENCHMARK = Benchmark(
    _cases,
    summary,
    {
        "what": lambda row: row["what"],
        "net": COLUMNS["net"],
        "ms/batch": lambda row: f"{row['ms_per_batch']:.4g}",
        "img/s": lambda row: with_range(row, ",.4g"),
        "threads": lambda row: str(row["decoders"] or ""),
        "img/s each": lambda row: f"{row['images_per_second'] / row['decoders']:,.4g}" if row["decoders"] else "",
        "GFLOP/s": lambda row: "" if row["gflops"] is None else f"{row['gflops']:,.0f}",
        "x rival": lambda row: "" if row["over"] is None else "{:.2f} [{:.2f}, {:.2f}]".format(*row["over"]),
        "start-up": COLUMNS["start-up"],
        "memory": COLUMNS["memory"],
    },
    "Medians over the rounds ± half the range. input: batches are read, decoded, cropped and "
    "brought to the device, and nothing is computed. torchvision's input: the same from its usual transforms on Pillow "
    "images in as many worker processes as input has threads; it always reads the original files. compute: steps on a "
    "batch that stays on the device. usual AMP loop: torchvision's net of the same depth on such a batch, in the same "
    "precision, compiled on a GPU. together: a run's own steps; where input and compute share a CPU's cores, slower "
    "than either. x rival: images/s of input over torchvision's input, and of compute over the usual AMP loop, in the "
    "same round, with the least and the most.",
    _remark,
)
