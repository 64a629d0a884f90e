"""The long mode: every reader, every failure, and a table of how many cases each was given."""

from __future__ import annotations

import os
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.fuzz.readers import readers
from tests.fuzz.run import CASES, Failure, cases_of, give


def main(words: list[str]) -> int:
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["RESEXP_DATA"] = f"{scratch}/data"
        (Path(scratch) / "work").mkdir()
        os.chdir(scratch)
        found = readers(Path(scratch) / "work")
        if words:
            give(words[0], found[words[0]], int(words[1]))
            return 0
        failures = 0
        for name, reader in found.items():
            began, count = time.monotonic(), cases_of(reader, found, CASES)
            for number in range(count):
                try:
                    give(name, reader, number)
                except Failure as failure:
                    failures += 1
                    print(failure, flush=True)
            print(f"{name}: {count:,} cases in {time.monotonic() - began:.0f} s", flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{failures} failures, at most {peak:,.0f} MiB of memory")
    return failures > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
