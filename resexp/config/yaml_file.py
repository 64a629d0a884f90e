"""YAML with line numbers: every value knows the file and line it came from, so an error can name it.

Plain words mean what YAML 1.2's core schema says: ``true``, ``false``, ``null``, ``~``, ``12``, ``0o14``, ``0xc``,
``1e-1``, ``.inf``. All else is text: ``yes``, ``24:00:00``, ``2020-01-01``. ``64e3`` is the whole number 64000. Merge
keys (``<<``) are read; keys next to them win. Duplicate keys are refused. Bytes, nodes (aliases can multiply a
small file without end), levels and the length of numbers are bounded.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from resexp.errors import UserError, sanitize
from resexp.utils.paths import expanded
from resexp.utils.untrusted import read_file

KeyPath = tuple[str | int, ...]

MAX_BYTES = 1 << 20
MAX_NODES = 10_000
MAX_NESTING = 30
MAX_DIGITS = 100
"""Characters of a number, however it is spelt."""

_SECTIONS = ("data", "model", "train", "probes", "executor", "report")
"""The keys of a study whose values are mappings, which merge; the grid is replaced."""

_REMEDIES = {
    "\\t": "; indent by spaces",
    "mapping values are not allowed": "; fix the indentation, or put a text with a colon into quotes",
    "expected node content": "; give a value, and close each bracket",
    "cannot start any token": "; put the text into quotes",
    "Unicode character escape": "; write \\U and the eight digits of a character",
}
"""What to do, by words of the message of a syntax error."""

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""Reads in C, where PyYAML has it: a tenth of the time."""
_TAG = "tag:yaml.org,2002:"
_CORE = {
    "null": re.compile(r"~|null|Null|NULL|"),
    "bool": re.compile(r"true|True|TRUE|false|False|FALSE"),
    "int": re.compile(r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+"),
    "float": re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)"),
}
"""The plain words of YAML 1.2's core schema, by their kind. The first that fits is taken; all else is text."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes what either version of YAML would not read as text."""


for _word_kind, _words in _CORE.items():
    _Dumper.add_implicit_resolver(_TAG + _word_kind, re.compile(f"^(?:{_words.pattern})$"), None)


@dataclass(frozen=True)
class Document:
    """Plain data (``dict``, ``list``, scalars) and, for each key path in it, where it stands ("file:line")."""

    data: dict[str, Any]
    places: dict[KeyPath, str] = field(default_factory=dict)

    def place(self, path: KeyPath) -> str:
        """Where `path` stands; for a key that is missing, where its section stands."""
        while path and path not in self.places:
            path = path[:-1]
        return self.places.get(path, "")


def parse(text: str, name: str) -> Document:
    """Parse a YAML mapping. `name` is what errors call the text: a file's path, or ``--set``."""
    if found := yaml.reader.Reader.NON_PRINTABLE.search(text):
        where = f"{name}:{text.count(chr(10), 0, found.start()) + 1}"
        raise UserError(f"{where}: YAML allows no U+{ord(found[0]):04X}; remove it, or save the file as UTF-8")
    try:
        return _Builder(text, name).document()
    except yaml.MarkedYAMLError as error:
        mark: Any = error.problem_mark or error.context_mark
        begun = error.context_mark
        line = min(mark.line, text.rstrip().count("\n")) + 1  # the end of a text may be behind its last line
        context = f", {error.context}, from line {begun.line + 1}" if begun and begun.line + 1 < line else ""
        problem = f"{error.problem}"
        if "character" in problem:
            problem += f" {text[mark.index : mark.index + 1]!r}"
        remedy = next((remedy for words, remedy in _REMEDIES.items() if words in problem), "")
        raise UserError(f"{name}:{line}: YAML syntax error: {problem}{context}{remedy}") from None
    except (ValueError, ArithmeticError) as error:  # e.g. an escape that stands for no character
        raise UserError(f"{name}: YAML error: {error}") from None


class _Builder:
    """Builds data from the events of PyYAML's parser. An alias is replaced by the events that it stands for."""

    def __init__(self, text: str, name: str) -> None:
        self._name, self._nodes = name, 0
        self._events = yaml.parse(text, _LOADER)
        self._replayed: deque[yaml.Event] = deque()
        self._seen: list[yaml.Event] = []
        self._anchors: dict[str, list[yaml.Event]] = {}
        self._places: dict[KeyPath, str] = {}

    def document(self) -> Document:
        self._next()  # the beginning of the text
        if isinstance(self._next(), yaml.StreamEndEvent):
            return Document({}, {(): self._name})
        data = self._value(self._next(), ())
        self._next()  # the end of the document
        if not isinstance(data, dict) or not isinstance(self._next(), yaml.StreamEndEvent):
            raise UserError(f"{self._name}:1: expected a mapping of keys to values, and nothing else")
        return Document(data, self._places)

    def _next(self) -> Any:
        self._seen.append(self._replayed.popleft() if self._replayed else next(self._events))
        return self._seen[-1]

    def _value(self, event: Any, path: KeyPath) -> Any:
        """The value that begins with `event`."""
        where, begin = f"{self._name}:{event.start_mark.line + 1}", len(self._seen) - 1
        self._places.setdefault(path, where)
        self._nodes += 1
        if self._nodes > MAX_NODES or len(path) > MAX_NESTING:
            raise UserError(f"{where}: too large for a study: over {MAX_NODES} values or {MAX_NESTING} levels")
        value: Any
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise UserError(f"{where}: {dotted(path)}: *{event.anchor} stands for nothing that ends before it")
            self._seen.pop()
            self._replayed.extendleft(reversed(self._anchors[event.anchor]))
            return self._value(self._next(), path)
        if isinstance(event, yaml.MappingStartEvent):
            value = self._mapping(path, flow=bool(event.flow_style))
        elif isinstance(event, yaml.SequenceStartEvent):
            value = []
            while not isinstance(item := self._next(), yaml.SequenceEndEvent):
                value.append(self._value(item, (*path, len(value))))
        else:
            value = _scalar(event, f"{where}: {dotted(path)}")
        if event.anchor:
            self._anchors[event.anchor] = self._seen[begin:]
        return value

    def _mapping(self, path: KeyPath, *, flow: bool) -> dict[str, Any]:
        """The pairs of a mapping, with those of its merge keys, over which its own and earlier ones win."""
        built: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        event: Any
        while not isinstance(event := self._next(), yaml.MappingEndEvent):
            at, end = f"{self._name}:{event.start_mark.line + 1}", event.end_mark.index
            if not isinstance(event, yaml.ScalarEvent):
                raise UserError(f"{at}: keys are words, got a list, a mapping or an alias")
            key, value = event.value, self._next()
            if key == "<<" and event.implicit[0]:
                own, self._places = self._places, {}
                sources = self._value(value, path)
                for merged_path, place in self._places.items():  # those of own and earlier keys stay
                    own.setdefault(merged_path, place)
                self._places = own
                for source in sources if isinstance(sources, list) else [sources]:
                    if not isinstance(source, dict):
                        raise UserError(f"{at}: <<: expected a mapping, such as *base, or a list of them")
                    merged = {**source, **merged}
                continue
            if flow and value.start_mark.index == end:
                raise UserError(f"{at}: {key!r} has no value: commas in braces end values, and a colon needs a space")
            if _kind(event) != "str" or not key.isprintable():
                raise UserError(f"{at}: keys are words, got {key!r}")
            if key in built:
                first = self._places[(*path, key)].rpartition(":")[2]
                raise UserError(f"{at}: {dotted((*path, key))}: duplicate key, first set on line {first}; keep one")
            _forget(merged.get(key), (*path, key), self._places)
            self._places[(*path, key)] = at
            built[key] = self._value(value, (*path, key))
        return {**merged, **built}


def _kind(event: yaml.ScalarEvent) -> str:
    """The tag of a scalar, or what the core schema says of a plain word."""
    if event.tag not in (None, "!"):
        return str(event.tag).removeprefix(_TAG)
    return next((kind for kind, words in _CORE.items() if event.implicit[0] and words.fullmatch(event.value)), "str")


def _scalar(event: yaml.ScalarEvent, where: str) -> str | bool | int | float | None:
    """The value of a scalar. Raises UserError, which begins with `where`."""
    kind, text = _kind(event), event.value
    if kind == "str":
        return str(text)
    if len(text) > MAX_DIGITS:
        raise UserError(f"{where}: can't read {text!r}: over {MAX_DIGITS} characters; quote it if it is text")
    if kind not in _CORE or not _CORE[kind].fullmatch(text):
        raise UserError(f"{where}: can't read {text!r} as {kind}; quote it if it is text")
    word = text.lower()
    if kind == "null":
        return None
    if kind == "bool":
        return bool(word == "true")
    if kind == "int":
        return int(word, 8 if word.startswith("0o") else 16 if word.startswith("0x") else 10)
    number = float(word.replace(".inf", "inf").replace(".nan", "nan"))
    # People write 64e3 for steps; where a fraction is meant, a whole number is one, too.
    return int(number) if "e" in word and abs(number) < 2**53 and number == int(number) else number


def dump(data: dict[str, Any]) -> str:
    """`data` as YAML that `parse` reads back the same."""
    text: str = yaml.dump(data, Dumper=_Dumper, sort_keys=False)
    return text


def read(path: Path, find: Callable[[str], Path] = Path, chain: tuple[Path, ...] = ()) -> Document:
    """Read a YAML file and everything it `extends`; the file that extends wins, key by key; lists are replaced.

    The base is a file next to this one, or what `find` returns. Name and description are a file's own. `chain` holds
    the files that extend this one.
    """
    if path.is_dir():
        remedy = f"for images of your own, add --set data.source=folder --set data.path={path} to a study's name"
        raise UserError(f"{path}: a folder, where the file of a study is expected; {remedy}")
    try:
        own = path.resolve()
        text = read_file(path, MAX_BYTES).decode()
    except RuntimeError:
        raise UserError(f"{path}: a link that leads to itself") from None
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: is a folder, expected a YAML file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None
    if own in chain:
        raise UserError(f"{path}: extends itself, by way of {', '.join(p.name for p in chain)}")
    if len(chain) > MAX_NESTING:
        raise UserError(f"{path}: the last of over {MAX_NESTING} files that extend one another")
    document = parse(text, str(path))
    base = document.data.pop("extends", None)
    if base is None:
        return document
    where = f"{document.place(('extends',))}: extends"
    if not isinstance(base, str) or sanitize(base) != base:
        raise UserError(f"{where}: expected the path of one YAML file, got {base!r}")
    try:
        neighbour = path.parent / expanded(base)
        target = neighbour if neighbour.exists() else find(base)
        if target.is_dir() or not target.exists():
            raise UserError(f"{base}: {'a folder' if target.is_dir() else 'no such file next to it'}")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    below = read(target, find, (*chain, own))
    for key in ("name", "description"):
        below.data.pop(key, None)
    return merge(below, document)


def merge(base: Document, top: Document) -> Document:
    """`base` overlaid by `top`: mappings merge key by key, everything else is replaced, together with its places.

    A section of `base` that is no mapping, such as ``model: plain``, stays: it is a mistake, and is refused as one.
    """
    kept = {
        key
        for key, value in top.data.items()
        if key in _SECTIONS and isinstance(value, dict) and not isinstance(base.data.get(key), dict | None)
    }
    places = dict(base.places)
    data = _overlaid(base.data, {key: value for key, value in top.data.items() if key not in kept}, (), places)
    places.update((path, place) for path, place in top.places.items() if not kept.intersection(path[:1]))
    return Document(data, places)


def _overlaid(base: dict[str, Any], top: dict[str, Any], path: KeyPath, places: dict[KeyPath, str]) -> dict[str, Any]:
    """`base`, which stands at `path`, overlaid by `top`; the places of what is replaced are removed from `places`."""
    merged = dict(base)
    for key, value in top.items():
        below = base.get(key)
        # Grids and plug-ins with options, which have a name, are replaced as a whole, not merged key by key.
        merges = isinstance(value, dict) and key != "grid" and (key == "executor" or "name" not in value)
        if isinstance(below, dict) and merges:
            merged[key] = _overlaid(below, value, (*path, key), places)
        else:
            _forget(below, (*path, key), places)
            merged[key] = value
    return merged


def _forget(value: Any, path: KeyPath, places: dict[KeyPath, str]) -> None:
    """Remove the places of `value`, which stands at `path`, and of all that is in it."""
    places.pop(path, None)
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in inner:
        _forget(each, (*path, key), places)


def changed(document: Document, path: Sequence[str], value: Any, place: str) -> Document:
    """`document` overlaid by `value` at a path of keys; all of it stands at `place`."""
    for name in reversed(path):
        value = {name: value}
    return merge(document, Document(value, {tuple(path[:i]): place for i in range(len(path) + 1)}))


def overridden(document: Document, settings: Sequence[str]) -> Document:
    """`document` with each setting ``a.b=value`` applied in turn; see `typed` for values. ``grid.a.b=[...]`` sets the
    key ``a.b`` of the grid: in each of its items that has this key, or in all items if none has it."""
    for setting in settings:
        keys, equals, value = setting.partition("=")
        path = keys.strip().split(".")
        if not equals or not all(path) or len(path) > MAX_NESTING:
            raise UserError(f"--set {setting}: expected KEY=VALUE with a dotted key, such as train.lr=0.05")
        name = f"--set {setting}"
        if path[0] == "grid" and path[1:]:
            document = _varied(document, ".".join(path[1:]), typed(value, name), name)
        else:
            document = changed(document, path, typed(value, name), name)
    return document


def _varied(document: Document, key: str, values: Any, name: str) -> Document:
    grid = document.data.get("grid", {})
    items = [item for item in (grid if isinstance(grid, list) else [grid]) if isinstance(item, dict)]
    having = [item for item in items if key in item] or items
    changed = [{**item, key: values} if item in having else item for item in items]
    new = changed if isinstance(grid, list) and changed else changed[0] if changed else {key: values}
    places = {path: place for path, place in document.places.items() if key not in path}
    return Document({**document.data, "grid": new}, {**places, ("grid",): name})


def typed(value: str, name: str) -> Any:
    """A value as a person typed it: YAML where it is quoted, a list or a mapping, or a single word; else text."""
    value = value.strip()
    is_text = not value.startswith(tuple("[{'\"&*!|>")) and re.search(r" #|: |:$|\n|^#|^- ", value)
    return value if is_text else parse(f"value: {value}", name).data["value"]


def dotted(path: KeyPath) -> str:
    """``("grid", 0, "model.depth")`` as people read it: ``grid[0].model.depth``."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text
