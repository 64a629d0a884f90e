"""Processes for small tasks do not get in the way of those that train."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from resexp.utils.interrupts import Interrupted, Stop, at_once
from tests.conftest import wait_until

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


POOL = """
import os, signal, sys, time
from pathlib import Path
from unittest.mock import patch
from resexp.utils import parallel

def work(name):
    Path(f"{name}.{os.getpid()}").touch()
    while not Path("go").exists():
        time.sleep(0.01)

def main():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs in the background begin without it
    with patch.object(parallel, "cores", lambda: 2):
        try:
            parallel.parallel_map(work, ["a", "b"], 1)
        except KeyboardInterrupt:
            sys.exit(130)
"""


def _pool(folder: Path) -> tuple[subprocess.Popen[str], list[int]]:
    """A process with a pool of two at work, in a session of its own, and the two."""
    (folder / "pool.py").write_text(POOL)
    path = os.pathsep.join([str(folder), os.environ["PYTHONPATH"]])
    parent = subprocess.Popen(
        [sys.executable, "-c", "import pool; pool.main()"],
        env={**os.environ, "PYTHONPATH": path}, start_new_session=True, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_until(parent, lambda: len(list(folder.glob("[ab].*"))) == 2)
    return parent, [int(file.suffix[1:]) for file in folder.glob("[ab].*")]


def test_work_that_can_be_thrown_away_does_not_begin_after_a_stop() -> None:
    with Stop().listening() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop()
        with pytest.raises(Interrupted), at_once():
            raise AssertionError
    with at_once():
        pass


def test_ctrl_c_that_a_script_ignores_stops_nothing() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Stop().listening() as stop:
            signal.raise_signal(signal.SIGINT)
            assert not stop()
            signal.raise_signal(signal.SIGTERM)
            assert stop()
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_ctrl_c_reaches_the_parent_of_a_pool_alone(tmp_path: Path) -> None:
    parent, _ = _pool(tmp_path)
    os.killpg(parent.pid, signal.SIGINT)
    (tmp_path / "go").touch()
    _, errors = parent.communicate()
    assert (parent.returncode, errors) == (130, "")


def test_a_pool_ends_with_a_killed_parent(tmp_path: Path) -> None:
    parent, pool = _pool(tmp_path)
    parent.kill()
    parent.communicate()
    wait_until(None, lambda: not any(Path(f"/proc/{member}").exists() for member in pool))
