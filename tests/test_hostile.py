"""What others may have written: study files, run folders, archives, images: bounded, checked, shown and never run."""

from __future__ import annotations

import contextlib
import gzip
import io
import itertools
import json
import os
import re
import struct
import subprocess
import sys
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from resexp.config import FolderData, RunConfig, yaml_file
from resexp.config.study import MAX_LABEL, load, load_run
from resexp.data import archive, folder, official, open_dataset
from resexp.data.official import CIFAR10_ARCHIVE, OfficialFile, md5
from resexp.data.pixels import read_image
from resexp.errors import MAX_LINE, UnreadableImageError, UserError, sanitize
from resexp.report import draw, page
from resexp.report.probes import probe_sections
from resexp.report.summary import summarise
from resexp.runs import checkpoint, logits, weights_file
from resexp.runs.records import PlannedRun
from resexp.runs.store import Run, StudyFolder
from resexp.runs.weights_file import Description
from resexp.training.train import train
from resexp.utils import untrusted
from resexp.utils.files import locked, write_atomic
from tests.conftest import TINY, command
from tests.test_report import DEGRADES, study

__all__ = ["study"]

Write = Callable[..., Path]
Study = Callable[..., StudyFolder]
CPU = torch.device("cpu")
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))

_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(autouse=True)
def _every_float() -> None:
    """Training in this process flushes the smallest numbers to zero; hypothesis wants them all."""
    torch.set_flush_denormal(False)


def says(line: str) -> Any:
    """That a UserError of one line is raised which holds these words."""
    return pytest.raises(UserError, match=line)


# -- lines that are shown ---------------------------------------------------------------------------------------------


@given(st.text(st.characters(codec=None, exclude_categories=())))
def test_whatever_a_message_quotes_it_is_one_line_without_commands(text: str) -> None:
    (line,) = UserError(text).args
    assert sanitize(line) == line == line.encode().decode()
    assert "\n" not in line


def test_a_message_keeps_its_end_where_the_remedy_stands() -> None:
    line = str(UserError(f"{'x' * 10**6}; delete it"))
    assert len(line) <= MAX_LINE
    assert line.endswith("; delete it")


# -- YAML -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "a: [" + "1," * 100_000 + "]",
        "a: " + "9" * 5000,
        "a: 0x" + "f" * 100_000,
        "a: !!binary aGVsbG8=",
        "a: !!omap b",
        "a: !!set b",
        "a: &a {b: *a}",
        "a: &a [&b [*a, *b]]",
        'a: "\\UFFFFFFFF"',
        '"\\e[2J": 1',
        '"a\\nb": 1',
    ],
    ids=lambda text: text[:24],
)
def test_yaml_that_would_hang_or_hide_is_refused_at_once(text: str) -> None:
    with pytest.raises(UserError) as error:
        yaml_file.parse(text, "x.yaml")
    assert len(error.value.args) == 1


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("extends: /dev/zero", "not a plain file"),
        ("extends: pipe", "not a plain file"),
        ("extends: large.yaml", "over the limit of 1,048,576"),
        ("extends: loop.yaml", "no such file"),
        ('extends: "a\\0b"', "expected the path of one YAML file"),
        ("extends: 0.yaml", "the last of over 30 files"),
        ('data: {source: folder, path: "a\\0b"}', "data.path: holds control characters"),
        ("grid: {model." + "a." * 400 + "b: [1]}", "no key has that many parts"),
        ("train: {steps: 0x" + "f" * 90 + "}", "train.steps: should be less than"),
    ],
)
def test_a_hostile_study_file_gets_a_line(tmp_path: Path, text: str, line: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.yaml").write_text("#" * (1 << 21))
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for number in range(50):
        (tmp_path / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml")
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises((UserError, OSError), match=line):
        load(str(tmp_path / "a.yaml"))


def test_a_grid_of_a_thousand_million_runs_is_refused_before_it_is_expanded(write_study: Write) -> None:
    keys = ("lr", "momentum", "gamma", "weight_decay", "steps", "batch_size", "eval_every", "log_every", "warmup_lr")
    path = write_study(grid={f"train.{key}": list(range(10)) for key in keys})
    with says("grid: over 100,000 runs; make several studies of it"):
        load(str(path))


@quick
@given(st.lists(st.text(min_size=1, max_size=300), min_size=2, max_size=3, unique=True))
def test_labels_are_short_and_plain_whatever_the_grid_holds(tmp_path: Path, paths: list[str]) -> None:
    data = {"source": "folder", "split_seed": 0}
    grid = {"data.path": paths, "data.split_seed": [0], "data.pad": [1, 2]}
    (tmp_path / "a.yaml").write_text(json.dumps({"data": data, "grid": grid}))
    try:
        _, cells = load(str(tmp_path / "a.yaml"))
    except UserError:
        return
    for cell in cells:
        assert len(cell.label) <= MAX_LABEL
        PlannedRun(folder=str(cell.config.folder), label=cell.label)


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".", "..", "a\0b", "x" * 300, "a\nb", "-x", "é"])
def test_a_study_is_named_by_plain_words(write_study: Write, name: str) -> None:
    with says("name: "):
        load(str(write_study()), [f"name={json.dumps(name)}"])


# -- run folders ------------------------------------------------------------------------------------------------------


@quick
@given(st.lists(st.dictionaries(st.sampled_from(["event", "step", "train_error", "x"]), _json), max_size=3))
def test_metrics_are_events_with_numbers_or_refused_with_a_line(tmp_path: Path, lines: list[dict[str, Any]]) -> None:
    run = Run(tmp_path)
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    try:
        found = run.metrics()
    except UserError:
        return
    assert found == lines
    assert all(isinstance(line["event"], str) and abs(line.get("train_error") or 0) < 2**63 for line in found)


@pytest.mark.parametrize(
    "text", ["[" * 100_000, '{"a":' * 100_000, "9" * 5000, '{"runs": NaN}', "\x00", '"\\ud800"', "{" + " " * 10**6]
)
def test_json_that_no_version_wrote_is_damaged(tmp_path: Path, text: str) -> None:
    folder, run = StudyFolder(tmp_path), Run(tmp_path)
    for path in (folder.plan_path, run.manifest_path, run.status_path):
        path.write_text(text)
    run.metrics_path.write_text(text + "\n")
    run.probe_path("lesion", 1).parent.mkdir()
    run.probe_path("lesion", 1).write_text(text)
    for read in (folder.plan, run.manifest, run.metrics, lambda: run.probes("lesion")):
        with says("damaged|no event"):
            read()
    assert run.status().state == "pending"


@quick
@given(st.text() | st.sampled_from(["/etc", "../x", "plain-8-00000000/../..", "plain-8-00000000/seed0/../../../x"]))
def test_a_plan_never_leads_out_of_its_folder(tmp_path: Path, name: str) -> None:
    study = StudyFolder(tmp_path)
    study.plan_path.write_text(json.dumps({"runs": [{"folder": name, "label": "plain-8"}]}))
    try:
        (run,) = study.runs()
    except UserError:
        return
    assert run.folder.resolve().parent.parent == tmp_path.resolve()


def test_a_pipe_in_place_of_a_file_is_not_waited_for(tmp_path: Path) -> None:
    run, study = Run(tmp_path), StudyFolder(tmp_path)
    for path in (run.status_path, run.manifest_path, run.metrics_path, run.checkpoint_path, study.plan_path):
        os.mkfifo(path)
    os.mkfifo(run.lock_path)
    run.status()
    reads = (run.manifest, run.metrics, study.plan, lambda: checkpoint.read(run.checkpoint_path, CPU))
    for read in reads:
        with says("not a plain file"):
            read()


def test_a_file_over_its_limit_is_not_read(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for path, limit in ((run.manifest_path, untrusted.MAX_RECORD), (run.metrics_path, untrusted.MAX_METRICS)):
        with path.open("wb") as file:
            file.truncate(limit + 1)
    for read in (run.manifest, run.metrics):
        with says("over the limit of"):
            read()


def test_attempts_that_are_none_are_neither_waited_for_nor_followed(tmp_path: Path) -> None:
    run = Run(tmp_path / "plain-8-00000000/seed0")
    (run.folder / ".attempt-3").mkdir(parents=True)
    os.mkfifo(run.folder / ".attempt-3/owner")
    (run.folder / ".attempt-4").write_text("a file")
    assert not run.is_held()
    (run.folder / ".attempt-9").symlink_to(tmp_path)
    with says("a link or a pipe, in a folder of plain files"), run.leased():
        pass
    (run.folder / ".attempt-9").unlink()
    with says("is being claimed by another process"), run.leased():
        pass
    (run.folder / ".attempt-4").unlink()
    with run.leased():
        pass
    assert not (run.folder / ".attempt-3").exists()


def test_nothing_is_written_through_a_link_that_others_left(tmp_path: Path) -> None:
    config = RunConfig.model_validate({key: value for key, value in TINY.items() if key != "name"})
    precious = tmp_path / "precious"
    precious.write_text("mine")
    run = Run(tmp_path / "study" / config.folder)
    run.create(config)
    run.lock_path.symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"), locked(run.lock_path, "it"):
        pass
    run.lock_path.unlink()
    for name in ("metrics.jsonl", "log.txt", f"config.yaml.{os.getpid()}.tmp"):
        (run.folder / name).symlink_to(precious)
        for use in (lambda: load_run(run.config_path), lambda: run.create(config)):
            with says(f"{re.escape(name)}: a link or a pipe, in a folder of plain files"):
                use()
        write_atomic(run.config_path, run.config_path.read_text())
        (run.folder / name).unlink(missing_ok=True)
    assert precious.read_text() == "mine"


# -- checkpoints and logits -------------------------------------------------------------------------------------------


@pytest.fixture
def begun(tmp_path: Path) -> Run:
    """A run that was stopped after its first steps."""
    config = RunConfig.model_validate({key: value for key, value in TINY.items() if key != "name"})
    run = Run(tmp_path / "study" / config.folder)
    run.create(config)
    calls = itertools.count()
    train(run, stop=lambda: next(calls) > 5)
    return run


def _without(*keys: str) -> Callable[[dict[str, Any]], None]:
    def remove(state: dict[str, Any]) -> None:
        *holders, last = keys
        for key in holders:
            state = state[key]
        del state[last]

    return remove


def _other_net(state: dict[str, Any]) -> None:
    weights = state["trainer"]["model"]
    name = next(iter(weights))
    weights[name] = torch.zeros(*weights[name].shape, 2)


def _walk_without_end(state: dict[str, Any]) -> None:
    knot: list[Any] = []
    for _ in range(100):
        knot = [knot, knot]
    state["trainer"]["optimizer"]["state"] = {0: {"momentum_buffer": knot}}


def _huge(state: dict[str, Any]) -> None:
    weights = state["trainer"]["model"]
    weights[next(iter(weights))] = torch.zeros(1).expand(1 << 45)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (_without("trainer"), r"checkpoint.pt: no checkpoint of resexp's \(trainer is missing"),
        (_without("best"), "best is missing"),
        (_without("trainer", "optimizer"), "optimizer is missing"),
        (_without("trainer", "optimizer", "state"), "its checkpoint is of other training settings"),
        (lambda state: state.update(best={}), "step is missing"),
        (lambda state: state["trainer"].update(step=10**30), "its checkpoint is of other training settings"),
        (lambda state: state["trainer"].update(step="1"), "step is missing, or not of its kind"),
        (_other_net, "holds the weights of another net; delete it to begin anew"),
        (_huge, "holds the weights of another net"),
        (_walk_without_end, "its checkpoint is of other training settings"),
    ],
)
def test_a_foreign_state_under_a_right_digest_gets_a_line(
    begun: Run, change: Callable[[dict[str, Any]], None], line: str
) -> None:
    state = checkpoint.read(begun.checkpoint_path, CPU)
    change(state)
    begun.checkpoint_path.write_bytes(checkpoint.pack(state))
    with says(line):
        train(begun)
    assert begun.status().state == "interrupted"
    assert not begun.status().traceback


def test_a_checkpoint_that_unpacks_to_more_than_itself_is_refused(begun: Run) -> None:
    plain, packed = io.BytesIO(), io.BytesIO()
    torch.save(checkpoint.read(begun.checkpoint_path, CPU), plain)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
        new.writestr("archive/data/99", bytes(1 << 26))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "save", lambda state, buffer: buffer.write(packed.getvalue()))
        begun.checkpoint_path.write_bytes(checkpoint.pack({}))
        patch.setattr(torch, "load", lambda *_, **__: pytest.fail("unpacked it"))
        with says("no checkpoint of resexp's"):
            checkpoint.read(begun.checkpoint_path, CPU)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_file_of_weights_is_read_or_refused_whatever_was_done_to_it(tmp_path: Path, suffix: str) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    path = tmp_path / f"w{suffix}"
    weights_file.write(path, {"a": torch.ones(3, 2), "b": torch.zeros(4)}, Description(resexp="1", net="plain-20"))
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        for changed in (content[:at], content[:at] + bytes([content[at] ^ 0xFF]) + content[at + 1 :]):
            path.write_bytes(changed)
            with contextlib.suppress(UserError):
                assert all(type(value) is torch.Tensor for value in weights_file.read(path).weights.values())


def test_a_file_of_weights_runs_and_unpacks_nothing(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, ("ran",))

    plain, evil, packed = tmp_path / "plain.pt", tmp_path / "evil.pt", tmp_path / "packed.pt"
    torch.save({"a": torch.zeros(2)}, plain)
    torch.save({"a": Evil()}, evil)
    with zipfile.ZipFile(plain) as old, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    for path in (evil, packed):
        with says("not a file of weights"):
            weights_file.read(path)
    assert not Path("ran").exists()
    for description in (
        "{", '{"resexp": "1"}', '{"resexp": "1", "net": "plain-20", "mean": [[1, 2]]}',
        '{"resexp": "1", "net": "plain-20", "size": [4, 4], "mean": [[[1, 2, 3]]]}',
        '{"resexp": "1", "net": "plain-20", "mean": [NaN, 0, 0]}',
    ):  # fmt: skip
        plain.with_suffix(".json").write_text(description)
        with says(r"plain.pt: its description is damaged \(.*; export it again"):
            weights_file.read(plain)


def _npz(path: Path, **arrays: Any) -> Path:
    np.savez(path, **{"logits": np.zeros((4, 2), np.float32), "labels": np.zeros(4, int), "fingerprint": "f", **arrays})
    return path


def _claiming(path: Path, shape: bytes) -> Path:
    """Logits whose header says that they are of another shape."""
    content = _npz(path).read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            array = old.read(name)
            new.writestr(name, array.replace(b"(4, 2), }" + b" " * (len(shape) - 6), shape + b", }"))
    return path


def test_logits_are_numbers_of_the_size_that_is_there(tmp_path: Path) -> None:
    bad = [
        _npz(tmp_path / "a.npz", logits=np.array([{}], object)),
        _npz(tmp_path / "b.npz", logits=np.zeros((0, 2), np.float32), labels=np.zeros(0, int)),
        _npz(tmp_path / "c.npz", logits=np.array([["a"]] * 4)),
        _npz(tmp_path / "d.npz", labels=np.zeros(4)),
        _npz(tmp_path / "e.npz", fingerprint=np.array(["f"] * 9)),
        _claiming(tmp_path / "f.npz", b"(4, 2000000000000)"),
    ]
    np.savez_compressed(
        tmp_path / "g.npz", logits=np.zeros((4, 2), np.float32), labels=np.zeros(4, int), fingerprint="f"
    )
    for path in [*bad, tmp_path / "g.npz"]:
        with says(r"npz: damaged \(.*restore it, or delete"):
            logits.read(path)
    assert logits.read(_npz(tmp_path / "good.npz")).error == 0
    by_columns = np.asfortranarray(np.arange(8, dtype=np.float32).reshape(4, 2))
    assert np.array_equal(logits.read(_npz(tmp_path / "h.npz", logits=by_columns)).values, by_columns)


# -- image sets -------------------------------------------------------------------------------------------------------


def png(width: int = 8, height: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def members() -> list[str]:
    return [f"{split}/{name}/{n}.png" for split in ("train", "test") for name in ("cat", "dog") for n in range(2)]


def tar_of(path: Path, *more: tuple[tarfile.TarInfo, bytes], packed: bool = False) -> Path:
    """A whole image set and, behind it, more."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name in members():
            info = tarfile.TarInfo(name)
            info.size = len(png())
            tar.addfile(info, io.BytesIO(png()))
        for info, content in more:
            buffer.write(info.tobuf() + content + bytes(-len(content) % 512))
            tar.offset = buffer.tell()
    path.write_bytes(gzip.compress(buffer.getvalue()) if packed else buffer.getvalue())
    return path


def info(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.size, made.linkname = kind, size, "/etc/passwd"
    return made


@pytest.mark.parametrize(
    ("member", "content", "line"),
    [
        (info("train/cat/x.png", tarfile.SYMTYPE), b"", "is a link"),
        (info("train/cat/x.png", tarfile.LNKTYPE), b"", "is a link"),
        (info("train/cat/x.png", tarfile.CHRTYPE), b"", "is a link"),
        (info("train/cat/x.png", tarfile.FIFOTYPE), b"", "is a link"),
        (info("a/../../train/cat/x.png"), b"", "would leave its folder"),
        (info("train/cat/x.png", size=1 << 40), b"", "unpacks to over 100 times its size"),
        (info("x", tarfile.XHDTYPE, 1 << 32), b"", "unpacks to over 100 times its size"),
        (info("x", tarfile.GNUTYPE_LONGNAME, 1 << 32), b"", "unpacks to over 100 times its size"),
        (info("notes.txt", size=1 << 32), b"", "unpacks to over 100 times its size"),
        (info("x", tarfile.XHDTYPE, 30), b"30 GNU.sparse.major=x\n", "damaged archive"),
        (info("x", tarfile.XHDTYPE, 22), b"22 size=-999999999999\n", "damaged archive|would leave|over"),
        (info("train/cat/x.png", size=-1024), b"", "damaged archive"),
        (info("."), b"", r"a file called '\.'; give it a name"),
    ],
)
def test_a_hostile_tar_gets_a_line(tmp_path: Path, member: tarfile.TarInfo, content: bytes, line: str) -> None:
    for packed in (False, True):
        with says(line):
            folder.decode(tar_of(tmp_path / "a.tar", (member, content), packed=packed))


def test_a_tar_that_begins_with_a_header_of_any_size_gets_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(info("x", tarfile.XHDTYPE, 1 << 70).tobuf(tarfile.GNU_FORMAT) + bytes(10240))
    with says("unpacks to over 100 times its size"):
        folder.decode(path)


def test_a_chain_of_long_names_does_not_run_out_of_stack(tmp_path: Path) -> None:
    link = (info("x", tarfile.GNUTYPE_LONGNAME, 2), b"a\0")
    with says("damaged archive"):
        folder.decode(tar_of(tmp_path / "a.tar", *[link] * 5000))


def zip_of(path: Path, **more: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in members():
            archive.writestr(name, png())
        for name, content in more.items():
            archive.writestr(name, content)
    return path


def test_a_zip_bomb_is_refused_by_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_of(tmp_path / "a.zip", **{f"{n}.txt": bytes(1 << 20) for n in range(8)})
    assert len(folder.decode(path).classes) == 2
    monkeypatch.setattr(archive, "ROOM", 1 << 20)
    with says("unpacks to over 100 times its size; if you trust it, unpack it into a folder"):
        folder.decode(path)


def test_a_zip_that_lies_about_a_size_yields_no_more_than_it_says(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a.zip", **{"train/cat/x.png": bytes(1 << 24)})
    content = path.read_bytes()
    path.write_bytes(content.replace(struct.pack("<I", 1 << 24), struct.pack("<I", 100)))
    with says("damaged archive|can't be read"):
        folder.decode(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_zip_of_any_method_is_read_and_a_method_that_is_not_known_is_named(tmp_path: Path, method: int) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", method) as packed:
        for name in members():
            packed.writestr(name, png())
    assert len(folder.decode(path).classes) == 2
    with zipfile.ZipFile(path, "w") as packed:
        for name in members():
            packed.writestr(name, png())
    content = bytearray(path.read_bytes())
    at = -1
    while (at := content.find(b"PK\x01\x02", at + 1)) >= 0:
        content[at + 10 : at + 12] = struct.pack("<H", 97)
    path.write_bytes(content)
    with says("is compressed by method 97, which is not read; unpack it, and name the folder"):
        folder.decode(path)


def _png_that_claims(width: int, height: int) -> bytes:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(10**6)))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (_png_that_claims(10000, 10000), "10000x10000 pixels is over the limit"),
        (_png_that_claims(60000, 60000), "decompression bomb"),
        (_png_that_claims(4000, 4000), "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(/etc/passwd) (r) file\n", "a PostScript file"),
        (b"", "empty"),
    ],
)
def test_an_image_is_of_a_known_format_and_of_a_bounded_size(content: bytes, line: str) -> None:
    with pytest.raises(UnreadableImageError, match=line):
        read_image(content)


@pytest.mark.parametrize("kind", ["pipe", "device", "loop", "large"])
def test_a_folder_with_what_is_no_image_file_gets_a_line(tmp_path: Path, kind: str) -> None:
    for name in members():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png())
    odd = tmp_path / "train/cat/odd.png"
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "device":
        odd.symlink_to("/dev/zero")
    elif kind == "loop":
        odd.symlink_to(odd)
    else:
        with odd.open("wb") as file:
            file.truncate(archive.MAX_BYTES + 1)
    with pytest.raises((UserError, OSError), match=r"odd.png"):
        open_dataset(FolderData(source="folder", path=str(tmp_path)))


def test_more_pixels_than_fit_in_memory_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tar_of(tmp_path / "a.tar")
    monkeypatch.setattr(folder, "memory", lambda: 7 * 8 * 8 * 3)  # of eight images
    with says("more pixels than fit in this machine's memory"):
        folder.decode(path)


def test_a_class_whose_name_is_no_text_gets_a_line(tmp_path: Path) -> None:
    with says("can't be shown; rename it"):
        folder.decode(tar_of(tmp_path / "a.tar", (info("train/\udcff/x.png", size=len(png())), png())))


def test_the_bytes_that_the_md5_vouches_for_are_those_that_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody exchanges the archive between the two."""
    path = tmp_path / CIFAR10_ARCHIVE.name
    with tarfile.open(path, "w:gz"):
        pass
    empty = replace(CIFAR10_ARCHIVE, md5=md5(path.read_bytes()))
    verify = OfficialFile.verify

    def exchanged(file: OfficialFile, of: Path) -> bytes:
        content = verify(file, of)
        of.write_bytes(b"pickles of somebody else's")
        return content

    monkeypatch.setattr(OfficialFile, "verify", exchanged)
    with pytest.raises(KeyError, match="data_batch_1"):  # of the archive that was verified, which is empty
        replace(official.CIFAR10, files=(empty,)).decode(path)


# -- the page ---------------------------------------------------------------------------------------------------------

EVIL = "<script>alert('$x')</script>\"><img src=x onerror=alert(1)>$\\frac{\x1b[2J\x00"


def test_whatever_a_study_folder_holds_is_shown_and_not_run(study: Study) -> None:
    folder = study(DEGRADES, description=EVIL, command=EVIL, dataset=EVIL, message=EVIL)
    text = _page(folder)
    shown = "&lt;script&gt;alert(&#39;$x&#39;)&lt;/script&gt;"
    assert text.count(shown) >= 4
    assert text.count("<script") == text.count(f"<script>{page.SCRIPT}</script>") == 1
    assert "<img src=x" not in text
    assert not re.search("[\x00-\x08\x0b-\x1f]", text)


@pytest.mark.parametrize("label", [EVIL, "a b", "plain-8-$x$", "../x", "x" * 300, "", "a\nb"])
def test_a_plan_calls_its_nets_by_plain_words(study: Study, label: str) -> None:
    folder = study(DEGRADES)
    plan = json.loads(folder.plan_path.read_text())
    plan["runs"][0]["label"] = label
    folder.plan_path.write_text(json.dumps(plan))
    with says("study.json: damaged"):
        folder.runs()


def test_the_longest_label_of_a_study_fits_into_the_names_of_figures(study: Study) -> None:
    folder = study({("plain", 8): [10.0]}, variant="-" + "x" * (MAX_LABEL - 8))
    assert "x" * (MAX_LABEL - 8) in _page(folder)


def test_the_page_asks_for_nothing_from_anywhere(study: Study) -> None:
    text = _page(study(DEGRADES))
    assert "default-src 'none'; img-src data:; style-src 'unsafe-inline'" in text
    links = re.findall(r"""(?:src|href|action|data|poster|srcset|xlink:href)\s*=\s*["']([^"']*)""", text)
    links += re.findall(r"url\(([^)]*)\)", text)
    assert {link for link in links if not link.startswith(("#", "%23"))} == {
        link for link in links if link.startswith(("data:image/svg+xml,", "data:text/csv,", "data:application/json,"))
    }
    assert "@import" not in text


def _page(folder: StudyFolder) -> str:
    summary = summarise(folder)
    figures = {name: plot.files()[1] for name, plot in draw(summary).items()}
    return page.html(summary, figures, *probe_sections(folder, summary))


# -- the network ------------------------------------------------------------------------------------------------------

FORBIDDEN = """
import socket

def refuse(*arguments, **_):
    raise AssertionError(f"the network was asked for: {arguments}")

class Socket(socket.socket):
    def __init__(self, family=-1, *arguments, **options):
        if family != socket.AF_UNIX and options.get("fileno") is None:
            refuse(family)
        super().__init__(family, *arguments, **options)

socket.socket = Socket
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse
"""


@pytest.mark.slow
def test_a_sweep_and_its_report_need_no_network(write_study: Write, tmp_path: Path) -> None:
    """In processes whose every socket but the local ones is refused."""
    (tmp_path / "sealed").mkdir()
    (tmp_path / "sealed/sitecustomize.py").write_text(FORBIDDEN)
    path = os.pathsep.join([str(tmp_path / "sealed"), os.environ["PYTHONPATH"]])
    environment = {**os.environ, "PYTHONPATH": path}
    for words in (["sweep", "--config", write_study()], ["report"]):
        done = subprocess.run(command(*words), capture_output=True, text=True, timeout=200, env=environment)
        assert done.returncode == 0, done.stdout + done.stderr
    asked = "import socket; socket.create_connection(('localhost', 9))"
    sealed = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, env=environment)
    assert "the network was asked for" in sealed.stderr
