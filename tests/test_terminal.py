"""Terminals, pipes and environments as people have them: nothing is cut, nothing is lost, nothing dies."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shlex
import shutil
import struct
import subprocess
import sys
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from resexp.cli import app
from resexp.config.study import is_study
from resexp.display import Bars, Lines
from resexp.runs.records import Status
from resexp.runs.store import Run
from tests.conftest import command


def on_terminal(*arguments: object, columns: int, **environment: str) -> tuple[int, str]:
    """The exit code of a command on a terminal of so many columns, and what it shows."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.pop("COLUMNS", None)
        os.environ.update({"TERM": "dumb", **environment})
        fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        words = command(*arguments)
        os.execv(words[0], words)
    shown = b""
    while True:
        try:
            part = os.read(terminal, 1 << 16)
        except OSError:  # Linux says so of a terminal that nobody holds any more
            break
        if not part:
            break
        shown += part
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode(errors="replace")


@pytest.mark.parametrize("columns", [80, 40])
def test_nothing_is_cut_on_a_narrow_terminal(columns: int) -> None:
    code, shown = on_terminal("describe", "residual-20", columns=columns)
    assert code == 0
    assert "…" not in shown
    for whole in ("stages.2.1.conv2", "2,359,296", "40,551,040", "64 x 8 x 8", "57 to 73", "blocks"):
        assert whole in shown


def test_a_terminal_without_utf_8_gets_what_it_can_show() -> None:
    code, shown = on_terminal("describe", "plain-20", "residual-110-B", columns=60, PYTHONIOENCODING="ascii")
    assert (code, "Traceback" in shown) == (0, False)


@pytest.mark.parametrize("closed", [">&-", "<&- >&- 2>&-"])
def test_closed_streams_are_no_fault(closed: str, tmp_path: Path) -> None:
    """As cron and some daemons start programs. A file that is opened later must not take the place of a stream."""
    words = f"{sys.executable} -m resexp describe plain-20 --svg {tmp_path}/net.svg"
    done = subprocess.run(["bash", "-c", f"{words} {closed}"], capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False)
    assert (tmp_path / "net.svg").read_text().rstrip().endswith("</svg>")


def test_a_reader_that_leaves_ends_the_command_quietly() -> None:
    script = f"{sys.executable} -m resexp schema | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert done.stdout.strip() in ("0", "1")
    assert done.stderr == ""


def test_a_users_matplotlib_settings_do_not_reach_the_figures(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 40\nfont.size: 60\nbackend: nonsense\n")
    drawn = []
    for number, environment in enumerate(
        ({}, {"MPLBACKEND": "module://no_such_package.backend", "MATPLOTLIBRC": str(tmp_path)})
    ):
        to = tmp_path / f"{number}.svg"
        done = subprocess.run(
            command("describe", "plain-20", "--svg", to), env={**os.environ, **environment}, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        drawn.append(re.sub(r'(id|xlink:href|clip-path)="[^"]*"', "", to.read_text()))
    assert drawn[0] == drawn[1]


class _Run(Run):
    """A run whose state is what it is told."""

    def __init__(self, folder: Path, state: str) -> None:
        super().__init__(folder)
        self.state = state

    def status(self) -> Status:
        return Status(state=self.state, step=5, steps=10)


@pytest.mark.parametrize("display", [Bars, Lines])
def test_every_result_is_a_line_and_no_bar_stays(display: type[Bars | Lines], tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=display is Bars, width=100)
    runs = [_Run(tmp_path / f"plain-{number}/seed0", "finished") for number in range(400)]
    shown = display(console)
    with shown.sweep([(run, 1.0) for run in runs], 0):
        for run in runs:
            shown.update([run])
            shown.ended(run, "")
    lines = [line for line in stream.getvalue().splitlines() if "finished; training error" in line]
    assert len(lines) == 400


@pytest.mark.parametrize("display", [Bars, Lines])
def test_a_run_that_was_stopped_does_not_count_as_done(display: type[Bars | Lines], tmp_path: Path) -> None:
    shown = display(Console(file=io.StringIO(), width=100))
    runs = [_Run(tmp_path / f"{state}/seed0", state) for state in ("finished", "interrupted", "failed")]
    with shown.sweep([(run, 1.0) for run in runs], 0):
        for run in runs:
            shown.ended(run, "" if run.state == "finished" else run.state)
    assert shown.ended_runs == 2


def epilogs() -> list[str]:
    """The commands that the help of all commands gives as examples."""
    from typer.main import get_command

    def of(command: object) -> list[str]:
        own = [command.epilog] if getattr(command, "epilog", None) else []
        return own + [line for inner in getattr(command, "commands", {}).values() for line in of(inner)]

    return [line.partition(": ")[2] for line in of(get_command(app))]


NOT_HERE = ("data fetch", "data verify", "data prepare", "data check", "train", "sweep cifar10", "bench")
"""Examples that need a download or hours; their words are checked, they are not run."""


def test_what_examples_name_exists() -> None:
    """Each study is shipped, and each command and option is one."""
    from typer.main import get_command

    assert len(epilogs()) > 15
    for line in epilogs():
        for study in re.findall(r"(?:--config|sweep) ((?:cifar10|imagenet)/[\w-]+)", line):
            assert is_study(study), line
        for part in re.findall(r"resexp ([^&>]+)", line):
            command, words = get_command(app), shlex.split(part)
            while words and words[0] in getattr(command, "commands", {}):
                command = command.commands[words.pop(0)]
            assert not getattr(command, "commands", {}), line
            command.make_context(line, words)


def test_examples_do_what_they_say(write_study: Callable[..., Path]) -> None:
    """On a small study under the name of each."""
    study = write_study(data={"size": 16}, grid={"model.kind": ["plain", "residual"], "model.depth": [8, 20]})
    assert CliRunner().invoke(app, ["sweep", "--config", str(study), "--jobs", "1"]).exit_code == 0
    ran = 0
    for line in epilogs():
        if any(f"resexp {words}" in line for words in NOT_HERE) or line.startswith("resexp sweep"):
            continue
        for name in re.findall(r"(?:results/|(?<= )(?=[\w-]+:))([\w-]+)", line):
            shutil.copytree("results/tiny", Path("results", name), dirs_exist_ok=True)
        line = line.replace(" --open", "").replace("--crop 28", "--crop 12").replace("28,32,36", "12,16,20")  # of 16
        part = re.findall(r"resexp ([^&>]+)", line)[0]
        words = [found for word in shlex.split(part) for found in sorted(map(str, Path().glob(word))) or [word]]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{line}\n{done.output}"
        ran += 1
    assert ran >= 12
