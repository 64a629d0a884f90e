"""Plug-ins: blocks, activations, optimisers and more from files of your own.

A plug-in is a Python file that registers what it offers under names. A study file can use these names only where the
file was named on the command line (``--plugin my_blocks.py``) or in ``$RESEXP_PLUGINS``: a study file alone never runs
code.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, TypeVar

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema, to_json

from resexp.config.section import Section
from resexp.config.yaml_file import typed
from resexp.errors import UserError
from resexp.utils.paths import expanded
from resexp.utils.untrusted import first_mistake, read_file

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

    name: str
    make: Any
    options: type[Section] | None
    path: Path
    digest: str
    """Eight hex digits of the SHA-256 of the file."""


_known: dict[Role, dict[str, Plugin]] = {}
_texts: dict[str, str] = {}
"""The loaded files by digest."""
_loaded: set[Path] = set()
_loading: tuple[Path, str] | None = None

MadeT = TypeVar("MadeT")


def register(role: Role, name: str, options: type[Section] | None = None) -> Callable[[MadeT], MadeT]:
    """A decorator that offers a class or function as `name` for the key of the study file that `role` names.

    `options` is a pydantic section with the options that the name takes. Raises UserError if the name is taken.
    """
    if _loading is None:
        raise UserError(f"{name}: only a file that is named with --plugin can register a plug-in")
    path, digest = _loading
    if role not in BUILT_IN:
        raise UserError(f"{path}: {name}: no role {role!r}; there are {', '.join(BUILT_IN)}")
    if not name.isidentifier():
        raise UserError(f"{path}: {name!r}: not a name of letters, digits and '_'")
    taken = _known.setdefault(role, {})
    if name in BUILT_IN[role] or name in taken:
        owner = f"{taken[name].path}" if name in taken else "resexp"
        raise UserError(f"{path}: {role} {name!r} is taken by {owner}; choose another name")

    def offer(made: MadeT) -> MadeT:
        taken[name] = Plugin(name, made, options, path, digest)
        return made

    return offer


def registered(role: Role) -> dict[str, Plugin]:
    """The plug-ins of a role by name, after loading the files that were named."""
    load()
    return _known.get(role, {})


def find_plugin(role: Role, ref: PluginRef) -> Plugin:
    """The plug-in that a run was configured with. Raises UserError if it is not loaded, or was changed since."""
    plugin = registered(role).get(ref.name)
    if plugin is None:
        raise UserError(f"{role} {ref.name!r} is of a plug-in that is not loaded; name its file: --plugin FILE")
    if plugin.digest != ref.digest:
        raise UserError(
            f"{plugin.path}: changed since the run began ({role} {ref.name!r} had digest {ref.digest}, now "
            f"{plugin.digest}); restore it (manifest.json of the run has it), or sweep again: the changed file gives "
            f"new runs"
        )
    return plugin


def add_files(files: list[str]) -> None:
    """Add plug-in files to $RESEXP_PLUGINS, for this process and its children. They are loaded on first use.

    Raises UserError for a path that the variable can't hold.
    """
    paths = [str(expanded(file).resolve()) for file in files]
    if split := next((path for path in paths if os.pathsep in path), None):
        raise UserError(f"{split}: the path of a plug-in holds no {os.pathsep!r}; rename or move it")
    os.environ[VARIABLE] = os.pathsep.join(dict.fromkeys([*_listed_files(), *paths]))


def load() -> None:
    """Load the files of ``$RESEXP_PLUGINS`` that are not loaded yet. Raises UserError if one can't be."""
    for name in _listed_files():
        path = expanded(name).resolve()
        if path not in _loaded:
            _load(path)
            _loaded.add(path)


def check_listed(names: list[str], place: str) -> None:
    """Check that the plug-ins that a study asks for were named by its user. Raises UserError if one was not."""
    named = {Path(name).name for name in _listed_files()}
    for name in names:
        if Path(name).name not in named:
            raise UserError(
                f"{place}: plugins: the study needs {name}, which runs code of its author; read it, then name it: "
                f"--plugin {name}"
            )


def texts(digests: set[str]) -> dict[str, str]:
    """The files of loaded plug-ins, by digest."""
    return {digest: text for digest, text in sorted(_texts.items()) if digest in digests}


def _listed_files() -> list[str]:
    return [name for name in os.environ.get(VARIABLE, "").split(os.pathsep) if name]


def _load(path: Path) -> None:
    global _loading
    try:
        content = read_file(path, MAX_BYTES)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; a plug-in is a Python file") from None
    digest = hashlib.sha256(content).hexdigest()[:8]
    module_name = f"resexp_plugin_{path.stem}_{digest}"
    module = sys.modules[module_name] = ModuleType(module_name)
    module.__file__ = str(path)
    _loading = path, digest
    try:
        exec(compile(content, path, "exec"), module.__dict__)
    except (Exception, SystemExit) as error:
        for role, plugins in _known.items():  # what the file registered before it failed
            _known[role] = {name: plugin for name, plugin in plugins.items() if plugin.path != path}
        if isinstance(error, UserError):
            raise
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)]
        line = error.lineno if isinstance(error, SyntaxError) else lines[-1] if lines else None
        where = f"{path}:{line}" if line else f"{path}"
        raise UserError(f"{where}: does not import: {type(error).__name__}: {error}") from error
    finally:
        _loading = None
    if not any(plugin.path == path for plugins in _known.values() for plugin in plugins.values()):
        raise UserError(f"{path}: registers nothing; put @register(ROLE, NAME) before its class or function")
    _texts[digest] = content.decode(errors="replace")


class _Mapping(dict[str, Any]):
    """A mapping that hashes; nobody changes it."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def with_options(name: str, options: Mapping[str, Any]) -> str:
    """``se+reduction=4``: the name of a plug-in and its options. Numbers and plain words are as they are, all else is
    JSON."""
    words = [name]
    for key, value in options.items():
        is_plain = isinstance(value, int | float) or (
            isinstance(value, str) and re.fullmatch(r"[\w.^]{1,60}", value) and typed(value, key) == value
        )
        words.append(f"{key}={value if is_plain else to_json(value).decode()}")
    return "+".join(words)


@dataclass(frozen=True)
class PluginRef:
    """A plug-in's part of a run: its name, its options, and the digest of its file.

    In a file it is a mapping: ``{name: se, reduction: 4}``. Options are sorted pairs whose values hash, as
    configurations do: lists are tuples, mappings are `_Mapping`.
    """

    name: str
    options: tuple[tuple[str, Any], ...]
    digest: str
    """Eight hex digits of the SHA-256 of the plug-in's file; ``source`` in config.yaml."""

    def as_mapping(self) -> dict[str, Any]:
        """As config.yaml has it."""
        return {"name": self.name, **dict(self.options), "source": self.digest}

    def __str__(self) -> str:
        """As names of nets have it: ``se``, ``se+reduction=4``."""
        return with_options(self.name, dict(self.options))


def refs_in(fields: Iterable[tuple[str, Any]]) -> dict[str, PluginRef]:
    """Those of the fields that are plug-ins, by role."""
    return {role: value for role, value in fields if isinstance(value, PluginRef)}


@dataclass(frozen=True)
class Choice:
    """The type of a key whose value is a built-in word of `role`, or the name of a plug-in, alone or with its
    options."""

    role: Role

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        as_mapping = core_schema.plain_serializer_function_ser_schema(
            lambda value: value.as_mapping() if isinstance(value, PluginRef) else value
        )
        return core_schema.no_info_plain_validator_function(self.validate, serialization=as_mapping)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        named = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        # The words of `data` have sections of their own.
        return named if self.role == "data" else {"anyOf": [{"enum": list(BUILT_IN[self.role])}, named]}

    def validate(self, value: Any) -> str | PluginRef:
        """The word itself, or the plug-in with its options."""
        words = BUILT_IN[self.role]
        if isinstance(value, PluginRef) or (isinstance(value, str) and value in words):
            return value
        given = dict(value) if isinstance(value, dict) else {"name": value}
        name, digest = given.pop("name", None), given.pop("source", None)
        known = registered(self.role)
        if isinstance(name, str) and name in known and digest in (None, known[name].digest):
            plugin = known[name]
            return PluginRef(name, _options(plugin, given), plugin.digest)
        if isinstance(name, str) and isinstance(digest, str):  # a run of a plug-in that is not loaded, or was changed
            return PluginRef(name, _pairs(given), digest)
        expected = ", ".join([*words, *known])
        raise PydanticCustomError("literal_error", "one of {expected}", {"expected": expected, "name": f"{name}"})


def _options(plugin: Plugin, given: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    known = plugin.options.model_fields if plugin.options else {}
    if unknown := [key for key in given if key not in known]:
        raise ValueError(f"{plugin.name} has no option {unknown[0]}; it has {', '.join(known) or 'none'}")
    if plugin.options is None:
        return ()
    try:
        # As JSON, since files have lists and words where options may be tuples and paths.
        return _pairs(plugin.options.model_validate_json(to_json(given)).model_dump(mode="json"))
    except ValidationError as error:
        raise ValueError(f"{plugin.name}: {first_mistake(error)}") from None


def _pairs(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((key, _hashable(value)) for key, value in sorted(options.items()))


def _hashable(value: Any) -> Any:
    if isinstance(value, dict):
        return _Mapping(_pairs(value))
    return tuple(map(_hashable, value)) if isinstance(value, list | tuple) else value
