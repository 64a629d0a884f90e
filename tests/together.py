"""What torchrun starts in the tests: trains run folders one after the other, each on all ranks.

    torchrun ... -m tests.together RUN [RUN...]

The ranks but the first work in another, empty folder: they need no run folder. A run that one of them refuses is left.
How many broadcasts of tensors rank 0 made is written to `broadcasts` in its folder. In the end no thread of Gloo may be
left: while the interpreter ends, it would abort the process.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch.distributed as dist

from resexp.distributed import joined
from resexp.errors import UserError
from resexp.runs.store import Run
from resexp.training.train import train
from resexp.utils.interrupts import Stop

broadcast = dist.broadcast
made = 0


def counted(tensor: Any, source: int, group: Any = None, **options: Any) -> Any:
    global made
    made += group is None  # agreements go through a group of their own
    return broadcast(tensor, source, group, **options)


if __name__ == "__main__":
    dist.broadcast = counted
    stop = Stop()
    with joined(stop) as ranks, tempfile.TemporaryDirectory() as empty:
        if ranks.rank > 0:
            os.chdir(empty)
        for folder in sys.argv[1:]:
            made = 0
            with contextlib.suppress(UserError, SystemExit), ranks.sharing_errors():
                train(Run(Path(folder)), ranks=ranks)
            if ranks.rank == 0:
                Path(folder, "broadcasts").write_text(f"{made}")
    tasks = [task.read_text() for task in Path("/proc/self/task").glob("*/comm")]
    assert not any("gloo" in name for name in tasks), tasks
