"""What an image of ImageNet costs a core, from its file to the crop a net sees, beside torchvision's usual way.

`python -m tests.benchmarks.imagenet_input [FOLDER OF JPEGS]`; default: drawn shapes, which are smaller than ImageNet's
images. Contenders work in turns, a pass over all images each; what is compared is the time of a CPU within a round.
"""

from __future__ import annotations

import contextlib
import io
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision import transforms

from resexp.config import CacheConfig, ImageNetData
from resexp.data.imagenet import ImageNet, open_imagenet
from resexp.data.imagenet.example import make_example
from resexp.data.imagenet.loader import ImageRequest, Loader, plan
from resexp.data.imagenet.prepare import prepare

ROUNDS = 7
Pass = Callable[[int], object]
"""Bring all images once, as in the epoch of this number."""


def lay_out(images: list[Path], root: Path) -> ImageNetData:
    """Links to the images, half of them in each of two classes."""
    for i, image in enumerate(images):
        for part in ("train", "val"):
            folder = root / part / f"n{i % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{image.stem}.JPEG").symlink_to(image.resolve())
    return ImageNetData(source="imagenet", path=str(root))


def usual(dataset: ImageNet) -> Pass:
    transform = transforms.Compose(
        [transforms.RandomResizedCrop(224), transforms.RandomHorizontalFlip(), transforms.PILToTensor()]
    )

    def run(_: int) -> None:
        for i in range(dataset.images("train")):
            with dataset.file("train", i).open("rb") as file:
                transform(Image.open(file).convert("RGB"))

    return run


def pillow(dataset: ImageNet) -> Pass:
    """Our crop, by Pillow."""

    def run(epoch: int) -> None:
        drawn = plan(0, epoch, dataset.images("train"), dataset.config)
        for i in range(dataset.images("train")):
            image = Image.open(io.BytesIO(dataset.read("train", i))).convert("RGB")
            top, left, height, width = drawn.view(i).box((image.height, image.width), 224)
            box = (left, top, left + width, top + height)
            np.asarray(image.resize((224, 224), Image.Resampling.BILINEAR, box=box))

    return run


def ours(dataset: ImageNet) -> Pass:
    def run(epoch: int) -> None:
        drawn = plan(0, epoch, dataset.images("train"), dataset.config)
        for i in range(dataset.images("train")):
            view = drawn.view(i)
            image = dataset.pixels("train", i, view.side)
            view.crop(image, 224)

    return run


def threads(dataset: ImageNet, workers: int) -> tuple[Loader, Pass]:
    loader, n = Loader(dataset, workers, timeout=60), dataset.images("train")
    out = np.empty((n, 224, 224, 3), dtype=np.uint8)

    def run(epoch: int) -> None:
        drawn = plan(0, epoch, n, dataset.config)
        loader.load([ImageRequest("train", i, drawn.view(i)) for i in range(n)], out).wait()

    return loader, run


def table(contenders: dict[str, Pass], clock: Callable[[], float], images: int, what: str) -> None:
    """Time of an image, and how many times as quick as the first contender each one is."""
    spent: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(ROUNDS + 1):
        for name, run in contenders.items():
            began = clock()
            run(number)
            if number:  # the first round warms caches up
                spent[name].append((clock() - began) / images * 1e3)
    first = next(iter(spent.values()))
    print(f"{what:44} ms an image   times as quick as the first (least-most)")
    for name, times in spent.items():
        ratios = [a / b for a, b in zip(first, times, strict=True)]
        ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})"
        print(f"{name:44} {statistics.median(times):11.2f}   {ratio}")


def main() -> None:
    """Measure, and print two tables."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as opened:
        os.environ["RESEXP_DATA"] = f"{scratch}/home"
        if len(sys.argv) == 1:
            make_example(Path(scratch) / "drawn", 2, 100, 1, 0)
        folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch) / "drawn" / "train"
        images = sorted(p for p in folder.rglob("*") if p.suffix.lower() in (".jpeg", ".jpg"))
        files = open_imagenet(lay_out(images, Path(scratch) / "images"))
        sets = {"files": files}
        for form in ("jpeg", "raw"):
            spec = CacheConfig.model_validate({"side": 500 if form == "jpeg" else 256, "format": form})
            prepare(files, spec, lambda done, total: None, 2)
            sets[f"{form} cache, side {spec.side}"] = open_imagenet(files.config.model_copy(update={"cache": spec}))
        contenders = {"torchvision, as usual": usual(files), "Pillow, our crop": pillow(files)}
        contenders |= {f"resexp, {name}": ours(dataset) for name, dataset in sets.items()}
        table(contenders, time.process_time, len(images), f"{len(images)} images, time of a CPU, one thread")
        pools = {f"loader, {n} threads": threads(files, n) for n in (1, 2, 4)}
        for loader, _ in pools.values():
            opened.enter_context(loader)
        runs = {name: run for name, (_, run) in pools.items()}
        table(runs, time.perf_counter, len(images), f"wall time, {os.cpu_count()} cores")
        table(runs, time.process_time, len(images), "time of a CPU")


if __name__ == "__main__":
    main()
