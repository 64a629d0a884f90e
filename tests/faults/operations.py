"""Death in the middle of what a process does to its files: at any operation, or half-way through any write."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  an optimizer imports it, which takes seconds: once here, not in each forked process

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.rename", "os.remove", "os.link", "os.symlink", "os.truncate", "os.mkdir", "os.rmdir", "os.utime"}


class Operations:
    """Counts what this process does to the files in a folder. At the `fatal`-th it kills the process.

    Operations are those that Python's audit events tell of, which come before the operation itself, and writes,
    of which the fatal one is done by half. For a process of its own: what is installed stays.
    """

    def __init__(self, folder: Path, fatal: int | None = None) -> None:
        self.done: list[str] = []
        self._folder, self._fatal = folder.absolute(), fatal
        sys.addaudithook(self._heard)
        opened = io.open

        def halving(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+") or not self._is_inside(file):
                return opened(file, mode, *rest, **options)
            raw = _Halving(file, mode.replace("b", ""), self)
            buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffer if "b" in mode else io.TextIOWrapper(buffer)

        io.open = halving  # what pathlib opens files with

    def is_fatal(self, what: str) -> bool:
        """Count one more; whether it is the last."""
        self.done.append(what)
        return len(self.done) == self._fatal

    def _is_inside(self, *paths: Any, beside: int = -1) -> bool:
        """Whether one of the paths, which may be relative to an open folder, is in ours."""
        base = Path.cwd() if beside < 0 else Path(f"/proc/self/fd/{beside}").readlink()
        named = [os.fsdecode(path) for path in paths if isinstance(path, str | bytes | os.PathLike)]
        return any((base / path).is_relative_to(self._folder) for path in named)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            changes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else flags & _WRITES
            paths, beside = (path,) if changes else (), -1
        else:
            paths = arguments[:2] if event in _CHANGES else ()
            beside = arguments[-1] if event in ("os.remove", "os.rmdir") else -1
        if self._is_inside(*paths, beside=beside) and self.is_fatal(f"{event} {' '.join(map(str, paths))}"):
            die()


class _Halving(io.FileIO):
    def __init__(self, file: Any, mode: str, operations: Operations) -> None:
        super().__init__(file, mode)
        self._operations = operations

    def write(self, data: Any) -> int:
        if self._operations.is_fatal(f"write {self.name!r}"):
            super().write(memoryview(data).cast("B")[: len(data) // 2])
            die()
        return super().write(data)


def die() -> None:
    """SIGKILL, now."""
    os.kill(os.getpid(), signal.SIGKILL)


def in_a_process(work: Callable[[], None]) -> int:
    """Do `work` in a process of its own, forked from this one; returns its exit code, -9 where it was killed."""
    process = multiprocessing.get_context("fork").Process(target=work)
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


def operations_of(work: Callable[[], None], folder: Path, log: Path) -> list[str]:
    """What `work` does to the files in `folder` when nothing kills it."""

    def counted() -> None:
        operations = Operations(folder)
        work()
        log.write_text("\n".join(operations.done))

    assert in_a_process(counted) == 0
    return log.read_text().splitlines()


def killed_at(work: Callable[[], None], folder: Path, fatal: int) -> None:
    """Let `work` die at its `fatal`-th operation in `folder`."""

    def doomed() -> None:
        Operations(folder, fatal)
        work()

    assert in_a_process(doomed) == -signal.SIGKILL
