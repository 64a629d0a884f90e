"""multiprocessing's folders of sockets, which a killed process leaves in the temporary directory for the next one."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import tempfile
from multiprocessing import util
from pathlib import Path

_MARK = ".resexp"


@functools.cache
def mark_sockets() -> None:
    """Mark this process's folder of sockets, and remove marked ones of killed processes.

    A process holds a lock on its folder, which the kernel drops when it ends. Without locks nothing is removed.
    """
    for mark in Path(tempfile.gettempdir()).glob(f"pymp-*/{_MARK}"):
        with contextlib.suppress(OSError):  # another user's, or of a living process
            os.close(_locked(mark.parent))
            _remove(mark.parent)
    folder = Path(util.get_temp_dir())
    with contextlib.suppress(OSError):  # a file system without locks
        _locked(folder)  # to the end of the process
        (folder / _MARK).touch()


def _remove(folder: Path) -> None:
    """Remove a folder with its sockets. Raises OSError where it holds anything else, which is kept."""
    for socket in folder.glob("listener-*"):
        if socket.is_socket():
            socket.unlink()
    (folder / _MARK).unlink()
    folder.rmdir()


def _locked(folder: Path) -> int:
    """A descriptor that holds a lock on the folder. Raises OSError where another process does."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor
