"""`make gpu-day`: all that is asked of a GPU, in so many seconds, and what is worth keeping of it in a few small files.

Each part runs until it is done or its time is up. The same command continues where the last one stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

PIECE = 15 << 20
"""Bytes of a file to take home, at most."""
GRACE_S = 10.0
"""For a part that is asked to stop, to save what it has."""
RESEXP = (sys.executable, "-m", "resexp")
MINIATURE = ("data={source: shapes, train_images: 256, test_images: 128, size: 16}", "model.width=8", "train.steps=24")
"""What a machine without a GPU does of a study."""
NETS = "residual-20,residual-56,residual-110,residual-1202,imagenet/residual-50"
"""Nets that are timed, with commas between."""


@dataclass(frozen=True)
class Part:
    """A command and the seconds it may take."""

    name: str
    command: Sequence[str]
    most: float


def parts(folder: Path, device: str, data: str | None, studies: Sequence[str]) -> list[Part]:
    """What is done, in this order; on a CPU in miniature."""
    small, results = device == "cpu", folder / "results"
    python, on = (sys.executable, "-m"), ("--set", f"train.device={device}")
    settings = [*on, *(word for setting in (MINIATURE if small else ()) for word in ("--set", setting))]
    if not small:
        settings += ["--set", "seeds=[0, 1, 2]"]  # the first seed of every net comes first
    if data:
        settings += ["--set", "data.source=folder", "--set", f"data.path={data}"]
    times = ("--rounds", "1", "--seconds", "0.05") if small else ("--rounds", "3", "--seconds", "0.5")
    bench = (*RESEXP, "bench", *on, *times)
    nets = ("--set", "data.train_images=2000", *(("--set", "model.width=8") if small else ()))
    precisions = ("--runs", "1", "--depths", "20,56", "--precisions", "fp32,bf16,fp16")
    packs = {"8": "1"} if small else {"20": "1,4,9", "56": "1,4,9", "110": "1,4", "1202": "1"}
    images, study = folder / "images", "smoke" if small else "resnet50"
    roofline = (*python, "tests.gpu.roofline", "--results", f"{results}")
    make = f"[ -d {images} ] || {shlex.join((*RESEXP, 'data', 'example', str(images)))}"
    kinds = ("--kinds", "residual") if small else ()
    steps = ("--config", f"imagenet/{study}", "--set", f"data.path={images}", *kinds, "--out", f"{results}/imagenet")
    many = ("--depths", "8", "--nets", "2", "--width", "8", "--size", "16") if small else ()
    nets_of_benches = "residual-8,imagenet/residual-18" if small else NETS
    # a CPU takes minutes for a convolution in fp16
    tests = ("-k", "(replayed or streamed) and not fp16") if small else ("-n", "6")
    first, *later = (
        Part(name, (*RESEXP, "sweep", "--config", f"cifar10/{name}", "--results", str(results), *settings), seconds)
        for name, seconds in zip(studies, (200.0, *(3600.0,) * len(studies)), strict=False)
    )
    return [
        Part("tests", (*python, "pytest", *tests, "--durations=10", "tests/gpu/test_gpu.py"), 180.0),
        first,
        Part("roofline", (*roofline, "--nets", nets_of_benches), 120.0),
        *(
            Part(
                f"bench-{depth}",
                (*bench, *nets, "--runs", runs, "--depths", depth, "--out", f"{results}/bench-{depth}"),
                150.0,
            )
            for depth, runs in packs.items()
        ),
        *([] if small else [Part("precisions", (*bench, *nets, *precisions, "--out", f"{results}/precisions"), 150.0)]),
        Part("imagenet", ("sh", "-c", f"{make}; exec {shlex.join((*bench, *steps))}"), 150.0),
        Part(
            "many-nets",
            (*python, "tests.benchmarks.many_nets", "--device", device, *times, *many, "--out", str(results)),
            150.0,
        ),
        Part("compared", roofline, 60.0),
        *later,  # as far as time goes
    ]


def run(part: Part, folder: Path, device: str, seconds: float) -> dict[str, object]:
    """Let it work for so long at most; what it prints goes to a file of its name."""
    began = time.monotonic()
    with (folder / f"{part.name}.log").open("ab") as log:
        environment = {**os.environ, "RESEXP_TEST_DEVICE": device}
        process = subprocess.Popen(part.command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        try:
            code: int | None = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(GRACE_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            code = None
    return {"part": part.name, "code": code, "seconds": round(time.monotonic() - began, 1)}


def _stays(name: str) -> bool:
    """Images, and checkpoints: 14 MB for one of ResNet-110, and only of use where the work goes on."""
    return name == "day/images" or name.endswith(".pt")


def take_home(folder: Path, out: Path) -> list[Path]:
    """All that was written, but for images and checkpoints, in files that are small enough."""
    out.mkdir(parents=True, exist_ok=True)
    whole = out / "day.tar.gz"
    with tarfile.open(whole, "w:gz") as archive:
        archive.add(folder, "day", filter=lambda member: None if _stays(member.name) else member)
    content = whole.read_bytes()
    whole.unlink()
    pieces = []
    for number, begin in enumerate(range(0, len(content), PIECE)):
        pieces.append(out / f"day.tar.gz.{number}")
        pieces[-1].write_bytes(content[begin : begin + PIECE])
    return pieces


def main() -> None:
    """Do what is not done yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--budget", type=float, default=600, help="seconds in all")
    parser.add_argument("--folder", type=Path, required=True, help="where the work is done, and continued")
    parser.add_argument("--out", type=Path, required=True, help="for files to take home")
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--data", help="CIFAR-10 as an archive of images; default: what resexp data fetch has fetched")
    parser.add_argument(
        "--studies", help="of configs/cifar10, comma-separated; default: residual56-start,figure6-ends,figure6,warmup"
    )
    parser.add_argument("--only", help="parts, with commas between")
    args = parser.parse_args()
    until = time.monotonic() + args.budget
    args.folder.mkdir(parents=True, exist_ok=True)
    told = args.folder / "day.json"
    done = json.loads(told.read_text()) if told.exists() else []
    studies = args.studies or (
        "figure6-ends" if args.device == "cpu" else "residual56-start,figure6-ends,figure6,warmup"
    )
    ended = {one["part"] for one in done if one["code"] is not None}

    def work(part: Part) -> dict[str, object] | None:
        left = until - time.monotonic() - GRACE_S
        return run(part, args.folder, args.device, min(part.most, left)) if left > 0 else None

    chosen = [part for part in parts(args.folder, args.device, args.data, studies.split(",")) if part.name not in ended]
    if args.only:
        chosen = [part for part in chosen if part.name in args.only.split(",")]
    with ThreadPoolExecutor(2 if args.device == "cpu" else 1) as pool:  # in miniature, times do not matter
        for outcome in filter(None, pool.map(work, chosen)):
            done.append(outcome)
            told.write_text(json.dumps(done, indent=1))
            print(outcome, flush=True)
    for piece in take_home(args.folder, args.out):
        print(piece, piece.stat().st_size)
    if failed := [one["part"] for one in done if one["code"]]:
        sys.exit(f"failed: {', '.join(failed)}; see their logs in {args.folder}")


if __name__ == "__main__":
    main()
