"""The day of a GPU, in miniature on a CPU: a part is done once, and what is worth keeping fits in small files."""

from __future__ import annotations

import ast
import builtins
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from resexp.bench.turns import Case
from resexp.config import RunConfig
from resexp.models import build_model
from tests.benchmarks.many_nets import Stacked, mps, vmapped
from tests.conftest import REPOSITORY, TINY
from tests.gpu.day import PIECE, take_home
from tests.gpu.roofline import compared, estimates


def day(folder: Path, *more: str) -> str:
    command = [sys.executable, "-m", "tests.gpu.day", "--device", "cpu", "--folder", str(folder / "work")]
    command += ["--out", str(folder / "out"), "--studies", "figure6-ends", *more]
    return subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout


def unpacked(folder: Path) -> tarfile.TarFile:
    pieces = sorted(folder.glob("day.tar.gz.*"), key=lambda piece: int(piece.suffix[1:]))
    assert all(piece.stat().st_size <= PIECE for piece in pieces)
    return tarfile.open(fileobj=io.BytesIO(b"".join(piece.read_bytes() for piece in pieces)))


@pytest.mark.slow
def test_a_study_is_trained_once_and_taken_home(tmp_path: Path) -> None:
    day(tmp_path, "--only", "figure6-ends")
    (told,) = json.loads((tmp_path / "work" / "day.json").read_text())
    assert (told["part"], told["code"]) == ("figure6-ends", 0)
    names = unpacked(tmp_path / "out").getnames()
    for net in ("plain-20", "plain-56", "residual-20", "residual-56"):
        for file in ("metrics.jsonl", "manifest.json"):
            assert any(f"/{net}-" in name and name.endswith(file) for name in names)
    assert not any(name.endswith(".pt") for name in names)  # 14 MB for each ResNet-110
    day(tmp_path, "--only", "figure6-ends")
    assert json.loads((tmp_path / "work" / "day.json").read_text()) == [told]


def test_nothing_is_begun_that_there_is_no_time_for(tmp_path: Path) -> None:
    day(tmp_path, "--budget", "5")
    assert not (tmp_path / "work" / "day.json").exists()


def test_much_is_cut_into_pieces(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    content = os.urandom(PIECE + 1)
    (work / "large").write_bytes(content)
    assert len(take_home(work, tmp_path / "out")) == 2
    member = unpacked(tmp_path / "out").extractfile("day/large")
    assert member is not None
    assert member.read() == content


def test_the_work_of_a_step_is_counted() -> None:
    rows = {row["net"]: row for row in estimates(["plain-20", "residual-20", "residual-56", "imagenet/residual-50"])}
    assert rows["residual-50"]["gflop"] == pytest.approx(2 * 3 * 3.86e9 * 256 / 1e9, rel=2e-3)
    # ResNet-20 has 40.55 million multiply-adds; a step does each three times, for 128 images.
    assert rows["plain-20"]["gflop"] == pytest.approx(2 * 3 * 40.55e6 * 128 / 1e9, rel=1e-3)
    assert rows["residual-56"]["kernels"] > 2.5 * rows["residual-20"]["kernels"]


def test_an_estimate_stands_next_to_each_measurement(tmp_path: Path) -> None:
    limits = {"H200_bf16_flop_ms": 0.03, "H200_bf16_bytes_ms": 0.14, "launches_ms": 1.2}
    (tmp_path / "roofline.json").write_text(json.dumps([{"net": "residual-20", **limits}]))
    row = {"what": "resexp", "net": "residual-20", "precision": "bf16", "at_once": 4, "ms_per_step": 6.0}
    for device in ("NVIDIA H200", "x86_64 cpu"):
        bench = {"machine": {"device": device}, "rows": [row, {**row, "what": "usual loop"}]}
        (tmp_path / device).mkdir()
        (tmp_path / device / "bench.json").write_text(json.dumps(bench))
    assert compared(tmp_path).splitlines()[2:] == [
        "| residual-20 | bf16 | 4 | 6 | 0.12 | 0.56 | 4.8 | 1.25 |",
        "| residual-20 | bf16 | 4 | 6 |  |  | 4.8 | 1.25 |",
    ]


def test_nets_through_vmap_take_the_steps_that_they_take_alone() -> None:
    """So that what is timed beside ours is the same work."""
    config = RunConfig.model_validate(
        {"data": TINY["data"], "model": TINY["model"], "train": {"batch_size": 8, "device": "cpu"}}
    )
    stacked = Stacked(Case("vmap", vmapped, config, runs=2))
    x, y = torch.rand(2, 8, 3, 8, 8), torch.randint(10, (2, 8))
    for number in range(2):
        torch.manual_seed(number)
        net = build_model(config.model).train()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        F.cross_entropy(net(x[number]), y[number]).backward()
        optimizer.step()
        alone = dict(net.named_parameters())
        if number == 0:
            stacked.step(x, y)
        for name, weights in stacked.weights.items():
            torch.testing.assert_close(weights[number], alone[name], rtol=1e-4, atol=1e-5)


def test_scripts_of_gpu_tests_name_what_they_use() -> None:
    """They run in processes of their own, where no linter looks."""
    source = (REPOSITORY / "tests/gpu/test_gpu.py").read_text()
    scripts = [
        node.value
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and "\nimport " in f"\n{node.value}"
    ]
    assert scripts
    for script in scripts:
        tree = ast.parse(script)
        names = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
        known = {node.id for node in names if isinstance(node.ctx, ast.Store)} | set(dir(builtins))
        known |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        known |= {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                known |= {(alias.asname or alias.name).partition(".")[0] for alias in node.names}
        assert {node.id for node in names} <= known


def test_mps_is_started_for_its_processes_and_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A script in the place of NVIDIA's control program writes down how it is called."""
    control = tmp_path / "nvidia-cuda-mps-control"
    calls = tmp_path / "calls"
    control.write_text(f'#!/bin/sh\necho "$@ $CUDA_MPS_PIPE_DIRECTORY" >> {calls}\n[ "$1" = -d ] || cat >> {calls}\n')
    control.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with mps() as started:
        assert started
        folder = os.environ["CUDA_MPS_PIPE_DIRECTORY"]
        assert Path(folder).is_dir()
    assert "CUDA_MPS_PIPE_DIRECTORY" not in os.environ
    assert calls.read_text().split() == ["-d", folder, folder, "quit"]


def test_without_a_gpu_there_is_no_mps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with mps() as started:
        assert not started
