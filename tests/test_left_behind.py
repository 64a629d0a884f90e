"""What a killed process leaves behind is gone after the next one; what is the user's stays."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resexp.runs.records import StudyPlan, Submission
from resexp.runs.store import Run, StudyFolder
from resexp.utils.files import write_alone, write_held
from tests.conftest import wait_until

KILLED = """
import os, signal, sys
from pathlib import Path
from resexp.utils.files import write_alone
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGKILL)
write_alone(Path(sys.argv[1]), "half")
"""
STOPPED = """
import os, signal, sys
from resexp.cli import main
os.fsync = lambda descriptor: os.kill(os.getpid(), signal.SIGTERM)
main()
"""
LOST = """
import os, signal
from unittest.mock import patch
from resexp import cli

def imported():
    try:
        os.kill(os.getpid(), signal.{signal})
    except BaseException:  # as a library's own guards do
        raise ImportError("cannot load module more than once per process")

with patch.object(cli, "show_log", lambda console: imported()):
    cli.main()
"""
SWALLOWED = """
import os, signal
from unittest.mock import patch
from resexp import cli

def imported(console):
    try:
        os.kill(os.getpid(), signal.{signal})
    except BaseException:
        pass

with patch.object(cli, "show_log", imported):
    cli.main()
"""
LEAVING = """
import atexit, os, signal
from resexp.cli import main
atexit.register(lambda: os.kill(os.getpid(), signal.SIGINT))
main()
"""
SERVES = """
import multiprocessing, sys
from resexp.utils.parallel import mark_sockets
mark_sockets()
process = multiprocessing.get_context("forkserver").Process(target=print, args=("served",), kwargs={"flush": True})
process.start()
process.join()
print("ready", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_writer_left_is_gone_after_the_next(tmp_path: Path) -> None:
    folder = tmp_path / "probes"
    folder.mkdir()
    path = folder / "gradients-0.json"
    assert subprocess.run([sys.executable, "-c", KILLED, str(path)]).returncode == -9
    assert [left.suffix for left in folder.glob("g*")] == [".tmp"]
    other = folder / "signals-0.json"
    write_alone(other, "whole")
    assert sorted(left.name for left in folder.iterdir()) == [".writing", "signals-0.json"]
    assert other.read_text() == "whole"


def test_left_overs_are_those_of_the_file_and_may_vanish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, others = tmp_path / "status.json", tmp_path / "manifest.json.7.tmp"
    for left in (tmp_path / "status.json.7.tmp", others):
        left.write_text("half")
    write_held(path, "whole")
    assert sorted(left.name for left in tmp_path.iterdir()) == ["manifest.json.7.tmp", "status.json"]
    # Another process deletes what this one has just found.
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([tmp_path / "status.json.8.tmp"]))
    write_held(path, "new")
    write_alone(path, "newer")
    assert path.read_text() == "newer"


@pytest.mark.slow
def test_a_command_that_is_stopped_while_it_writes_leaves_nothing(tmp_path: Path) -> None:
    words = ["describe", "plain-20", "--svg", "nets.svg"]
    done = subprocess.run([sys.executable, "-c", STOPPED, *words], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (143, "", "")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_stop_that_breaks_an_import_is_no_error_of_ours(name: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-c", LOST.format(signal=name), "list"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (code, "")


@pytest.mark.parametrize(("verb", "name", "code"), [("sweep", "SIGINT", 130), ("train", "SIGTERM", 143)])
def test_a_stop_that_a_library_has_swallowed_is_a_stop(
    write_study: Callable[..., Path], verb: str, name: str, code: int
) -> None:
    """Nothing is trained, and the data are not prepared to the end."""
    words = [sys.executable, "-c", SWALLOWED.format(signal=name), verb, write_study(train={"steps": 100_000})]
    done = subprocess.run(words, capture_output=True, text=True, timeout=100)
    stopped = "resexp: stopped while preparing the images; the same command begins again\n"
    assert (done.returncode, done.stderr) == (code, stopped)


def test_ctrl_c_while_a_command_is_loaded_prints_no_traceback() -> None:
    program = "import os, signal, sys, runpy; sys.meta_path.insert(0, type('F', (), {'find_spec': classmethod(find)}))"
    find = "def find(cls, name, *rest):\n    if name == 'resexp.cli': os.kill(os.getpid(), signal.SIGINT)\n"
    script = f"{find}{program}\nrunpy.run_module('resexp', run_name='__main__', alter_sys=True)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-2, "")


def test_ctrl_c_at_the_exit_of_a_command_prints_no_traceback() -> None:
    done = subprocess.run([sys.executable, "-c", LEAVING, "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (-2, "")


def test_what_killed_sweeps_left_of_a_plan_and_a_submission_goes_with_the_next(tmp_path: Path) -> None:
    study = StudyFolder(tmp_path)
    run = Run(tmp_path / "plain-8-0/seed0")
    run.folder.mkdir(parents=True)
    for path in (study.plan_path, run.job_path):
        assert subprocess.run([sys.executable, "-c", KILLED, str(path)]).returncode == -9
        assert len(list(path.parent.glob(f"{path.name}.*.tmp"))) == 1
    of_another = run.folder / "config.yaml.1.tmp"  # its writer may be alive
    of_another.touch()
    study.write_plan(StudyPlan(name="tiny"))
    run.write_submission(Submission(engine="slurm", job="1", user="me", submitted="now", attempt=0, folder=""))
    assert list(tmp_path.rglob("*.tmp")) == [of_another]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = Path(tmp_path, "t")
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def _serve() -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", SERVES], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert [process.stdout.readline(), process.stdout.readline()] == ["served\n", "ready\n"]
    return process


def test_sockets_of_the_killed_go_and_those_of_the_living_stay(temporary: Path) -> None:
    mine = temporary / "pymp-mine"
    mine.mkdir(parents=True)
    (mine / "listener-notes").write_text("kept")
    before = set(temporary.iterdir())
    killed = _serve()
    (left,) = set(temporary.iterdir()) - before
    killed.kill()
    killed.wait()
    living = _serve()
    assert not left.exists()
    (of_living,) = set(temporary.iterdir()) - before
    other = _serve()
    assert of_living.exists()
    for process in (living, other):
        process.communicate("")
        assert process.returncode == 0
    assert set(temporary.iterdir()) == before
    assert (mine / "listener-notes").read_text() == "kept"


@pytest.mark.slow
def test_a_sweep_and_a_killed_one_leave_nothing(
    temporary: Path, write_study: Callable[..., Path], resexp: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    study = write_study(train={"steps": 1_000_000})
    command = [sys.executable, "-m", "resexp", "sweep", "-c", str(study), "--jobs", "1"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, text=True) as sweep:
        wait_until(sweep, lambda: any(temporary.glob("pymp-*/listener-*")))
        sweep.kill()
    assert list(temporary.glob("pymp-*"))
    short = write_study("short.yaml", train={"steps": 1})
    done = resexp("sweep", "-c", short, "--jobs", "1")
    assert done.returncode == 0, done.stderr
    assert list(temporary.glob("pymp-*")) == []
