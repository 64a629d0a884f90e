"""The command line: parse, call, print."""

from __future__ import annotations

import errno
import inspect
import os
import re
import sys
import textwrap
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import resexp
from resexp.cli import bench, completion, data, describe, probe, report, results, train, weights
from resexp.cli.console import err, print_json, print_line, show_log, warn
from resexp.errors import RunFailedError, UserError
from resexp.utils.interrupts import EXIT_FAILED, EXIT_USAGE, Interrupted, whole_command

MESSAGE = 200
"""Letters of another package's message that are shown."""

# Commands import what they need themselves: `--help` must not wait for torch, pydantic or matplotlib.

app = typer.Typer(
    name="resexp",
    help="Train plain and residual nets of several depths from one YAML file; report how the training error changes.",
    epilog="Begin with: resexp sweep && resexp report --open",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(data.app, name="data")
app.add_typer(probe.app, name="probe")


def _version(asked: bool) -> None:
    if asked:
        print_line(f"resexp {resexp.__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    show_log(err)
    try:
        Path.cwd()
    except OSError as error:  # torch's libraries end a process whose folder is gone, in words of their own
        raise UserError(f"the current folder: {error.strerror}") from None


app.command(epilog="Example: resexp train cifar10/resnet20 --set train.precision=fp32 --seed 3")(train.train)
app.command(epilog="Example: resexp sweep cifar10/cpu-small --set data.path=~/cifar10 --jobs 2")(train.sweep)
app.command(epilog="Example: resexp status quickstart --json")(results.status)
app.command(epilog="Example: resexp report quickstart --open")(report.report)
app.command("list", epilog="Example: resexp list --json")(results.list_studies)
app.command(epilog="Example: resexp diff quickstart:plain-20 quickstart:residual-20")(report.diff)
app.command("rm", epilog="Example: resexp rm quickstart:plain-20/0 --yes")(results.remove)
app.command(epilog="Example: resexp export quickstart:plain-20/0 --to plain-20.pt")(weights.export)
app.command(epilog="Example: resexp evaluate quickstart:plain-20/0 --csv confusion.csv")(weights.evaluate)
app.command(epilog="Example: resexp bench --depths 20,110 --runs 1,4 --out results/bench")(bench.bench)
app.command(epilog="Example: resexp describe plain-20 residual-20 --svg nets.svg")(describe.describe)


@app.command(epilog="Example: resexp schema > study.schema.json")
def schema() -> None:
    """Print the JSON Schema of a study file, for editors that complete and check YAML."""
    from resexp.config.study import json_schema

    print_json(json_schema(), indent=2)


# Each paragraph of a help text is one line, which the terminal wraps.
for group in (app, data.app, probe.app):
    for command in group.registered_commands:
        text = inspect.getdoc(command.callback) or ""
        command.help = command.help or re.sub(r"(?<!\n)\n(?!\n)", " ", text)


def main() -> NoReturn:
    """Run the command line. An expected error is printed in one line.

    Exit code: 2 for a mistake of the user, 1 for a run that failed, 130 or 143 after a signal.
    """
    completion.join_words()
    os.environ.pop("SOURCE_DATE_EPOCH", None)  # no file has a date, and SciPy fails where this is no number
    try:
        with whole_command():
            app(prog_name="resexp")
    except UserError as error:
        _leave(EXIT_USAGE, *error.args)
    except RunFailedError as failure:
        _leave(EXIT_FAILED, f"{failure}")
    except OSError as error:
        _leave(EXIT_USAGE, _os_error_text(error))
    except Interrupted as interrupted:
        _leave(interrupted.exit_code, "stopped while preparing the images; the same command begins again")
    except KeyboardInterrupt:
        _leave(130)
    except Exception as error:
        package = _package_at_fault(error)
        if package is None:
            raise
        said = textwrap.shorten(f"{error}", MESSAGE, placeholder=" ...")
        _leave(EXIT_USAGE, f"{package} can't be imported: {type(error).__name__}: {said}")
    sys.exit(0)


def _leave(code: int, *lines: str) -> NoReturn:
    for line in lines:
        warn(f"resexp: {line}")
    sys.exit(code)


_REMEDIES = {
    errno.ENOENT: "; check the path",
    errno.EACCES: "; ask for the right to it, or {elsewhere}",
    errno.EROFS: "; {elsewhere}",
    errno.EISDIR: "; name a file",
    errno.ENOSPC: "; make room, or {elsewhere}",
    errno.EDQUOT: "; make room, or {elsewhere}",
}


def _os_error_text(error: OSError) -> str:
    """What is wrong and where: a full disk, a folder that can't be written, or a file where a folder is needed."""
    from resexp.data.cache import data_home

    if not error.filename:
        return error.strerror or f"{error}"
    if isinstance(error, NotADirectoryError | FileExistsError):
        paths = [*reversed(Path(error.filename).parents), Path(error.filename)]
        if found := [path for path in paths if os.path.lexists(path) and not path.is_dir()]:
            return f"{found[0]}: not a folder; move it elsewhere, or name another folder"
    home, path = data_home(), Path(error.filename)
    in_home = path.is_relative_to(home) or home.is_relative_to(path)
    elsewhere = "set RESEXP_DATA to a folder elsewhere" if in_home else "name another place"
    remedy = _REMEDIES.get(error.errno or 0, "").format(elsewhere=elsewhere)
    return f"{error.filename}: {error.strerror or error}{remedy}"


def _package_at_fault(error: BaseException) -> str | None:
    """The package whose import failed with `error`: it is broken, or the environment makes its import fail."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        package: str = frame.f_globals.get("__name__", "").partition(".")[0]
        if frame.f_code.co_name == "<module>" and package not in ("__main__", "resexp", "importlib"):
            return package
    return None
