"""Fixtures: a data folder of each test's own, and studies small enough to train in a second."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
import yaml

from resexp.cli import main
from resexp.utils.interrupts import STOPPING
from resexp.utils.logs import logged_to

# One thread a process, here and in the processes that tests start: results must not depend on what else is running.
os.environ["OMP_NUM_THREADS"] = "1"

# Jobs in the background begin with Ctrl-C ignored, and so would the commands that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

REPOSITORY = Path(__file__).resolve().parents[1]
# With a given interpreter nothing is installed: processes that tests start find the package where the tests found it.
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(REPOSITORY), os.environ.get("PYTHONPATH")]))

TINY = {
    "name": "tiny",
    "data": {"source": "shapes", "size": 8, "train_images": 200, "test_images": 100, "pad": 1},
    "model": {"width": 2, "depth": 8},
    "train": {"steps": 12, "batch_size": 32, "log_every": 4, "eval_every": 6, "device": "cpu"},
}
"""Ten steps of a net with a few hundred parameters: everything real but the size."""


def pytest_collection_finish() -> None:
    """Exclude imported objects from garbage collection: to scan them again and again takes a fifth of the time."""
    import torch._dynamo  # as the first optimizer does  # noqa: F401

    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Let libraries end as they expect to."""
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _own_places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes the user's data folder, results or settings."""
    monkeypatch.setenv("RESEXP_DATA", str(tmp_path / "data-home"))
    monkeypatch.delenv("RESEXP_RESULTS", raising=False)
    monkeypatch.delenv("RESEXP_PLUGINS", raising=False)  # which --plugin sets, also in this process
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path) -> Iterator[None]:
    before = Path.cwd()
    os.chdir(tmp_path)
    yield
    os.chdir(before)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """What a test trains would differ in the last digit after one that leaves another number of threads."""
    yield
    import torch  # after OMP_NUM_THREADS is set

    assert torch.get_num_threads() == 1


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    """A command that a test runs in this process leaves its handlers, as at the end of a process."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def write_study(tmp_path: Path) -> Callable[..., Path]:
    """Write TINY, overlaid by the given sections, to a file; a value of None leaves a section out."""

    return lambda name="tiny.yaml", **sections: write_tiny(tmp_path / name, **sections)


def write_tiny(path: Path, **sections: object) -> Path:
    """What `write_study` does, for fixtures of several tests."""
    study: dict[str, object] = dict(TINY)
    for key, value in sections.items():
        if isinstance(value, dict) and isinstance(study.get(key), dict):
            study[key] = {**study[key], **value}  # type: ignore[dict-item]
        else:
            study[key] = value
    path.write_text(yaml.safe_dump({k: v for k, v in study.items() if v is not None}, sort_keys=False))
    return path


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[Path]:
    """For what is trained once for several tests, which copy it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("RESEXP_DATA", str(folder / "data-home"))
        yield folder


@pytest.fixture(autouse=True)
def _own_log() -> Iterator[None]:
    """No command of an earlier test prints what this one logs."""
    with logged_to(lambda line: None):
        yield


@pytest.fixture
def logged() -> Iterator[list[str]]:
    """Lines that resexp has logged since the test began."""
    lines = list[str]()
    with logged_to(lines.append):
        yield lines


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs is not allowed here")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def fill(disk: Path) -> Path:
    """Write a file until nothing more fits."""
    ballast = disk / "ballast"
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    return ballast


@pytest.fixture
def resexp() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run the command line in a process of its own, as a user does."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(*arguments), capture_output=True, text=True, timeout=200, env={**os.environ, **environment}
        )

    return run


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`resexp` without its process, which imports torch for seconds: for what a process of its own can't change."""

    def run(*arguments: object, **environment: str) -> subprocess.CompletedProcess[str]:
        words = ["resexp", *map(str, arguments)]
        output, errors = io.StringIO(), io.StringIO()
        handlers = {number: signal.getsignal(number) for number in STOPPING}
        monkeypatch.setattr(sys, "argv", words)
        with (
            patch.dict(os.environ, environment),
            contextlib.redirect_stdout(output),
            contextlib.redirect_stderr(errors),
            pytest.raises(SystemExit) as ended,
        ):
            main()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        assert isinstance(ended.value.code, int)
        return subprocess.CompletedProcess(words, ended.value.code, output.getvalue(), errors.getvalue())

    return run


def wait_until(process: subprocess.Popen[str] | None, condition: Callable[[], bool]) -> None:
    """Look again and again until `condition()`; the process that is to bring it about must not end before."""
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        time.sleep(0.01)


def command(*arguments: object) -> list[str]:
    """The words of a resexp command."""
    return [sys.executable, "-m", "resexp", *map(str, arguments)]
