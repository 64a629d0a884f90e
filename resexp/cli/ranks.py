"""`resexp train` under torchrun: rank 0 reads the arguments, prints, and tells the others which run to train."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from resexp.cli.options import err
from resexp.utils.interrupts import Stop

if TYPE_CHECKING:
    from resexp.distributed import Ranks


@contextlib.contextmanager
def torchrun(stop: Stop) -> Iterator[Ranks | None]:
    """The ranks that torchrun started; None where it started one only, or was not used."""
    if "TORCHELASTIC_RUN_ID" not in os.environ or os.environ["WORLD_SIZE"] == "1":
        yield None
        return
    from resexp.distributed import joined

    stop.install()
    with joined(stop) as ranks:
        restarts = os.environ["TORCHELASTIC_MAX_RESTARTS"] != "0"
        if ranks.rank == 0 and restarts and os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True":
            err.print("resexp: a restart may hang; set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun (#135712)")
        yield ranks
