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

    Operations are those that Python's audit events tell of, which come before the operation itself, and writes to
    binary files, of which the fatal one is done by half. For a process of its own: what is installed stays.
    """

    def __init__(self, folder: Path, fatal: int | None = None) -> None:
        self.done: list[str] = []
        self._folder, self._fatal = folder.absolute(), fatal
        sys.addaudithook(self._heard)
        opened = io.open

        def halving(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if mode in ("wb", "ab") and self._is_inside(file):
                return io.BufferedWriter(_Halving(file, mode, self))
            return opened(file, mode, *rest, **options)

        io.open = halving  # what pathlib opens files with

    def is_fatal(self, what: str) -> bool:
        """Count one more; whether it is the last."""
        self.done.append(what)
        return len(self.done) == self._fatal

    def _is_inside(self, *paths: Any) -> bool:
        named = [os.fsdecode(path) for path in paths if isinstance(path, str | bytes | os.PathLike)]
        return any(Path(path).absolute().is_relative_to(self._folder) for path in named)

    def _heard(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            changes = any(letter in mode for letter in "wax+") if isinstance(mode, str) else flags & _WRITES
            paths = (path,) if changes else ()
        else:
            paths = arguments[:2] if event in _CHANGES else ()
        if self._is_inside(*paths) and self.is_fatal(f"{event} {' '.join(map(str, paths))}"):
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
