"""Shell completion, in real shells: what TAB offers for studies, nets, runs, labels and keys."""

from __future__ import annotations

import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from resexp.cli import completion
from tests.conftest import REPOSITORY

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
RESULTS = REPOSITORY / "results/published"


@pytest.fixture(scope="module")
def bash(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a bash that finds the command, and the script that completes its words."""
    folder = tmp_path_factory.mktemp("bin")
    program = folder / "resexp"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m resexp "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "RESEXP_RESULTS": str(RESULTS)}
    script = subprocess.run(
        ["bash", "-c", "resexp --show-completion; true"], env=environment, capture_output=True, text=True, check=True
    )
    (folder / "script").write_text(script.stdout)
    return {**environment, "SCRIPT": str(folder / "script")}


def offered(bash: dict[str, str], *words: str) -> list[str]:
    """What bash is offered for the last of the words, which end at colons and equals signs, as bash divides them."""
    line = (
        'source "$SCRIPT"; COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); _resexp_completion resexp; '
        'printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", line, "bash", "resexp", *words], env=bash, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    return done.stdout.split()


NETS = ["plain-20", "plain-38", "residual-20", "residual-38"]
SEEDS = [f"plain-20/{seed}" for seed in range(4)]
CASES = {
    "commands": (["s"], ["sweep", "status", "schema"]),
    "probes": (["probe", "l"], ["lesion", "landscape"]),
    "shipped studies": (["sweep", "cifar10/cpu"], ["cifar10/cpu-small", "cifar10/cpu-small-long"]),
    "an option's": (["sweep", "--config", "=", "imagenet/s"], ["imagenet/smoke"]),
    "studies in results": (["report", "cpu-small", "warm"], ["warmup-plain"]),
    "a study and its nets": (["status", "qui"], ["quickstart", *(f"quickstart:{net}" for net in NETS)]),
    "nets after a colon": (["rm", "quickstart", ":"], NETS),
    "nets that begin so": (["diff", "cpu-small", "quickstart", ":", "res"], NETS[2:]),
    "runs of a net": (["export", "quickstart", ":", "plain-20"], ["plain-20", *SEEDS]),
    "studies and runs": (["train", "quickstart", ":", "plain-20/2"], ["plain-20/2"]),
    "labels of the quickstart": (["sweep", "--only", "res"], NETS[2:]),
    "labels of a study": (["sweep", "cifar10/figure6", "--rerun", "residual-1"], ["residual-110"]),
    "labels with settings": (
        ["sweep", "--set", "grid", "=", "'{model.width: [4, 8]}'", "--only", ""],
        ["residual-20-width=4", "residual-20-width=8"],
    ),
    "keys": (["sweep", "--set", "train.warmup_"], [f"train.warmup_{end}=" for end in ("steps", "lr", "until_error")]),
    "a key and its default": (["sweep", "--set", "train.lr"], ["train.lr=", "train.lr=0.1"]),
    "values after an equals sign": (["sweep", "--set", "model.kind", "=", "p"], ["plain", "preact"]),
    "values of an option with an equals sign": (["sweep", "--set", "=", "data.source", "=", "cifar100"], ["cifar100"]),
    "nothing": (["status", "no-such-study", ":"], []),
    "a study that can't be read": (["sweep", "no-such-study", "--only", ""], []),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_there_is_is_offered(case: str, here: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """To a shell that divides a line as bash does, and asks for its last word."""
    words, expected = CASES[case]
    asked = {"_RESEXP_COMPLETE": "complete_bash", "RESEXP_RESULTS": str(RESULTS)}
    asked |= {"COMP_WORDS": "\n".join(["resexp", *words]), "COMP_CWORD": str(len(words))}
    for name, value in asked.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(completion, "_before", "")
    assert here().stdout.split() == expected


@pytest.mark.parametrize("case", ["commands", "nets after a colon", "labels with settings", "nothing"])
def test_bash_asks_so(bash: dict[str, str], case: str) -> None:
    words, expected = CASES[case]
    assert offered(bash, *words) == expected


def script_of(shell: str, bash: dict[str, str], folder: Path) -> Path:
    """The script that the command prints for a shell which it is called from."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    printed = subprocess.run(
        [shell, "-c", "resexp --show-completion; true"], env=bash, capture_output=True, text=True, check=True
    )
    (folder / "script").write_text(printed.stdout)
    return folder / "script"


SHELLS = {
    "bash": (["bash", "--norc", "--noprofile", "-i"], ""),
    "zsh": (["zsh", "-f", "-i"], "autoload -Uz compinit; compinit -D; "),
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_person_presses_tab(bash: dict[str, str], shell: str, tmp_path: Path) -> None:
    """The shell itself divides the line, and writes what is offered into it."""
    script = script_of(shell, bash, tmp_path)
    command, first = SHELLS[shell]
    child, terminal = pty.fork()
    if child == 0:
        os.environ.update({**bash, "TERM": "dumb", "PS1": "> "})
        os.execvp(command[0], command)

    def until(text: str) -> None:
        shown = ""
        while text not in shown.replace("\a", ""):  # the shell rings the bell where several names are left
            assert select.select([terminal], [], [], 100)[0], shown
            shown += os.read(terminal, 1 << 12).decode()

    os.write(terminal, f'{first}source {script}; echo "re"ady\n'.encode())
    until("\nready")
    os.write(terminal, b"resexp status warm\t")
    until("warmup-plain")
    os.write(terminal, b":residual-56-warmup_lr=0\t")
    until("=0.01")
    os.write(terminal, b" \x15resexp sweep --set model.kind=pl\t")
    until("model.kind=plain")
    os.close(terminal)  # which ends the shell
    os.waitpid(child, 0)


JOINED = ["commands", "shipped studies", "a study and its nets", "nets that begin so", "runs of a net", "keys"]
"""Cases whose words no shell but bash divides."""


@pytest.mark.parametrize("case", JOINED)
def test_fish_is_offered_what_there_is(bash: dict[str, str], case: str, tmp_path: Path) -> None:
    """Whole words, where bash is offered what follows the last colon."""
    script = script_of("fish", bash, tmp_path)
    words, expected = CASES[case]
    line = " ".join(words).replace(" : ", ":")
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {script}; complete -C $argv[1]", f"resexp {line}"],
        env=bash, capture_output=True, text=True, check=True,
    )  # fmt: skip
    before = line.rpartition(" ")[2].rpartition(":")[0]
    found = [offer.partition("\t")[0] for offer in done.stdout.splitlines()]
    assert sorted(found) == sorted(f"{before}:{name}" if before else name for name in expected)


def test_completion_waits_for_no_heavy_import(bash: dict[str, str]) -> None:
    script = "import sys; from resexp.cli import completion, main; main()"
    environment = {**bash, "_RESEXP_COMPLETE": "complete_bash", "COMP_CWORD": "3"}
    environment |= {"COMP_WORDS": "resexp\nsweep\n--set\ntrain.lr", "PYTHONPROFILEIMPORTTIME": "1"}
    done = subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["train.lr=", "train.lr=0.1"]
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "pydantic" in imported
    assert imported.isdisjoint({"torch", "numpy", "pandas", "matplotlib", "scipy"})


@pytest.mark.parametrize(
    ("line", "joined", "before"),
    [
        (["resexp", "status", "a", ":", "b"], ["resexp", "status", "b"], "a:"),
        (["resexp", "status", "a", ":"], ["resexp", "status", ""], "a:"),
        (["resexp", "diff", "a", ":", "b/0", "c"], ["resexp", "diff", "a:b/0", "c"], ""),
        (["resexp", "diff", "a", ":", "b/0", ""], ["resexp", "diff", "a:b/0", ""], ""),
        (["resexp", "sweep", "--set", "=", "k", "=", "1"], ["resexp", "sweep", "--set", "1"], "k="),
        (["resexp", "sweep", "--config", "="], ["resexp", "sweep", "--config", ""], ""),
    ],
)
def test_words_are_joined_where_bash_divided_them(
    line: list[str], joined: list[str], before: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_RESEXP_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "\n".join(line))
    monkeypatch.setenv("COMP_CWORD", str(len(line) - 1))
    monkeypatch.setattr(completion, "_before", "")
    completion.join_words()
    assert os.environ["COMP_WORDS"].split("\n") == joined
    assert (os.environ["COMP_CWORD"], completion._before) == (str(len(joined) - 1), before)


def test_completion_is_installed_for_bash(bash: dict[str, str], tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", "-c", "resexp --install-completion; true"],
        env={**bash, "HOME": str(tmp_path)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "bash completion installed in" in done.stdout
    (script,) = (path for path in tmp_path.rglob("resexp*") if path.is_file())
    assert "_resexp_completion" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()
