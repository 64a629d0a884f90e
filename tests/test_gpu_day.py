"""The day of a GPU, in miniature on a CPU: a part is done once, and what is worth keeping fits in small files."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

from tests.conftest import REPOSITORY
from tests.gpu.day import PIECE, take_home


def day(folder: Path, *more: str) -> str:
    command = [sys.executable, "-m", "tests.gpu.day", "--device", "cpu", "--folder", str(folder / "work")]
    command += ["--out", str(folder / "out"), "--studies", "figure6-ends", *more]
    return subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout


def unpacked(folder: Path) -> tarfile.TarFile:
    pieces = sorted(folder.glob("day.tar.gz.*"), key=lambda piece: int(piece.suffix[1:]))
    assert all(piece.stat().st_size <= PIECE for piece in pieces)
    return tarfile.open(fileobj=io.BytesIO(b"".join(piece.read_bytes() for piece in pieces)))


def test_a_study_is_trained_once_and_taken_home(tmp_path: Path) -> None:
    day(tmp_path, "--only", "figure6-ends")
    (told,) = json.loads((tmp_path / "work" / "day.json").read_text())
    assert (told["part"], told["code"]) == ("figure6-ends", 0)
    names = unpacked(tmp_path / "out").getnames()
    for net in ("plain-20", "plain-56", "residual-20", "residual-56"):
        for file in ("metrics.jsonl", "manifest.json"):
            assert any(f"/{net}-" in name and name.endswith(file) for name in names)
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
