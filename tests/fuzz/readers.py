"""The readers, each with real files to begin from, how those are mutated, and what it does with one."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import struct
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from resexp.config import RunConfig, ShapesData
from resexp.config.study import SHIPPED, load, load_run
from resexp.data import folder, open_dataset
from resexp.data.cache import read_meta
from resexp.data.dataset import ArraysMeta
from resexp.data.pixels import read_image
from resexp.device.hardware import choose_hardware
from resexp.display import clock, percent, speed
from resexp.errors import UnreadableImageError, UserError
from resexp.report import draw, page
from resexp.report.probes import probe_sections
from resexp.report.stats import read as read_run
from resexp.report.summary import summarise
from resexp.runs import checkpoint, logits
from resexp.runs.records import PlannedRun, StudyPlan
from resexp.runs.store import Run, StudyFolder
from resexp.training.trainer import Trainer
from tests.fuzz import mutations
from tests.test_probe_report import gradients
from tests.test_report import SMALL, write_run

CPU = torch.device("cpu")
Mutation = Callable[[random.Random, bytes, list[bytes]], bytes]


@dataclass(frozen=True)
class Reader:
    """Something that reads bytes from outside."""

    share: float
    """Of all cases."""
    seeds: list[bytes]
    mutate: Mutation
    read: Callable[[bytes], object]
    unchanged: bool = True
    """Whether the first cases are the seeds as they are. A report takes seconds; other tests make it of good files."""


def readers(scratch: Path) -> dict[str, Reader]:
    """All readers by name; `scratch` is an empty folder for the files that they need."""
    data = ShapesData(source="shapes", train_images=100, test_images=100, size=8)
    config = RunConfig(data=data, train=SMALL)
    dataset = open_dataset(data)
    trainer = Trainer(config, dataset, choose_hardware(config.train, "fp32"))
    study = _study(scratch / "study")
    run = study.runs()[0]
    whole = {path: path.read_bytes() for path in scratch.rglob("*") if path.is_file()}

    def at(path: Path, use: Callable[[], object]) -> Callable[[bytes], object]:
        """Put the bytes at `path`, use them, and put back what was there."""

        def read(content: bytes) -> object:
            path.write_bytes(content)
            try:
                return use()
            finally:
                path.write_bytes(whole.get(path, b""))

        return read

    studies = [path.read_bytes() for path in sorted(SHIPPED.rglob("*.yaml"))] + [_ALIASES]
    metrics = run.metrics_path
    probes = [path for path in whole if path.parent.name == "probes"]
    texts = [run.status_path, metrics, run.manifest_path, study.plan_path, *probes]
    cache = scratch / "cache"
    cache.mkdir()
    for path in dataset.cache.iterdir():
        (cache / path.name).write_bytes(path.read_bytes())
    state = {
        "signature": config.signature, "seed": 0, "trainer": trainer.state(), "evaluated": 0, "tested": False,
        "best": None, "window": [0, 0.0, 0], "metrics_bytes": 0,
    }  # fmt: skip
    return {
        "study": Reader(10, studies, mutations.of_yaml, at(scratch / "a.yaml", lambda: load(str(scratch / "a.yaml")))),
        "--set": Reader(10, _SETTINGS, mutations.of_bytes, lambda c: load("quickstart", [_argument(c)])),
        "config": Reader(
            8, [whole[run.config_path]], mutations.of_yaml, at(run.config_path, lambda: load_run(run.config_path))
        ),
        "metrics": Reader(12, [whole[metrics]], mutations.of_json, at(metrics, lambda: _metrics(run))),
        "manifest": Reader(
            10, [whole[run.manifest_path]], mutations.of_json, at(run.manifest_path, lambda: run.manifest())
        ),
        "status": Reader(10, [whole[run.status_path]], mutations.of_json, at(run.status_path, lambda: _status(run))),
        "job.json": Reader(5, [_JOB], mutations.of_json, at(run.job_path, lambda: run.submission())),
        "study.json": Reader(
            10, [whole[study.plan_path]], mutations.of_json, at(study.plan_path, lambda: _plan(study))
        ),
        "cache": Reader(
            5,
            [(cache / "meta.json").read_bytes()],
            mutations.of_json,
            at(cache / "meta.json", lambda: read_meta(cache, ArraysMeta)),
        ),
        "checkpoint": Reader(
            6,
            [_saved(state)],
            lambda rng, content, others: _checkpoint(rng, state, content, others),
            at(scratch / "checkpoint.pt", lambda: _continue(scratch / "checkpoint.pt", trainer)),
        ),
        "logits": Reader(
            6,
            [_npz(), _npz(compressed=True)],
            _npz_mutated,
            at(scratch / "l.npz", lambda: logits.read(scratch / "l.npz").error),
        ),
        "archive": Reader(
            8, [_tar(), _zip()], _archive_mutated, at(scratch / "archive", lambda: folder.decode(scratch / "archive"))
        ),
        "image": Reader(10, _images(), mutations.of_bytes, _image),
        "report": Reader(
            0.07,
            [str(path).encode() + b"\n" + whole[path] for path in texts],
            _file_mutated,
            lambda content: _report(study, content, whole),
            unchanged=False,
        ),
    }


_JOB = (
    b'{"engine": "slurm", "job": "12_3", "user": "me", "submitted": "2026-01-01", "attempt": 1, '
    b'"folder": "/results/tiny/plain-20-00000000/seed0"}'
)
_ALIASES = b"""
train: &t {steps: 60, lr: 0.1, milestones: [30, 45]}
probes: {gradients: [0, -1]}
grid:
  - model.kind: [plain, residual]
    model.depth: &d [8, 14]
    train.lr: [1e-1, 0x1, .5]
  - model.depth: *d
    train.milestones: [[1, 2], []]
seeds: [0, 1]
"""
_SETTINGS = [
    b"train.lr=0.05", b"train.milestones=[1, 2]", b"seeds=[0,1,2]", b"grid={model.depth: [8, 14]}",
    b"data.source=folder", b"data={source: folder, path: images}", b"model.kind=plain", b"name=x",
    b"probes.gradients=[0,-1]",
]  # fmt: skip


def _argument(content: bytes) -> str:
    """As a shell hands it over."""
    return content.replace(b"\0", b"").decode(errors="surrogateescape")


def _metrics(run: Run) -> None:
    run.metrics()
    record = read_run(run)
    assert record is not None
    record.to_json()


def _status(run: Run) -> None:
    status = run.status()
    for word in (
        clock(status.eta),
        speed(status),
        percent(status.train_error),
        f"{status.share:.2%} {status.step:,}",
    ):
        assert isinstance(word, str)
    json.dumps(status.model_dump())


def _plan(study: StudyFolder) -> None:
    inside_of = study.folder.resolve()
    for run in study.runs():
        assert inside_of in run.status_path.resolve().parents
        run.status()
    study.strays()


def _study(to: Path) -> StudyFolder:
    """A study with a record of each probe."""
    study = StudyFolder(to)
    study.folder.mkdir()
    runs = [write_run(to, kind, depth, 0, 0.1) for kind in ("plain", "residual") for depth in (8, 14)]
    study.write_plan(StudyPlan(name="study", description="of depth", runs=[PlannedRun(**dict(run)) for run in runs]))
    blocks = [{"block": f"stages.{n}.0", "same": n == 0, "error": 0.2, "ratio": 0.5} for n in range(3)]
    layers = [{"layer": f"layer{n}", "std": 1.0, "variance": 2.0} for n in range(3)]
    records: dict[str, dict[str, Any]] = {
        "gradients": gradients([1.0, 0.5, 0.2], 0.5),
        "signals": {"layers": layers},
        "responses": {"layers": layers, "mean_std": 1.0},
        "branches": {"blocks": blocks},
        "lesion": {"intact": 0.1, "without": blocks, "swapped": blocks[1:]},
        "landscape": {"steps": [-1.0, 0.0, 1.0], "loss": [[3.0, 2.0, 3.0], [2.0, 0.5, 2.0], [3.0, 2.0, 3.0]]},
        "ten-crop": {"views": 10, "crop": 8, "test_error": 0.1, "single_view_test_error": 0.2},
    }
    for run in study.runs():
        (run.folder / "probes").mkdir()
        for name, record in records.items():
            run.probe_path(name, SMALL.steps).write_text(json.dumps({"probe": name, "step": SMALL.steps, **record}))
    (to / "probes").mkdir()
    member = {"run": runs[1].folder, "label": runs[1].label}
    identity = {
        "from": "plain-8 seed 0", "depth": 14, "kind": "plain", "handed_error": 0.1, "constructed_error": 0.1,
        "changed_predictions": 0, "largest_logit_difference": 1e-6, "continued": member, "fresh": member,
    }  # fmt: skip
    record = {"kind": "plain", "depth": 14, "shallow": "plain-8", "steps": 10, "donors": [identity, identity]}
    (to / "probes/identity.json").write_text(json.dumps(record))
    return study


def _file_mutated(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    path, _, text = content.partition(b"\n")
    return path + b"\n" + mutations.of_json(rng, text, [other.partition(b"\n")[2] for other in others])


def _report(study: StudyFolder, content: bytes, whole: dict[Path, bytes]) -> None:
    """All of a report but the writing, with one file of the study replaced."""
    name, _, text = content.partition(b"\n")
    path = Path(name.decode())
    path.write_bytes(text)
    try:
        summary = summarise(study)
        sections, remarks = probe_sections(study, summary)
        plots = draw(summary) | {n: p for section in sections for n, p in section.plots.items()}
        shown = page.html(summary, {name: plot.files()[1] for name, plot in plots.items()}, sections, remarks)
        page.markdown(summary, sections, remarks).encode()
        page.csv(summary)
        json.dumps(summary.to_json())
    finally:
        path.write_bytes(whole[path])
    shown.encode()
    assert shown.count("<script") == shown.count(f"<script>{page.SCRIPT}</script>") == 1
    assert "\x1b" not in shown


def _saved(state: object, compress: bool = False) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    if not compress:
        return buffer.getvalue()
    packed = io.BytesIO()
    with zipfile.ZipFile(buffer) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for info in old.infolist():
            new.writestr(info.filename, old.read(info))
    return packed.getvalue()


def _checkpoint(rng: random.Random, state: dict[str, Any], content: bytes, others: list[bytes]) -> bytes:
    """Another state, or other bytes, mostly under a digest that is right."""
    payload = content
    if rng.random() < 0.5:
        payload = mutations.of_bytes(rng, payload, others)
    else:
        payload = _saved(_other_state(rng, state), compress=rng.random() < 0.1)
    if rng.random() < 0.05:
        return payload
    if not (old := rng.random() < 0.5):  # the length of the comment that follows
        payload = payload[:-2] + struct.pack("<H", 92)
    seal = b"resexp checkpoint %d sha256 %s\n" % (2 if old else 3, hashlib.sha256(payload).hexdigest().encode())
    return seal + payload if old else payload + seal


def _other_state(rng: random.Random, state: dict[str, Any]) -> object:
    nasty = [torch.zeros(3), torch.zeros(()), torch.empty(2, device="meta"), torch.eye(2).to_sparse(), {}, []]
    nasty += [torch.zeros(1).expand(1 << 40), torch.zeros(2, dtype=torch.complex64), _shared(60)]
    root: dict[str, Any] = _copied(state)
    for _ in range(rng.choice((1, 1, 2))):
        holder = root
        while isinstance(inner := holder[rng.choice(list(holder))], dict) and inner and rng.random() < 0.8:
            holder = inner
        key = rng.choice(list(holder))
        if rng.random() < 0.2:
            del holder[key]
            break
        holder[key] = rng.choice([*nasty, *(value for value in mutations.NASTY if value != "\ud800")])
    return root


def _copied(value: Any) -> Any:
    return {key: _copied(inner) for key, inner in value.items()} if isinstance(value, dict) else value


def _shared(levels: int) -> list[Any]:
    """A list that takes a few bytes to write and 2**levels steps to walk through."""
    value: list[Any] = []
    for _ in range(levels):
        value = [value, value]
    return value


def _image(content: bytes) -> None:
    try:
        read_image(content)
    except UnreadableImageError as error:
        raise UserError(f"{error}") from None


def _continue(path: Path, trainer: Trainer) -> None:
    try:
        state = checkpoint.read(path, CPU)
    except checkpoint.DamagedCheckpointError:
        return
    trainer.load(state["trainer"])


def _npz(compressed: bool = False) -> bytes:
    buffer = io.BytesIO()
    arrays = {"logits": np.eye(10, dtype=np.float32), "labels": np.arange(10), "fingerprint": np.array("f")}
    (np.savez_compressed if compressed else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def _npz_mutated(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    """Its bytes, or those of an array inside under a checksum that is right."""
    if rng.random() < 0.3:
        return mutations.of_bytes(rng, content, others)
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(buffer, "w") as new:
        chosen = rng.choice(old.namelist())
        for name in old.namelist():
            array = old.read(name)
            if name == chosen:
                array = mutations.of_bytes(rng, array, [array])
                array = rng.choice((array, array.replace(b"(10,", b"(10000000000000,"), array.replace(b"<f4", b"|O")))
            new.writestr(name, array)
    return buffer.getvalue()


def _png() -> bytes:
    return _images()[0]


def _members() -> list[str]:
    return [f"{split}/{name}/{n}.png" for split in ("train", "test") for name in ("cat", "dog") for n in range(2)]


def _tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for number, name in enumerate(_members()):
            member = tarfile.TarInfo(name if number else f"{'long' * 60}/{name}")
            member.size = len(_png())
            tar.addfile(member, io.BytesIO(_png()))
    return buffer.getvalue()


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in _members():
            archive.writestr(name, _png())
    return buffer.getvalue()


def _archive_mutated(rng: random.Random, content: bytes, others: list[bytes]) -> bytes:
    if content.startswith(b"PK"):
        return mutations.of_bytes(rng, content, others)
    data = bytearray(content)
    if rng.random() < 0.7:  # the fields of a header, under a checksum that is right
        for _ in range(rng.choice((1, 2, 3))):
            start = rng.choice([at for at in range(0, len(data), 512) if data[at + 257 : at + 262] == b"ustar"])
            at, size = rng.choice(
                ((0, 100), (100, 8), (124, 12), (124, 12), (136, 12), (156, 1), (156, 1), (157, 100), (345, 155))
            )
            field = rng.choice((rng.choice(b"0123456789LKxgSVDNMAX").to_bytes(1, "big"), rng.randbytes(size)[:size]))
            field = rng.choice(
                (
                    field,
                    b"\x80" + rng.randbytes(size - 1),
                    b"\xff" * size,
                    b"77777777777"[:size],
                    b"../../x/train/cat/a.png",
                )
            )
            data[start + at : start + at + size] = field[:size].ljust(size, b"\0")
            header = data[start : start + 512]
            header[148:156] = b" " * 8
            data[start + 148 : start + 156] = f"{sum(header):06o}\0 ".encode()
    else:
        data = bytearray(mutations.of_bytes(rng, bytes(data), others))
    return gzip.compress(bytes(data), 1) if rng.random() < 0.3 else bytes(data)


def _images() -> list[bytes]:
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    made = []
    for kind in ("PNG", "JPEG", "BMP", "GIF", "PPM", "TIFF", "WEBP"):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, kind)
        made.append(buffer.getvalue())
    palette = io.BytesIO()
    Image.fromarray(pixels).convert("P").save(palette, "TIFF", compression="tiff_lzw")
    return [*made, palette.getvalue()]
