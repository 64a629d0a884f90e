"""Death in the middle of what a process does to its files: at any operation, or half-way through any write."""

from __future__ import annotations

import contextlib
import io
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

import torch._dynamo  # noqa: F401  an optimizer imports it, which takes seconds: once here, not in each forked process

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_CHANGES = {"os.rename", "os.remove", "os.link", "os.symlink", "os.truncate", "os.mkdir", "os.rmdir", "os.utime"}


class Operations:
    """Counts what this process does to the files in a folder. At the `fatal`-th the process gets a signal.

    Operations are those that Python's audit events tell of, which come before the operation itself, and writes,
    of which the fatal one is done by half. For a process of its own: what is installed stays.
    """

    def __init__(self, folder: Path, fatal: int | None = None, number: int = signal.SIGKILL) -> None:
        self.done: list[str] = []
        self._folder, self._fatal, self._number = folder.absolute(), fatal, number
        sys.addaudithook(self._heard)
        opened = io.open

        def halving(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if not set(mode) & set("wax+") or not self._is_inside(file):
                return opened(file, mode, *rest, **options)
            raw = _Halving(file, mode.replace("b", ""), self)
            buffer = io.BufferedRandom(raw) if "+" in mode else io.BufferedWriter(raw)
            return buffer if "b" in mode else io.TextIOWrapper(buffer)

        io.open = halving  # what pathlib opens files with

    def count(self, what: str, half: Callable[[], None] = lambda: None) -> bool:
        """Count one more. The fatal one is done by `half`; whether it was this one, and is survived."""
        self.done.append(what)
        fatal = len(self.done) == self._fatal
        if fatal:
            half()
            os.kill(os.getpid(), self._number)
        return fatal

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
        if self._is_inside(*paths, beside=beside):
            self.count(f"{event} {' '.join(map(str, paths))}")


class _Halving(io.FileIO):
    def __init__(self, file: Any, mode: str, operations: Operations) -> None:
        super().__init__(file, mode)
        self._operations = operations

    def write(self, data: Any) -> int:
        data = memoryview(data).cast("B")
        half = len(data) // 2
        if self._operations.count(f"write {self.name!r}", lambda: self._half(data[:half])):
            return half + super().write(data[half:])
        return super().write(data)

    def _half(self, data: memoryview) -> None:
        super().write(data)


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


def killed_at(work: Callable[[], None], folder: Path, fatal: int) -> bool:
    """Let `work` die at its `fatal`-th operation in `folder`; whether it came to that, and did not end before."""

    def doomed() -> None:
        Operations(folder, fatal)
        work()

    code = in_a_process(doomed)
    assert code in (0, -signal.SIGKILL)
    return code != 0


def frozen_at(work: Callable[[], None], folder: Path, fatal: int) -> ForkProcess:
    """A process that does `work`; by now it stands still (SIGSTOP) at its `fatal`-th operation, or has ended before."""

    def freezing() -> None:
        Operations(folder, fatal, signal.SIGSTOP)
        work()

    process = multiprocessing.get_context("fork").Process(target=freezing)
    process.start()
    os.waitid(os.P_PID, process.pid or 0, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return process


def thaw(process: ForkProcess) -> int:
    """Let a frozen process go on to its end; its exit code."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(process.pid or 0, signal.SIGCONT)
    process.join()
    assert process.exitcode is not None
    return process.exitcode
