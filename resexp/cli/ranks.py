"""`resexp train` under torchrun: rank 0 carries the command out, the others follow it and end as it does."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from resexp.cli.options import err
from resexp.errors import UserError
from resexp.utils.interrupts import EXIT_FAILED, EXIT_SIGNAL, EXIT_USAGE, Interrupted, Stop

if TYPE_CHECKING:
    from resexp.distributed import Ranks


@contextlib.contextmanager
def leading(stop: Stop) -> Iterator[Ranks | None]:
    """The ranks that torchrun started, on rank 0; None where it started one only, or was not used.

    Elsewhere typer.Exit is raised once rank 0 has ended, with its exit code.
    """
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        yield None
        return
    from resexp.distributed import joined
    from resexp.training.followers import follow

    stop.install()
    with joined(stop) as ranks:
        if ranks.rank > 0:
            raise typer.Exit(follow(ranks, stop))
        code = 0
        if os.environ["TORCHELASTIC_MAX_RESTARTS"] != "0" and os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True":
            err.print("resexp: a restart may hang; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun (#135712)")
        try:
            yield ranks
        except BaseException as error:
            code = exit_code(error)
            raise
        finally:
            ranks.end_others(code)


def exit_code(error: BaseException) -> int:
    """What a command that ended in this error exits with."""
    if isinstance(error, typer.Exit):
        return error.exit_code
    if isinstance(error, UserError | OSError):
        return EXIT_USAGE
    if isinstance(error, Interrupted):
        return error.exit_code
    return EXIT_SIGNAL + signal.SIGINT if isinstance(error, KeyboardInterrupt) else EXIT_FAILED
