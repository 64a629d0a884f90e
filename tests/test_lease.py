"""Fencing: of two attempts at a run, only the later one can write."""

from __future__ import annotations

import fcntl
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from resexp.errors import LeaseLostError, UserError
from resexp.runs.lease import TAKEOVER_AFTER_S, holder_elsewhere, leased
from resexp.runs.store import Run
from resexp.training.train import attempt, train
from tests.conftest import wait_until
from tests.test_training import after, assert_same, make_run

__all__ = ["make_run"]

MakeRun = Callable[..., Run]


@pytest.fixture
def other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Locks that hold nothing, as between machines whose file system does not carry them over."""
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)


def content(run: Run) -> dict[str, bytes]:
    return {str(path.relative_to(run.folder)): path.read_bytes() for path in run.folder.rglob("*") if path.is_file()}


@pytest.mark.usefixtures("other_hosts")
def test_an_attempt_that_was_taken_over_writes_nothing_more(make_run: MakeRun) -> None:
    undisturbed, run = make_run(), make_run("taken-over")
    train(undisturbed)
    frozen = attempt(run, stop=lambda: False)
    for _ in range(7):
        next(frozen)
    assert train(run).state == "finished"
    before = content(run)
    with pytest.raises(LeaseLostError, match="taken over by another attempt, which continues it"):
        for _ in frozen:
            pass
    assert content(run) == before
    assert_same(run, undisturbed)


@pytest.mark.usefixtures("other_hosts")
def test_nothing_can_be_published_without_the_claim(tmp_path: Path) -> None:
    with Run(tmp_path).leased() as old, Run(tmp_path).leased() as new:
        new.publish(tmp_path / "file", "new")
        for sync in (True, False):
            with pytest.raises(LeaseLostError):
                old.publish(tmp_path / "file", "old", sync=sync)
        with pytest.raises(LeaseLostError):
            old.lease and old.lease.heartbeat()
        assert (tmp_path / "file").read_text() == "new"


def test_numbers_are_never_used_twice(tmp_path: Path) -> None:
    for number in (1, 2, 3):
        with leased(tmp_path, "it") as lease:
            assert lease.folder.name == f".attempt-{number}"
    assert [path.name for path in tmp_path.iterdir()] == [".attempt-3"]


def test_of_two_that_claim_at_once_one_succeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with leased(tmp_path, "it"):
        monkeypatch.setattr("resexp.runs.lease._attempts", lambda folder: {})  # as seen a moment before
        with pytest.raises(UserError, match="it is being claimed by another process"), leased(tmp_path, "it"):
            pass
    assert [path.name for path in tmp_path.iterdir()] == [".attempt-1"]


def test_an_attempt_on_another_machine_is_alive_while_it_gives_signs_of_life(tmp_path: Path) -> None:
    with leased(tmp_path, "it") as lease:
        assert holder_elsewhere(tmp_path) == "", "of this machine the lock tells"
        (lease.folder / "owner").write_text("process 12 on node3")
        assert holder_elsewhere(tmp_path) == "process 12 on node3"
        with pytest.raises(UserError, match="in use by process 12 on node3; wait for it"), Run(tmp_path).leased():
            pass
        past = lease.folder.stat().st_mtime - TAKEOVER_AFTER_S - 1
        os.utime(lease.folder, (past, past))
        assert holder_elsewhere(tmp_path) == ""
        lease.heartbeat()
        assert holder_elsewhere(tmp_path) == "process 12 on node3"
    assert holder_elsewhere(tmp_path) == "", "it has ended"


def test_an_attempt_gives_signs_of_life_while_it_prepares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resexp.runs.lease.HEARTBEAT_S", 0.01)
    with leased(tmp_path, "it") as lease:
        os.utime(lease.folder, (0, 0))
        with lease.heartbeats():
            wait_until(None, lambda: lease.folder.stat().st_mtime > 0)
        os.utime(lease.folder, (0, 0))
        assert not [thread for thread in threading.enumerate() if thread.name == "signs of life"]
        with (
            lease.heartbeats(),
            leased(tmp_path, "another"),
        ):  # takes over: nothing is left to touch, and nothing is said
            wait_until(None, lambda: not [thread for thread in threading.enumerate() if thread.name == "signs of life"])


def test_an_attempt_gives_signs_of_life_while_it_works(make_run: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resexp.runs.lease.HEARTBEAT_S", 0.0)
    run = make_run()
    work = attempt(run, stop=after(3))
    next(work)
    (folder,) = run.folder.glob(".attempt-*")
    os.utime(folder, (0, 0))
    next(work)
    assert folder.stat().st_mtime > 0
