"""Several machines lease one run at the same time, on a file system without flock: one of them has it."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resexp.errors import UserError
from resexp.runs.lease import leased, newest
from tests.faults.operations import frozen_at, in_a_process, operations_of, thaw

Survived = Callable[..., None]
WRITES = 20
REFUSED = 3


def contend(folder: Path, name: str) -> None:
    """Lease the folder and write a file again and again; exits with REFUSED where another has taken it."""
    try:
        with leased(folder, "it") as lease:
            for number in range(WRITES):
                lease.write(folder / "file", f"{name} {number}", sync=False)
    except UserError:
        sys.exit(REFUSED)


@pytest.mark.parametrize("rounds", [pytest.param(200, marks=pytest.mark.faults), 10])
def test_of_many_contenders_the_last_to_claim_has_the_last_word(
    tmp_path: Path, rounds: int, survived: Survived
) -> None:
    fork, contenders = multiprocessing.get_context("fork"), 5
    for number in range(rounds):
        folder = tmp_path / str(number)
        folder.mkdir()
        barrier = fork.Barrier(contenders)

        def begin(name: str, folder: Path = folder, barrier: object = barrier) -> None:
            barrier.wait()  # type: ignore[attr-defined]
            contend(folder, name)

        processes = [fork.Process(target=begin, args=(str(name),)) for name in range(contenders)]
        for process in processes:
            process.start()
        for process in processes:
            process.join()
        ended = {str(name): process.exitcode for name, process in enumerate(processes)}
        assert set(ended.values()) <= {0, REFUSED}
        name, last = (folder / "file").read_text().split()
        assert (ended[name], last) == (0, str(WRITES - 1))
        assert len(list(folder.iterdir())) == 2  # the file, and the folder of the last attempt
    survived("five machines lease one run", rounds)


def test_who_froze_while_claiming_has_no_claim_when_others_came(tmp_path: Path, survived: Survived) -> None:
    """One comes and goes, and the next is at work in the folder when the frozen one goes on."""
    folder = made(tmp_path / "whole")
    operations = operations_of(lambda: contend(folder, "alone"), folder, tmp_path / "log")
    claiming = next(number for number, what in enumerate(operations) if ".tmp" in what)
    for number in range(1, claiming + 1):
        folder = made(tmp_path / str(number))
        frozen = frozen_at(lambda folder=folder: contend(folder, "frozen"), folder, number)
        assert in_a_process(lambda folder=folder: contend(folder, "quick")) == 0
        other = frozen_at(lambda folder=folder: contend(folder, "other"), folder, len(operations) // 2)
        written, attempt = (folder / "file").read_text(), newest(folder)
        assert thaw(frozen) in (0, REFUSED)
        if newest(folder) == attempt:
            assert (folder / "file").read_text() == written, operations[number - 1]
            assert thaw(other) == 0
        else:  # it had not even looked who was there, and took over
            assert thaw(other) == REFUSED
        assert (folder / "file").read_text().endswith(f" {WRITES - 1}")
    survived("frozen while claiming, two others came", claiming)


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder
