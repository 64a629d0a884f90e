"""Paths as people write them: with `~` for a home folder and `$NAME` for a variable of the environment."""

from __future__ import annotations

import os
import re
from pathlib import Path

from resexp.errors import UserError

_VARIABLE = re.compile(r"\$(?:(\w+)|\{(\w+)\})", re.ASCII)


def expanded(path: str | Path) -> Path:
    """`path` with `~`, `~user`, `$NAME` and `${NAME}` replaced. An unset `$NAME` may be part of a file's name.

    Raises UserError if a variable is not set and no file is called so, if a user has no home folder, or if
    nothing is left.
    """
    text = os.fspath(path)
    names = [match[1] or match[2] for match in _VARIABLE.finditer(text)]
    if (unset := [name for name in names if name not in os.environ]) and not os.path.lexists(text):
        raise UserError(f"{text}: the environment variable {unset[0]} is not set; set it, or write the path out")
    if not os.path.expandvars(text):
        raise UserError(f"{text!r}: an empty path; write one, or . for the current folder")
    found = os.path.expandvars(text)
    try:
        return Path(found).expanduser() if found.startswith("~") else Path(found)  # ./~ is a folder called so
    except RuntimeError:
        raise UserError(f"{text}: no home folder for {Path(text).parts[0]}; write the path out") from None
