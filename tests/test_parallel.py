"""Processes for small tasks do not get in the way of those that train."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import multiprocessing, sys
from unittest.mock import patch
from resexp.utils import parallel

def loaded(found):
    found.put("json.tool" in sys.modules)

if __name__ == "__main__":
    with patch.object(parallel, "cores", lambda: 2):
        print(parallel.parallel_map(len, ["a", "bc", "def", ""], 1))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["json.tool"])
    found = context.Queue()
    context.Process(target=loaded, args=(found,)).start()
    print(found.get(timeout=100))
"""


def test_runs_after_a_report_start_with_their_libraries_loaded(tmp_path: Path) -> None:
    """Otherwise each run of a sweep in the process of a report would load torch again."""
    script = tmp_path / "script.py"
    script.write_text(PROGRAM)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.stdout == "[1, 2, 3, 0]\nTrue\n", done.stderr
