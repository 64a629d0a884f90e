"""Leases: the newest attempt alone may write to a run folder.

An attempt at a run claims it with a folder of its own, ``.attempt-<N>``, and publishes every file by renaming it out
of there. A later attempt makes ``.attempt-<N+1>``, removes the older ones, and only then reads what the run has come
to. So an attempt that was presumed dead and comes back can't write: the folder that it would have to rename from is
gone. This relies on renames that are atomic, and on nothing else: not on locks, or clocks, or who saw what when.

Whether an attempt is still alive is another question, and getting it wrong loses work, never results. On one machine
the kernel answers it, by the lock (`files.locked`). An attempt on another machine counts as alive for as long as it
touches its folder, once a second while it works.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from resexp.errors import LeaseLostError, UserError
from resexp.utils.files import write_atomic
from resexp.utils.untrusted import read_file, refuse_links

HEARTBEAT_S = 1.0
"""Seconds between heartbeats."""
TAKEOVER_AFTER_S = 60.0
"""Seconds without a heartbeat after which an attempt on another machine is presumed dead. The clocks of the
machines may differ by less than that."""
_OWNER, _MAX_OWNER = "owner", 1000
_TAKEN = (errno.EEXIST, errno.ENOTEMPTY, errno.ENOENT, errno.ENOTDIR)
"""Another claim has become the folder, and perhaps removed ours."""
_TRIES = 100


class Lease:
    """The right of one attempt to write into a run folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        """Where files are made before they are published."""
        self._last_heartbeat = 0.0

    @contextlib.contextmanager
    def guarded(self) -> Iterator[None]:
        """Raise LeaseLostError where something fails because the lease was taken away."""
        try:
            yield
        except FileNotFoundError:
            # Its folder may still be there, and what it was to publish be removed already.
            latest = _attempt(self.folder.parent, newest(self.folder.parent))
            if self.folder == latest or not self.folder.parent.exists():
                raise
            raise LeaseLostError(f"{self.folder.parent}: taken over by another attempt, which continues it") from None

    def write(self, path: Path, content: str | bytes, *, sync: bool = True) -> None:
        """Replace `path` as a whole. Raises LeaseLostError if the lease was taken away."""
        with self.guarded():
            write_atomic(path, content, sync=sync, within=self.folder)

    def heartbeat(self) -> None:
        """Touch the folder, at most once in HEARTBEAT_S. Raises LeaseLostError if the lease was taken away."""
        now = time.monotonic()
        if now >= self._last_heartbeat + HEARTBEAT_S:
            self._last_heartbeat = now
            with self.guarded():
                os.utime(self.folder)

    @contextlib.contextmanager
    def heartbeats(self) -> Iterator[None]:
        """Give heartbeats from a thread, during work that has no pieces, such as decoding an image set."""
        ended = threading.Event()

        def heartbeat() -> None:
            with contextlib.suppress(OSError, LeaseLostError):  # the attempt itself will meet it
                while not ended.wait(HEARTBEAT_S):
                    self.heartbeat()

        thread = threading.Thread(target=heartbeat, name="signs of life", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


@contextlib.contextmanager
def leased(folder: Path, what: str) -> Iterator[Lease]:
    """Lease a run folder, whatever attempts had it before; the caller has made sure that they are dead.

    Raises UserError if another one claims it at this moment.
    """
    refuse_links(folder)
    earlier = _attempts(folder)
    number = max(earlier, default=0) + 1
    lease = Lease(_attempt(folder, number))
    claim = folder / f".claiming-{uuid.uuid4().hex}"
    claim.mkdir()
    try:
        (claim / _OWNER).touch()
        with contextlib.suppress(OSError):  # a full disk: the text is for messages
            (claim / _OWNER).write_text(f"process {os.getpid()} on {os.uname().nodename}")
        claim.rename(lease.folder)  # onto a folder that is not there, or is empty: one claim succeeds
    except OSError as error:
        shutil.rmtree(claim, ignore_errors=True)
        if error.errno not in _TAKEN:
            raise
        raise UserError(f"{what} is being claimed by another process; wait for it, or stop it first") from None
    if newest(folder) > number:  # a newer attempt came between the scan and the rename
        _remove(lease.folder)
        raise UserError(f"{what} was claimed by another process; wait for it, or stop it first")
    for other in folder.glob(".claiming-*"):
        with contextlib.suppress(FileNotFoundError):  # it was quicker
            # Move it away in one rename. If rmtree emptied it first, its owner could still rename it into place, and a
            # third process could then rename onto the empty folder.
            other.rename(lease.folder / other.name)
            _remove(lease.folder / other.name)
    for older in earlier:
        _remove(_attempt(folder, older))
    try:
        yield lease
    finally:
        (lease.folder / _OWNER).unlink(missing_ok=True)  # the folder stays: numbers are never used twice


def holder_elsewhere(folder: Path) -> str:
    """The living attempt on another machine: ``process 12 on node3``; empty if there is none."""
    attempt = _attempt(folder, newest(folder))
    try:
        owner, age = read_file(attempt / _OWNER, _MAX_OWNER).decode(), time.time() - attempt.stat().st_mtime
    except (ValueError, FileNotFoundError, UserError):
        return ""
    return owner if abs(age) < TAKEOVER_AFTER_S and not owner.endswith(f" on {os.uname().nodename}") else ""


def newest(folder: Path) -> int:
    """The number of the newest attempt at a run; 0 before the first."""
    return max(_attempts(folder), default=0)


def last_heartbeat(folder: Path) -> float:
    """Time of the newest attempt's last heartbeat, by the file system's clock; 0 if there was none."""
    try:
        return _attempt(folder, newest(folder)).stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _remove(folder: Path) -> None:
    for _ in range(_TRIES):  # it may be at work, and make another file in it
        shutil.rmtree(folder, ignore_errors=True)
        if not folder.exists():
            return
    shutil.rmtree(folder)


def _attempts(folder: Path) -> set[int]:
    numbers = [path.name.removeprefix(".attempt-") for path in folder.glob(".attempt-*/")]
    return {int(number) for number in numbers if number.isdecimal()}


def _attempt(folder: Path, number: int) -> Path:
    return folder / f".attempt-{number}"
