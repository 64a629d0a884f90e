"""Death while the data are decoded, or while the folders of a study are made."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from resexp.config.study import load
from resexp.data import open_dataset
from resexp.sweeping import create
from tests.faults.operations import in_a_process, killed_at, operations_of
from tests.test_training import tiny

Survived = Callable[..., None]
Write = Callable[..., Path]


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.faults), 7])
def test_data_whose_decoding_died_are_decoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every: int, survived: Survived
) -> None:
    config = tiny(data={"resize": 12}).data

    def decode() -> None:
        open_dataset(config)

    whole = open_dataset(config)
    monkeypatch.setenv("RESEXP_DATA", str(tmp_path / "home"))
    fatal = range(1, len(operations_of(decode, tmp_path / "home", tmp_path / "log")) + 1, every)
    for number in fatal:
        shutil.rmtree(tmp_path / "home")
        assert killed_at(decode, tmp_path / "home", number)
        assert in_a_process(decode) == 0
        found = open_dataset(config)
        assert found.fingerprint == whole.fingerprint
        assert all(map(np.array_equal, (*found.train(), *found.test()), (*whole.train(), *whole.test())))
        assert not list(tmp_path.glob("home/cache/.building*"))
    survived("SIGKILL at each operation of decoding", len(fatal))


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.faults), 5])
def test_a_study_whose_folders_were_half_made_is_made_again(
    tmp_path: Path, write_study: Write, every: int, survived: Survived
) -> None:
    study, cells = load(str(write_study(grid={"model.depth": [8, 14]})))

    def make(results: Path) -> None:
        for cell in cells:
            create(study, cell, results)

    def made(results: Path) -> dict[str, str]:
        files = (path for path in results.rglob("*") if path.is_file() and path.name[0] != ".")
        return {str(path.relative_to(results)): path.read_text() for path in files if path.suffix != ".tmp"}

    operations = operations_of(lambda: make(tmp_path / "whole"), tmp_path / "whole", tmp_path / "log")
    fatal = range(1, len(operations) + 1, every)
    for number in fatal:
        results = tmp_path / f"results{number}"
        assert killed_at(lambda results=results: make(results), results, number)
        assert in_a_process(lambda results=results: make(results)) == 0
        assert made(results) == made(tmp_path / "whole")
    survived("SIGKILL at each operation of making a study", len(fatal))
