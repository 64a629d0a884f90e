"""Files that are damaged, clocks that lie, and locks of others: noticed, said, and the results are the same."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from resexp.errors import UserError
from resexp.runs import checkpoint
from resexp.runs.lease import TAKEOVER_AFTER_S
from resexp.runs.store import Run
from resexp.training.train import train
from resexp.utils.files import write_atomic
from resexp.utils.logs import logged_to
from tests.conftest import wait_until
from tests.faults.processes import Sweep
from tests.faults.test_every_operation import assert_nothing_lost, make
from tests.test_sweep import runs_of
from tests.test_training import after, assert_same

Survived = Callable[..., None]
Write = Callable[..., Path]
Cli = Callable[..., "subprocess.CompletedProcess[str]"]

KIND = b"resexp checkpoint "
SEAL = len(KIND) + len(b"3 sha256 ") + 64 + 1
"""Bytes at the end of a checkpoint, with the digest of all others."""


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, Run]:
    """An undisturbed run, and one that was stopped and has two checkpoints."""
    folder = tmp_path_factory.mktemp("stopped")
    whole, run = make(folder / "whole"), make(folder / "stopped")
    train(whole)
    train(run, stop=after(6))
    train(run, stop=after(3))
    return whole, run


@pytest.fixture
def another(tmp_path: Path, stopped: tuple[Run, Run]) -> Iterator[Run]:
    """A copy of the run that was stopped, again and again."""

    def copies() -> Iterator[Run]:
        origin = stopped[1].folder
        for number in range(1000):
            folder = tmp_path / f"copy{number}" / origin.parent.name / origin.name
            yield Run(shutil.copytree(origin, folder))

    return copies()


def lengths(size: int) -> dict[str, int]:
    """A length of every class that a truncated file of `size` bytes can have."""
    return {
        "empty": 0, "one byte": 1, "in an old kind": 10, "in an old digest": SEAL // 2, "an old seal but a byte":
        SEAL - 1, "an old seal": SEAL, "an old seal and a byte": SEAL + 1, "a page": 4096, "half": size // 2,
        "the archive but a byte": size - SEAL - 1, "the archive": size - SEAL, "in the kind": size - SEAL + 10,
        "in the digest": size - SEAL // 2, "one byte short": size - 1,
    }  # fmt: skip


def continued(run: Run) -> list[str]:
    """Train the run to its end; what was said of it."""
    said: list[str] = []
    with logged_to(said.append):
        assert train(run).state == "finished"
    return [line for line in said if line.startswith(str(run.folder))]


def test_torch_alone_reads_a_checkpoint(stopped: tuple[Run, Run], another: Iterator[Run]) -> None:
    whole, run = stopped[0], next(another)
    for path in (run.checkpoint_path, run.previous_checkpoint_path):
        alone = torch.load(path, weights_only=True)["trainer"]
        ours = checkpoint.read(path, torch.device("cpu"))["trainer"]
        assert ours["step"] == alone["step"] > 0
        assert all(torch.equal(ours["model"][name], value) for name, value in alone["model"].items())
    assert continued(run) == []
    assert_same(run, whole)
    assert torch.load(run.checkpoint_path, weights_only=True)["tested"]


def test_a_checkpoint_of_any_length_falls_back_to_the_one_before(
    stopped: tuple[Run, Run], another: Iterator[Run], survived: Survived
) -> None:
    whole, origin = stopped
    content = origin.checkpoint_path.read_bytes()
    cut = lengths(len(content))
    for name, length in cut.items():
        run = next(another)
        run.checkpoint_path.write_bytes(content[:length])
        assert continued(run) == [f"{run.folder}: checkpoint.pt damaged; continuing from checkpoint.prev.pt"], name
        assert_nothing_lost(run, whole)
    survived("truncated checkpoint", len(cut))


@pytest.mark.parametrize("times", [pytest.param(100, marks=pytest.mark.faults), 8])
def test_a_checkpoint_with_any_byte_flipped_falls_back_to_the_one_before(
    stopped: tuple[Run, Run], another: Iterator[Run], times: int, survived: Survived
) -> None:
    """Half of them in the seal. Of another version, which is not damage, a checkpoint is refused instead."""
    whole, origin = stopped
    chance, intact = random.Random(3), origin.checkpoint_path.read_bytes()
    seal = intact.rindex(KIND)
    inside, version = range(seal, seal + SEAL), seal + len(KIND)
    outside = [at for at in range(len(intact)) if at not in inside]
    for number in range(times):
        run, content = next(another), bytearray(intact)
        at = chance.choice(inside if number % 2 else outside)
        content[at] ^= 1 << chance.randrange(8)
        run.checkpoint_path.write_bytes(content)
        if at in (version, version + 1) and content[version : version + 2] != b"3 ":
            with pytest.raises(UserError, match="written by another version of resexp"):
                train(run)
            continue
        assert continued(run) == [f"{run.folder}: checkpoint.pt damaged; continuing from checkpoint.prev.pt"], at
        assert_nothing_lost(run, whole)
    survived("flipped bit in a checkpoint", times)


def test_no_flip_of_a_bit_is_read(stopped: tuple[Run, Run], tmp_path: Path) -> None:
    """All bits of the seal, of the archive's directory, and of the first bytes."""
    content = bytearray(stopped[1].checkpoint_path.read_bytes())
    path, size = tmp_path / "checkpoint.pt", len(content)
    for at in (*range(2 * SEAL), *range(size - 3 * SEAL, size)):
        for bit in range(8):
            content[at] ^= 1 << bit
            path.write_bytes(content)
            with pytest.raises(
                (checkpoint.DamagedCheckpointError, UserError), match=r"truncated or changed|another ver"
            ):
                checkpoint.read(path, torch.device("cpu"))
            content[at] ^= 1 << bit


def test_when_both_checkpoints_are_damaged_a_run_begins_anew(
    stopped: tuple[Run, Run], another: Iterator[Run], survived: Survived
) -> None:
    whole, origin = stopped
    pairs = list(zip(*[lengths(origin.checkpoint_path.stat().st_size).values()] * 2, strict=True))
    for first, second in pairs:
        run = next(another)
        os.truncate(run.checkpoint_path, first)
        os.truncate(run.previous_checkpoint_path, second)
        assert continued(run) == [f"{run.folder}: checkpoint.pt and checkpoint.prev.pt damaged; starting anew"]
        assert_same(run, whole)
    survived("both checkpoints damaged", len(pairs))


def test_a_metrics_file_that_lost_lines_is_refused_until_it_is_restored(
    stopped: tuple[Run, Run], another: Iterator[Run], survived: Survived
) -> None:
    whole, origin = stopped
    content = origin.metrics_path.read_bytes()
    damaged = [
        b"",
        content[:1],
        content[: len(content) // 2],
        content[:-1],
        b"\0" * len(content),
        content.replace(b"5", b"6"),
    ]
    for wrong in damaged:
        run = next(another)
        run.metrics_path.write_bytes(wrong)
        with pytest.raises(UserError, match=r"changed, but the checkpoint was .* restore the file") as refused:
            train(run)
        assert len(str(refused.value).splitlines()) == 1
        assert run.status().state == "interrupted"
        run.metrics_path.write_bytes(content)
        continued(run)
        assert_nothing_lost(run, whole)
    survived("damaged metrics", len(damaged))


def test_a_torn_line_behind_the_checkpoint_is_written_again(
    stopped: tuple[Run, Run], another: Iterator[Run], survived: Survived
) -> None:
    whole, _ = stopped
    tails = (b"{", b'{"event": "train", "step": 9}\n{"eve', b"\0" * 4096, b"\xff\xfe\n")
    for tail in tails:
        run = next(another)
        with run.metrics_path.open("ab") as metrics:
            metrics.write(tail)
        assert continued(run) == []
        assert_nothing_lost(run, whole)
    survived("torn line of metrics", len(tails))


DAMAGES = (b"", b"{", b"[]", b'{"state": 3}', b"\xff\xfe")


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: repr(damage[:12]))
def test_a_damaged_manifest_is_named_and_can_be_deleted(
    stopped: tuple[Run, Run], another: Iterator[Run], damage: bytes, survived: Survived
) -> None:
    whole, run = stopped[0], next(another)
    run.manifest_path.write_bytes(damage)
    with pytest.raises(UserError, match=r"manifest.json: damaged .* restore it, or delete it"):
        train(run)
    run.manifest_path.unlink()
    continued(run)
    assert_same(run, whole)
    survived("damaged manifest")


@pytest.mark.parametrize("time", ["2026-11-30T12:00:00", "yesterday", "12:00:00+00:00"])
def test_a_time_without_its_zone_is_damage(stopped: tuple[Run, Run], another: Iterator[Run], time: str) -> None:
    run = next(another)
    text = run.manifest_path.read_text()
    whole = run.manifest()
    assert whole
    run.manifest_path.write_text(text.replace(whole.attempts[0].started, time))
    with pytest.raises(UserError, match=r"manifest.json: damaged \(attempts.0.started: .*restore it, or delete it"):
        run.manifest()


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: repr(damage[:12]))
def test_a_damaged_status_is_written_anew(
    stopped: tuple[Run, Run], another: Iterator[Run], damage: bytes, survived: Survived
) -> None:
    whole, run = stopped[0], next(another)
    run.status_path.write_bytes(damage)
    assert (run.status().state, run.status().message.partition(",")[0]) == ("pending", "status.json: damaged")
    continued(run)
    assert_nothing_lost(run, whole)
    run.status_path.write_bytes(damage)  # when it has finished: nothing is trained, nor tested, again
    logits = run.logits_path.stat().st_mtime_ns
    continued(run)
    assert run.logits_path.stat().st_mtime_ns == logits
    assert_same(run, whole)
    survived("damaged status", 2)


# -- locks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", ["process 1 on elsewhere", "process 999999999 on here", "", "\0\0\0"])
def test_a_lock_file_that_nobody_holds_keeps_nobody_out(
    stopped: tuple[Run, Run], another: Iterator[Run], words: str, survived: Survived
) -> None:
    whole, run = stopped[0], next(another)
    run.lock_path.write_text(words)
    continued(run)
    assert_nothing_lost(run, whole)
    survived("stale lock")


@pytest.mark.parametrize(("silent", "refused"), [(TAKEOVER_AFTER_S / 2, True), (TAKEOVER_AFTER_S + 1, False)])
def test_an_attempt_on_another_machine_is_left_alone_until_it_has_been_silent_for_long(
    stopped: tuple[Run, Run], another: Iterator[Run], silent: float, refused: bool, survived: Survived
) -> None:
    whole, run = stopped[0], next(another)
    lease = run.folder / ".attempt-7"
    lease.mkdir()
    (lease / "owner").write_text("process 12 on node3")
    beat = lease.stat().st_mtime - silent
    os.utime(lease, (beat, beat))
    if refused:
        with pytest.raises(UserError, match=r"in use by process 12 on node3; wait for it, or stop it first$"):
            train(run)
        os.utime(lease, (0, 0))
    continued(run)
    assert_same(run, whole)
    survived("attempt of another machine")


@pytest.mark.faults
def test_of_several_sweeps_of_one_study_one_goes_on(write_study: Write, survived: Survived) -> None:
    """Begun at the same moment; the others are refused in a line each."""
    study = write_study(grid={"model.depth": [8, 14]}, train={"steps": 60})
    undisturbed = Sweep(study, Path("undisturbed"))
    assert undisturbed.process.wait() == 0, undisturbed.said()
    sweeps = [Sweep(study, Path("results")) for _ in range(3)]
    said = [sweep.said() for sweep in sweeps]
    codes = [sweep.process.returncode for sweep in sweeps]
    assert set(codes) <= {0, 2}, said
    assert 0 in codes, said
    refused = [words for words, code in zip(said, codes, strict=True) if code]
    assert all("is in use by process" in words and len(words.splitlines()) == 1 for words in refused), refused
    for run, other in zip(runs_of(study), runs_of(study, Path("undisturbed")), strict=True):
        assert_same(run, other)
    survived("several sweeps of one study", len(sweeps) - 1)


# -- clocks -----------------------------------------------------------------------------------------------------------


CLOCK = """
import time
from pathlib import Path

right = time.time
time.time = lambda: right() + float(Path({path!r}).read_text())
"""
"""What every interpreter that is started from now on does first. (libfaketime lets time.sleep fail.)"""
DAY = 86_400


@pytest.mark.faults
def test_a_clock_that_jumps_back_and_forth_changes_no_result(
    write_study: Write, here: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survived: Survived
) -> None:
    """In mid-run, and between one attempt and the next."""
    study = write_study(
        grid={"model.depth": [8, 14]},
        train={"steps": 300, "log_every": 1, "eval_every": 300, "checkpoint_steps": 20, "milestones": []},
    )
    assert here("sweep", "--config", study, "--results", "undisturbed").returncode == 0
    clock = tmp_path / "clock"
    write_atomic(clock, "0")
    (tmp_path / "sitecustomize.py").write_text(CLOCK.format(path=str(clock)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    runs, jumps = runs_of(study), (-700 * DAY, DAY, -3600, 0)
    sweep = Sweep(study, Path("results"), "--jobs", 2)
    for number, jump in enumerate(jumps[:2], 1):
        wait_until(sweep.process, lambda number=number: all(len(run.metrics()) > 20 * number for run in runs))
        write_atomic(clock, str(jump))
    wait_until(sweep.process, lambda: all(len(run.metrics()) > 70 for run in runs))
    sweep.process.terminate()
    said = sweep.said()
    assert sweep.process.returncode == 143, said
    write_atomic(clock, str(jumps[2]))
    again = Sweep(study, Path("results"))
    wait_until(again.process, lambda: all(run.status().state in ("running", "finished") for run in runs))
    write_atomic(clock, str(jumps[3]))
    said = again.said()
    assert again.process.returncode == 0, said
    for run, other in zip(runs, runs_of(study, Path("undisturbed")), strict=True):
        assert_same(run, other)
    survived("clock that jumps", len(jumps))
