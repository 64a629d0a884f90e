"""Files that are whole or absent, and locks that die with their process.

Locks rely on flock: the kernel drops them when their process ends, so none can be stale. They hold between processes
of one machine, and across machines where the file system carries flock over (NFSv4, Lustre with -o flock).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from resexp.errors import UserError

_TRIES = 20
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
"""Errors of a file system without locks. There, two attempts at a run may start, and the later one takes it
over from the earlier (see `lease`)."""


def holds(kind: Callable[[], bool]) -> bool:
    """entry.is_dir() or entry.is_file(); False instead of an error, as for a link that leads to itself."""
    try:
        return kind()
    except OSError:
        return False


@contextlib.contextmanager
def with_filename(path: Path) -> Iterator[None]:
    """Let an error of the file system say which file it is about; writing to an open file does not."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def write_atomic(path: Path, content: str | bytes, *, sync: bool = True, within: Path | None = None) -> None:
    """Replace `path` as a whole: readers see the old content or the new, never a part of it.

    The temporary file is in `within`, on the same file system; by default in the folder of `path`.
    """
    data = content.encode() if isinstance(content, str) else content
    temporary = (within or path.parent) / f"{path.name}.{os.getpid()}.tmp"
    try:
        temporary.unlink(missing_ok=True)
        with temporary.open("xb") as file:  # made here: not a link to elsewhere that others left
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException as error:
        if isinstance(error, OSError):
            # name the file that was asked for, not the temporary one; if its folder is missing, name the folder
            error.filename = str(path if path.parent.is_dir() else path.parent)
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise


def write_output(path: Path, content: str) -> None:
    """Write a file that a user names. A link, a pipe or a device is not replaced, but written to."""
    if path.is_symlink() or (path.exists() and not path.is_file()):
        with with_filename(path):
            path.write_text(content)
    else:
        write_atomic(path, content)


def write_held(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """`write_atomic` for the only process that may write `path` now. It removes what killed ones left of it."""
    for left_over in path.parent.glob(f"{path.name}.*.tmp"):
        left_over.unlink(missing_ok=True)
    write_atomic(path, content, sync=sync)


def write_alone(path: Path, content: str | bytes) -> None:
    """`write_atomic`, one process at a time in a folder, without what killed ones left there."""
    with locked(path.parent / ".writing", f"{path.parent}", wait=True):
        for left_over in path.parent.glob("*.tmp"):
            left_over.unlink(missing_ok=True)
        write_atomic(path, content)


def write_all(folder: Path, files: Mapping[str, str | bytes]) -> None:
    """Write all files to a temporary folder, then move them into `folder` one by one, in their order.

    An error before the moves changes nothing; a crash during them leaves each file either old or new.
    """
    with locked(folder / ".lock", f"{folder}", wait=True):
        new = folder / ".new"
        shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
        try:
            for name, content in files.items():
                (new / name).parent.mkdir(parents=True, exist_ok=True)
                write_atomic(new / name, content)
            for name in files:
                try:
                    (folder / name).parent.mkdir(exist_ok=True)
                    (new / name).replace(folder / name)
                except OSError as error:
                    error.filename = str(folder / name)  # nobody knows of the temporary file
                    raise
        finally:
            shutil.rmtree(new, ignore_errors=True)


def sync_folder(folder: Path) -> None:
    """fsync a folder, so that renames in it survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(path: Path, what: str, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock file `path`. If another process holds it, `wait` for it, or raise UserError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        file = open(path, "a+", opener=_not_through_links)  # noqa: SIM115
    except OSError as error:
        error.filename = str(path.parent)  # nobody knows of the lock file
        raise
    with file:
        for attempt in range(_TRIES):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
                break
            except BlockingIOError:
                if attempt == _TRIES - 1:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    raise UserError(f"{what} is in use by {holder}; wait for it, or stop it first") from None
                time.sleep(0.02)  # is_locked() holds the lock for an instant
            except OSError as error:
                if error.errno not in _NO_LOCKS:
                    raise
                break
        with contextlib.suppress(OSError):  # a full disk: only messages need the holder, and `resexp rm` frees it
            os.ftruncate(file.fileno(), 0)
            os.write(file.fileno(), f"process {os.getpid()} on {os.uname().nodename}".encode())
        yield


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock file."""
    try:
        with open(path, opener=_not_through_links) as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return False


def _not_through_links(path: str, flags: int) -> int:
    """Open a lock file; it may lie in a folder of others', so it is neither followed elsewhere nor waited for."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
