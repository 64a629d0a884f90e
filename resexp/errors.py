"""All exceptions. The command line shows `UserError` and `RunFailedError` in one line each; the others are caught
inside the package."""

from __future__ import annotations

import re

MAX_LINE = 2000
"""Characters of a line at most; a longer one keeps its beginning and its end, which has the remedy."""

_COMMANDS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tab and newline, bidirectional overrides, and lone surrogates."""


def sanitize(text: str) -> str:
    """Replace control characters and lone surrogates in `text` by U+FFFD."""
    return _COMMANDS.sub("\N{REPLACEMENT CHARACTER}", text)


class UserError(Exception):
    """A mistake of the user. Each argument is one line: what is wrong, where, what to do instead.

    The command line prints the lines, without a traceback, and exits with code 2. Whatever a line quotes, it stays one
    line of MAX_LINE characters at most.
    """

    def __init__(self, *lines: str) -> None:
        super().__init__(*map(_one_line, lines))

    def __str__(self) -> str:
        return "\n".join(self.args)


class DeviceOutOfMemoryError(UserError):
    """The device has too little free memory for the run."""


class DeviceFailedError(UserError):
    """The device is gone, or refuses all further work of this process."""


class LeaseLostError(UserError):
    """Another attempt has taken the run over; nothing more can be written by this one."""


class RunFailedError(Exception):
    """A run ended in an error that is not the user's; one line, exit code 1."""


class StopRequested(Exception):
    """A stop was requested during an evaluation or a probe; its partial result is discarded."""


class UnreadableImageError(Exception):
    """An image that can't be decoded, and why."""


class DamagedCheckpointError(Exception):
    """The file is not, or no longer, what was saved."""


def _one_line(line: str) -> str:
    line = sanitize(line).replace("\n", " ")
    return line if len(line) <= MAX_LINE else f"{line[: MAX_LINE // 2]} [...] {line[-MAX_LINE // 3 :]}"
