"""What torchrun starts in the tests: trains run folders one after the other, each on all ranks.

torchrun ... -m tests.together RUN [RUN...]
"""

from __future__ import annotations

import sys
from pathlib import Path

from resexp.distributed import joined
from resexp.signals import Stop
from resexp.store import Run
from resexp.training.follow import follow
from resexp.training.train import train

if __name__ == "__main__":
    stop = Stop()
    with joined(stop) as ranks:
        for folder in map(Path, sys.argv[1:]):
            if ranks.rank == 0:
                train(Run(folder), ranks=ranks)
                ranks.dismiss(0)
            else:
                follow(ranks, stop)
