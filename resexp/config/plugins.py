"""Plug-ins: blocks, activations, optimisers and more from files of your own.

A plug-in is a Python file that registers what it offers under names. A study file can use these names only where the
file was named on the command line (``--plugin my_blocks.py``) or in ``$RESEXP_PLUGINS``: a study file alone never runs
code.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from resexp.config.section import Section
from resexp.errors import UserError
from resexp.utils.paths import expanded

Role = Literal["block", "shortcut", "activation", "norm", "init", "optimizer", "schedule", "data"]
"""What a plug-in may offer; the key of the study file has the same name, `data.source` for data."""

VARIABLE = "RESEXP_PLUGINS"
MAX_BYTES = 1 << 20
"""Bytes of a plug-in's file; the manifest of each run holds it."""

BUILT_IN: dict[Role, tuple[str, ...]] = {
    "block": ("basic", "bottleneck"),
    "shortcut": ("A", "B", "C"),
    "activation": ("relu", "leaky_relu", "tanh", "gelu", "tat"),
    "norm": ("batch", "group", "layer", "none", "fixup"),
    "init": ("he", "orthogonal", "delta-orthogonal", "dirac"),
    "optimizer": ("sgd", "nesterov", "adamw", "muon"),
    "schedule": ("milestones", "plateau", "cosine", "constant"),
    "data": ("cifar10", "cifar100", "svhn", "folder", "shapes", "imagenet", "imagefolder"),
}
"""The words of each role that need no plug-in."""


@dataclass(frozen=True)
class Plugin:
    """One thing that a plug-in's file offers."""

    role: Role
    name: str
    make: Any
    options: type[Section] | None
    path: Path
    source: str
    """Eight hex digits of the SHA-256 of the file."""


_known: dict[Role, dict[str, Plugin]] = {}
_texts: dict[str, str] = {}
"""By hash, the sources of the loaded files."""
_loaded: set[Path] = set()
_loading: tuple[Path, str] | None = None

MadeT = TypeVar("MadeT")


def register(role: Role, name: str, options: type[Section] | None = None) -> Callable[[MadeT], MadeT]:
    """A decorator that offers a class or function as `name` for the key of the study file that `role` names.

    `options` is a pydantic section with the options that the name takes. Raises UserError where the name is taken.
    """
    if _loading is None:
        raise UserError(f"{name}: only a file that is named with --plugin can register a plug-in")
    path, source = _loading
    if role not in BUILT_IN:
        raise UserError(f"{path}: {name}: no role {role!r}; there are {', '.join(BUILT_IN)}")
    if not name.isidentifier():
        raise UserError(f"{path}: {name!r}: not a name of letters, digits and '_'")
    taken = _known.setdefault(role, {})
    if name in BUILT_IN[role] or name in taken:
        owner = f"{taken[name].path}" if name in taken else "resexp"
        raise UserError(f"{path}: {role} {name!r} is taken by {owner}; choose another name")

    def offer(made: MadeT) -> MadeT:
        taken[name] = Plugin(role, name, made, options, path, source)
        return made

    return offer


def registered(role: Role) -> dict[str, Plugin]:
    """The plug-ins of a role by name, after loading the files that were named."""
    load()
    return _known.get(role, {})


def find(role: Role, name: str, source: str) -> Plugin:
    """The plug-in that a run was configured with. Raises UserError where it is not loaded, or was changed since."""
    plugin = registered(role).get(name)
    if plugin is None:
        raise UserError(f"{role} {name!r} is of a plug-in that is not loaded; name its file: --plugin FILE")
    if plugin.source != source:
        raise UserError(
            f"{plugin.path}: changed since the run began ({role} {name!r} had source {source}, now {plugin.source}); "
            f"restore it, or sweep again: the changed file gives new runs"
        )
    return plugin


def name_files(files: list[str]) -> None:
    """Let this process and its children load these files."""
    paths = [str(expanded(file).resolve()) for file in files]
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*_named(), *paths]))


def load() -> None:
    """Load the files of ``$RESEXP_PLUGINS`` that are not loaded yet. Raises UserError where one can't be."""
    for name in _named():
        path = expanded(name).resolve()
        if path not in _loaded:
            _load(path)
            _loaded.add(path)


def required(names: list[str], place: str) -> None:
    """Check that the plug-ins that a study asks for were named by its user. Raises UserError where one was not."""
    named = {Path(name).name for name in _named()}
    for name in names:
        if Path(name).name not in named:
            raise UserError(
                f"{place}: plugins: the study needs {name}, which runs code of its author; read it, then name it: "
                f"--plugin {name}"
            )


def sources(hashes: set[str]) -> dict[str, str]:
    """The sources of loaded plug-ins, by hash."""
    return {found: text for found, text in sorted(_texts.items()) if found in hashes}


def _named() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]


def _load(path: Path) -> None:
    global _loading
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; a plug-in is a Python file") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{path}: larger than {MAX_BYTES >> 20} MB; a plug-in is one file of Python")
    source = hashlib.sha256(content).hexdigest()[:8]
    module_name = f"resexp_plugin_{path.stem}_{source}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file; a plug-in's name ends in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    _loading = path, source
    try:
        spec.loader.exec_module(module)
    except UserError:
        _forget(path)
        raise
    except Exception as error:
        _forget(path)
        line = _line_in(path, error)
        raise UserError(f"{path}{line}: does not import: {type(error).__name__}: {error}") from error
    finally:
        _loading = None
    _texts[source] = content.decode(errors="replace")


def _forget(path: Path) -> None:
    """Drop what a file that failed had registered before it failed."""
    for of_role in _known.values():
        for name in [name for name, plugin in of_role.items() if plugin.path == path]:
            del of_role[name]


def _line_in(path: Path, error: BaseException) -> str:
    """Where in the file the error came from, as ``:12``."""
    if isinstance(error, SyntaxError):
        return f":{error.lineno}"
    trace, line = error.__traceback__, ""
    while trace:
        if trace.tb_frame.f_code.co_filename == str(path):
            line = f":{trace.tb_lineno}"
        trace = trace.tb_next
    return line
