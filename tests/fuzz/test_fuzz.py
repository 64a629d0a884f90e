"""The normal run of the fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.readers import readers
from tests.fuzz.run import cases_of, give


@pytest.mark.slow
def test_no_reader_ends_in_a_traceback_or_a_hang(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scratch = tmp_path / "work"
    scratch.mkdir()
    found = readers(scratch)
    counts = {name: cases_of(reader, found) for name, reader in found.items()}
    for name, reader in found.items():
        for number in range(counts[name]):
            give(name, reader, number)
    with capsys.disabled():
        print("\ncases:", ", ".join(f"{name} {count:,}" for name, count in counts.items()))
