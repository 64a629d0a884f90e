"""What torchrun starts in the tests: trains run folders one after the other, each on all ranks.

    torchrun ... -m tests.together RUN [RUN...]

The ranks but the first work in another, empty folder: they need no run folder. A run that is refused is left.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from pathlib import Path

from resexp.distributed import joined
from resexp.errors import UserError
from resexp.signals import Stop
from resexp.store import Run
from resexp.training.follow import follow
from resexp.training.train import train

if __name__ == "__main__":
    stop = Stop()
    with joined(stop) as ranks, tempfile.TemporaryDirectory() as empty:
        if ranks.rank > 0:
            os.chdir(empty)
        for folder in sys.argv[1:]:
            if ranks.rank > 0:
                follow(ranks, stop)
                continue
            with contextlib.suppress(UserError):
                train(Run(Path(folder)), ranks=ranks)
            ranks.dismiss(0)
