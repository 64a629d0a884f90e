"""Terminals, pipes and environments as people have them: nothing is cut, nothing is lost, nothing dies."""

from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import shlex
import shutil
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from resexp.cli import app, console, results
from resexp.cli.console import out, show_log
from resexp.config.study import is_study
from resexp.display import Bars, Display
from resexp.probes import landscape
from resexp.runs.names import select_runs
from resexp.runs.records import Status
from resexp.runs.store import Run, StudyFolder
from tests.conftest import REPOSITORY, command, working_in, write_tiny
from tests.many import finish_study
from tests.screen import Screen


def on_terminal(
    *arguments: object,
    columns: int,
    after: tuple[str, Callable[[int], object]] = ("", lambda _: None),
    **environment: str,
) -> tuple[int, str]:
    """The exit code of a command on a terminal with 24 lines of `columns`, and what it writes.

    `after` a text has been shown, something is done once, with the terminal's descriptor.
    """
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
        if after[0] and after[0] in shown.decode(errors="replace"):
            after[1](terminal)
            after = ("", lambda _: None)
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode(errors="replace")


@pytest.mark.slow
@pytest.mark.parametrize("columns", [80, 40])
def test_nothing_is_cut_on_a_narrow_terminal(columns: int) -> None:
    code, shown = on_terminal("describe", "residual-20", columns=columns)
    assert code == 0
    assert "…" not in shown
    for whole in ("stages.2.1.conv2", "2,359,296", "40,551,040", "64 x 8 x 8", "57 to 73", "blocks"):
        assert whole in shown


TABLES = {
    "list": ("list",),
    "status": ("status", "cpu-small"),
    "configuration and errors": ("diff", "figure6-ends", "cpu-small"),
    "nets": ("diff", "cpu-small:plain-20", "cpu-small:residual-20"),
    "dry run": ("sweep", "--dry-run"),
    "layers": ("describe", "residual-20"),
}


@pytest.mark.parametrize("table", TABLES)
def test_every_width_shows_every_word(table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At 60, 80 and 200 columns; long texts are folded between words, and nothing is cut."""
    monkeypatch.setenv("RESEXP_RESULTS", str(REPOSITORY / "results/published"))
    words = {}
    for columns in (200, 80, 60):
        monkeypatch.setattr(out, "_width", columns)
        done = CliRunner().invoke(app, TABLES[table])
        assert done.exit_code == 0, done.output
        assert "…" not in done.stdout
        words[columns] = sorted(re.findall(r"[^\s│┃┏┓└┘┡┩╇┳━─┴┼├┤╷╵]+", done.stdout))
    assert words[200] == words[80] == words[60]


@pytest.mark.slow
def test_a_terminal_without_utf_8_gets_what_it_can_show() -> None:
    code, shown = on_terminal("describe", "plain-20", "residual-110-B", columns=60, PYTHONIOENCODING="ascii")
    assert (code, "Traceback" in shown) == (0, False)


@pytest.mark.parametrize("closed", [pytest.param(">&-", marks=pytest.mark.slow), "<&- >&- 2>&-"])
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


@pytest.mark.parametrize("verb", ["sweep", pytest.param("train", marks=pytest.mark.slow)])
def test_a_reader_that_leaves_ends_no_training(verb: str, write_study: Callable[..., Path]) -> None:
    script = f"{sys.executable} -m resexp {verb} {write_study()} | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
    assert [run.status().state for run in StudyFolder(Path("results/tiny")).runs()] == ["finished"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a file on a full disk")
def test_a_full_disk_under_the_output_ends_no_training(write_study: Callable[..., Path]) -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "resexp", "sweep", write_study()], stdout=full, stderr=full)
    assert done.returncode == 0
    assert [run.status().state for run in StudyFolder(Path("results/tiny")).runs()] == ["finished"]


@pytest.mark.slow
def test_a_users_matplotlib_settings_do_not_reach_the_figures(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_text("lines.linewidth: 40\nfont.size: 60\nbackend: nonsense\n")
    theirs = {
        "MPLBACKEND": "module://no_such_package.backend",
        "MATPLOTLIBRC": str(tmp_path),
        "SOURCE_DATE_EPOCH": "tomorrow",
    }
    done = subprocess.run(command("describe", "plain-20", "--svg", "theirs.svg"), env={**os.environ, **theirs})
    assert done.returncode == 0
    assert CliRunner().invoke(app, ["describe", "plain-20", "--svg", "usual.svg"]).exit_code == 0
    drawn = [
        re.sub(r'(id|xlink:href|clip-path)="[^"]*"', "", Path(f"{n}.svg").read_text()) for n in ("theirs", "usual")
    ]
    assert drawn[0] == drawn[1]


@pytest.mark.slow
def test_settings_of_matplotlib_that_are_no_text_get_a_line(tmp_path: Path) -> None:
    (tmp_path / "matplotlibrc").write_bytes(b"\xff\xfef\0o\0n\0t\0")
    done = subprocess.run(
        command("describe", "plain-20", "--svg", tmp_path / "net.svg"),
        env={**os.environ, "MATPLOTLIBRC": str(tmp_path)}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "resexp: matplotlibrc: " in done.stderr


@pytest.mark.parametrize("words", ["sweep quickstart --dry-run", "describe plain-20", "report", "evaluate a:b/0"])
def test_a_current_folder_that_is_gone_is_named(words: str, tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    script = f"cd {tmp_path}/gone && rmdir ../gone && {sys.executable} -m resexp {words}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, "resexp: the current folder: No such file or directory\n")


class _Run(Run):
    """A run whose state is what it is told."""

    def __init__(self, folder: Path, state: str) -> None:
        super().__init__(folder)
        self.state = state

    def status(self) -> Status:
        return Status(state=self.state, step=5, steps=10)


@pytest.mark.parametrize("bars", [True, False])
def test_every_result_is_a_line_and_no_bar_stays(bars: bool, tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=bars, width=100)
    show_log(console)
    runs = [_Run(tmp_path / f"plain-{number}/seed0", "finished") for number in range(400)]
    shown = Bars(console) if bars else Display()
    with shown.sweep([(run, 1.0) for run in runs], 0):
        for run in runs:
            shown.update([run])
            shown.ended(run, "")
    lines = [line for line in stream.getvalue().splitlines() if "finished; training error" in line]
    assert len(lines) == 400


@pytest.mark.parametrize("shown", [Bars(Console(file=io.StringIO(), width=100)), Display()])
def test_a_run_that_was_stopped_does_not_count_as_done(shown: Display, tmp_path: Path) -> None:
    runs = [_Run(tmp_path / f"{state}/seed0", state) for state in ("finished", "interrupted", "failed")]
    with shown.sweep([(run, 1.0) for run in runs], 0):
        for run in runs:
            shown.ended(run, "" if run.state == "finished" else run.state)
    assert shown.ended_runs == 2


@pytest.mark.slow
def test_a_sweep_shows_every_result_once_and_leaves_no_frame(write_study: Callable[..., Path]) -> None:
    """Twelve runs on 24 lines of 80 columns: lines that scroll away while bars are drawn neither go nor stay twice."""
    study = write_study(grid={"model.kind": ["plain", "residual"], "model.depth": [8, 14]}, seeds=[0, 1, 2])
    code, written = on_terminal("sweep", study, "--jobs", 2, columns=80, TERM="xterm-256color", CI="")
    assert code == 0, written
    lines = Screen(80, 24).feed(written).text
    assert "\x1b[1A" in written  # bars were redrawn
    results = [line.partition(":")[0] for line in lines if ": finished; training error" in line]
    names = [f"{kind}-{depth} seed {seed}" for kind in ("plain", "residual") for depth in (8, 14) for seed in range(3)]
    assert sorted(results) == sorted(names)
    bars = [line for line in lines if "━" in line]
    assert [(line.split()[0], "12/12 runs" in line) for line in bars] == [("sweep", True)]
    assert lines[-2].startswith("results/tiny: 12 trained")


@pytest.fixture(scope="module")
def half_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with working_in(tmp_path_factory.mktemp("half")) as folder:
        study = write_tiny(folder / "tiny.yaml", grid={"model.depth": [8, 14]})
        words = ["sweep", str(study), "--only", "residual-8", "--executor", "debug"]
        assert CliRunner().invoke(app, words).exit_code == 0
    return folder


@pytest.fixture
def half(half_once: Path, tmp_path: Path) -> Path:
    """A study one of whose two nets is trained."""
    shutil.copytree(half_once, tmp_path, dirs_exist_ok=True)
    return tmp_path / "tiny.yaml"


@pytest.mark.slow
def test_a_watched_study_is_redrawn_until_all_runs_have_ended(half: Path) -> None:
    def train(terminal: int) -> None:
        subprocess.run(command("sweep", half, "--jobs", 1), check=True, capture_output=True)

    code, written = on_terminal("status", "--watch", columns=80, after=("pending", train), TERM="xterm")
    assert code == 0, written
    assert written.count("residual-14 seed 0") >= 2
    lines = Screen(80, 24).feed(written).text
    assert [line.split()[0] for line in lines if "finished" in line and "seed 0" in line] == [
        "residual-8",
        "residual-14",
    ]
    assert not any("pending" in line for line in lines)


class _Interrupting(io.StringIO):
    """A terminal whose reader presses Ctrl-C as soon as it shows the first frame, while the frame is still written."""

    pressed = False

    def write(self, text: str) -> int:
        written = super().write(text)
        if "1 pending" in text and not self.pressed:
            self.pressed = True
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # as in a process of one thread
        return written


def test_ctrl_c_while_a_frame_is_written_leaves_one_table(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = _Interrupting()
    monkeypatch.setattr(results, "out", Console(file=stream, force_terminal=True, width=80, height=24, _environ={}))
    monkeypatch.setattr(console, "out", results.out)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # the sweep has left its own
    try:
        with pytest.raises(typer.Exit) as stopped:
            results._watch(select_runs("tiny", Path("results")))
    finally:
        signal.signal(signal.SIGINT, before)
    assert stopped.value.exit_code == 130
    lines = Screen(80, 24).feed(stream.getvalue()).text
    assert [sum(f"{net} seed 0" in line for line in lines) for net in ("residual-8", "residual-14")] == [1, 1]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == set()


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_a_watched_table_fits_the_terminal_and_stays_after_ctrl_c(half: Path, columns: int) -> None:
    """A line that the terminal broke in two would be redrawn in the wrong place."""
    code, written = on_terminal(
        "status", "-w", columns=columns, after=("1 pending", lambda terminal: os.write(terminal, b"\x03")), TERM="xterm"
    )
    frame = Screen(columns, 24).feed(written.partition("1 pending")[0])
    assert not frame.wrapped
    shown = "\n".join(frame.lines)
    for whole in ("residual-8 seed 0", "residual-14 seed 0", "finished", "pending", "train", "left"):
        assert whole in shown
    assert ("speed" in shown) == (columns >= 80)
    lines = Screen(columns, 24).feed(written).text
    assert [sum(f"{net} seed 0" in line for line in lines) for net in ("residual-8", "residual-14")] == [1, 1]
    assert code == 130


def test_a_low_terminal_is_shown_the_runs_that_matter(write_study: Callable[..., Path]) -> None:
    folder = finish_study(write_study(grid={"model.depth": [8, 14]}, seeds=list(range(30))), Path("results"))
    for run in folder.runs():
        if run.label == "residual-8":
            run.write_status(Status())
    _, written = on_terminal(
        "status", "-w", columns=80, after=("30 pending", lambda terminal: os.write(terminal, b"\x03")), TERM="xterm"
    )
    frame = Screen(80, 24).feed(written.partition("30 pending")[0])
    assert len(frame.lines) <= 24
    assert sum("pending" in line for line in frame.lines) == 17
    assert "43 more runs" in frame.text


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({"TERM": "xterm"}, True), ({"TERM": "xterm", "NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)],
)
def test_states_have_colours_where_they_are_wanted(half: Path, environment: dict[str, str], coloured: bool) -> None:
    _, written = on_terminal("status", columns=100, **environment)
    assert ("\x1b[32mfinished" in written) == coloured
    assert "finished" in written


@pytest.mark.parametrize("words", [["--watch"], ["--watch", "--json"]])
def test_what_is_no_terminal_is_not_redrawn(half: Path, here: Callable[..., Any], words: list[str]) -> None:
    done = here("status", *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "resexp: status: --watch redraws a terminal, and this is none or JSON; leave it out\n"


def epilogs() -> list[str]:
    """The commands that the help of all commands gives as examples."""
    from typer.main import get_command

    def of(command: object) -> list[str]:
        own = [command.epilog] if getattr(command, "epilog", None) else []
        return own + [line for inner in getattr(command, "commands", {}).values() for line in of(inner)]

    return [line.partition(": ")[2] for line in of(get_command(app))]


NOT_HERE = ("data fetch", "data verify", "data prepare", "data check", "train", "sweep cifar10", "bench")
"""Examples that need a download or hours; their words are checked, they are not run."""


SMALLER = {
    " --open": "", "--crop 28": "--crop 12", "28,32,36": "12,16,20",  # for images of 16 x 16 pixels
    "data example images": "data example images --images 2 --val 1",
}  # fmt: skip
"""What is changed in examples before they are run."""


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


def test_a_setting_that_a_package_refuses_is_one_line() -> None:
    """Such as one for torch's log; a package that is broken ends its import likewise."""
    done = subprocess.run(
        command("describe", "plain-8"), env={**os.environ, "TORCH_LOGS": "nonsense"}, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith("resexp: torch can't be imported: ValueError: Invalid log settings: nonsense, ")
    assert line.endswith(" ...")


@pytest.mark.slow
def test_examples_do_what_they_say(write_study: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """On a small study under the name of each; of landscapes, nine points."""
    monkeypatch.setattr(landscape, "POINTS", 3)
    study = write_study(data={"size": 16}, grid={"model.kind": ["plain", "residual"], "model.depth": [8, 20]})
    assert CliRunner().invoke(app, ["sweep", "--config", str(study), "--jobs", "1"]).exit_code == 0
    shutil.copytree("results/tiny", "results/quickstart")
    ran = 0
    for line in epilogs():
        if any(f"resexp {words}" in line for words in NOT_HERE) or line.startswith("resexp sweep"):
            continue
        for name in re.findall(r"(?:results/|(?<= )(?=[\w-]+:))([\w-]+)", line):
            shutil.copytree("results/tiny", Path("results", name), dirs_exist_ok=True)
        for given, small in SMALLER.items():
            line = line.replace(given, small)
        part = re.findall(r"resexp ([^&>]+)", line)[0]
        words = [found for word in shlex.split(part) for found in sorted(map(str, Path().glob(word))) or [word]]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 0, f"{line}\n{done.output}"
        ran += 1
    assert ran >= 12
