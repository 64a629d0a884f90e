"""YAML with line numbers: every value knows the file and line it came from, so an error can name it.

Plain words mean what YAML 1.2's core schema says: ``true``, ``false``, ``null``, ``~``, ``12``, ``0o14``, ``0xc``,
``1e-1``, ``.inf``. All else is text: ``yes``, ``24:00:00``, ``2020-01-01``. ``64e3`` is the whole number 64000. Merge
keys (``<<``) are read; keys next to them win. Duplicate keys are refused. Bytes, nodes (aliases can multiply a
small file without end), levels and the length of numbers are bounded.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
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
SMALL = 4096
"""Characters of a text that needs no bounds while it is parsed; a run's config.yaml has about 900."""
MAX_DIGITS = 100
"""Characters of a number, however it is spelt."""

_REMEDIES = {
    "\\t": "; indent by spaces",
    "cannot start any token": "; put the text into quotes",
    "mapping values are not allowed": "; fix the indentation, or put a text with a colon into quotes",
}
"""What to do, by words of the message of a syntax error."""

_TEXT, _MERGE = "tag:yaml.org,2002:str", "tag:yaml.org,2002:merge"


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2's core schema, which stops where a document is too large."""

    def __init__(self, text: str, name: str) -> None:
        super().__init__(text)
        self.name, self.nodes, self.level = name, 0, 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self.nodes, self.level = self.nodes + 1, self.level + 1
        if self.nodes > 2 * MAX_NODES or self.level > MAX_NESTING + 1:  # a key and its value are two nodes
            raise _too_large(f"{self.name}:{self.line + 1}")
        node = super().compose_node(parent, index)
        self.level -= 1
        return node


class _FastLoader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The same in C, where PyYAML has it: a tenth of the time, but unbounded, and with shorter messages."""


class _Dumper(yaml.SafeDumper):
    """PyYAML's safe dumper, which quotes text that `_Loader` would take for a number."""


_INT, _FLOAT, _BOOL, _NULL = (f"tag:yaml.org,2002:{kind}" for kind in ("int", "float", "bool", "null"))
_CORE = (
    (_NULL, r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    (_BOOL, r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    (_INT, r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    (
        _FLOAT,
        r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)",
        list("-+.0123456789"),
    ),
    (_MERGE, r"<<", ["<"]),
)
"""YAML 1.2's core schema and the merge key: the tag, its words, and how they begin. The first that fits is taken."""

_Loader.yaml_implicit_resolvers = _FastLoader.yaml_implicit_resolvers = {}
for _class in (_Loader, _FastLoader, _Dumper):  # the dumper quotes what either version of YAML would not read as text
    for _tag, _words, _first in _CORE:
        _class.add_implicit_resolver(_tag, re.compile(rf"^(?:{_words})$"), _first)


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
    try:
        loader, node = _composed(text, name)
        if node is None:
            return Document({}, {(): name})
        if not isinstance(node, yaml.MappingNode):
            raise UserError(f"{name}:1: expected a mapping of keys to values")
        places: dict[KeyPath, str] = {}
        data = _build(loader, node, (), name, places)
        return Document(data, places)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{name}:{mark.line + 1}" if mark else name
        begun, problem = error.context_mark, error.problem or ""
        context = f", {error.context}, from line {begun.line + 1}" if begun and mark and begun.line < mark.line else ""
        remedy = next((remedy for words, remedy in _REMEDIES.items() if words in problem), "")
        raise UserError(f"{where}: YAML syntax error: {problem or error.context}{context}{remedy}") from None
    except yaml.reader.ReaderError as error:
        where, code = f"{name}:{text.count(chr(10), 0, error.position) + 1}", int(error.character)
        raise UserError(f"{where}: YAML allows no U+{code:04X}; remove it, or save the file as UTF-8") from None
    except (ValueError, ArithmeticError) as error:  # e.g. an escape that stands for no character
        raise UserError(f"{name}: YAML error: {error}") from None


def _too_large(where: str) -> UserError:
    return UserError(f"{where}: too large for a study: over {MAX_NODES} values or {MAX_NESTING} levels")


def _composed(text: str, name: str) -> tuple[yaml.SafeLoader, yaml.Node | None]:
    if len(text) <= SMALL:
        with contextlib.suppress(yaml.YAMLError, ValueError):  # the other says what is wrong
            fast = _FastLoader(text)
            return fast, fast.get_single_node()
    loader = _Loader(text, name)
    return loader, loader.get_single_node()


def _build(loader: yaml.SafeLoader, node: yaml.Node, path: KeyPath, name: str, places: dict[KeyPath, str]) -> Any:
    where = f"{name}:{node.start_mark.line + 1}"
    if len(places) >= MAX_NODES or len(path) > MAX_NESTING:
        raise _too_large(where)
    places.setdefault(path, where)
    if isinstance(node, yaml.MappingNode):
        built: dict[str, Any] = {}
        for key_node, value_node in _merged(node, name):
            at = f"{name}:{key_node.start_mark.line + 1}"
            if not isinstance(key_node, yaml.ScalarNode):
                raise UserError(f"{at}: keys are words, got a list or a mapping")
            key = key_node.value
            if node.flow_style and value_node.start_mark.index == key_node.end_mark.index:
                raise UserError(f"{at}: {key!r} has no value: commas in braces end values, and a colon needs a space")
            if key_node.tag != _TEXT or not key.isprintable():
                raise UserError(f"{at}: keys are words, got {key!r}")
            if key in built:
                first = places[(*path, key)].rsplit(":", 1)[-1]
                raise UserError(f"{at}: {dotted((*path, key))}: duplicate key, first set on line {first}; keep one")
            places[(*path, key)] = at
            built[key] = _build(loader, value_node, (*path, key), name, places)
        return built
    if isinstance(node, yaml.SequenceNode):
        return [_build(loader, item, (*path, i), name, places) for i, item in enumerate(node.value)]
    try:
        if node.tag != _TEXT and len(node.value) > MAX_DIGITS:
            raise ValueError(f"over {MAX_DIGITS} characters; quote it if it is text")
        value = _scalar(node) if node.tag in (_NULL, _BOOL, _INT, _FLOAT) else loader.construct_object(node, deep=True)
    except LookupError:  # e.g. !!bool perhaps
        raise UserError(
            f"{where}: {dotted(path)}: can't read {node.value!r} as {node.tag.rpartition(':')[2]}"
        ) from None
    except (ValueError, AttributeError, ArithmeticError) as error:  # e.g. !!timestamp 2020-13-01
        raise UserError(f"{where}: {dotted(path)}: can't read {node.value!r}: {error}") from None
    if isinstance(value, str) and (half := re.search("[\ud800-\udfff]", value)):
        raise UserError(f"{where}: {dotted(path)}: \\u{ord(half[0]):x} is no character; write \\U and its eight digits")
    if value is not None and not isinstance(value, str | bool | int | float):
        raise UserError(f"{where}: {dotted(path)}: expected text or a number, got {value!r}; quote it if it is text")
    return value


def _merged(node: yaml.MappingNode, name: str, level: int = 0) -> list[tuple[yaml.Node, yaml.Node]]:
    """The pairs of a mapping, with those of its merge keys, over which its own and earlier ones win."""
    if level > MAX_NESTING:  # such as one that merges itself
        raise _too_large(f"{name}:{node.start_mark.line + 1}")
    pairs: list[tuple[yaml.Node, yaml.Node]] = [pair for pair in node.value if pair[0].tag != _MERGE]
    for key, value in node.value:
        if key.tag != _MERGE:
            continue
        for source in value.value if isinstance(value, yaml.SequenceNode) else [value]:
            if not isinstance(source, yaml.MappingNode):
                raise UserError(
                    f"{name}:{key.start_mark.line + 1}: <<: expected a mapping, such as *base, or a list of them"
                )
            known = {own.value for own, _ in pairs}
            pairs += [pair for pair in _merged(source, name, level + 1) if pair[0].value not in known]
            if len(pairs) > MAX_NODES:
                raise _too_large(name)
    return pairs


def _scalar(node: yaml.Node) -> bool | int | float | None:
    """What a plain word of the core schema stands for."""
    word = node.value.lower()
    if node.tag == _NULL:
        return None
    if node.tag == _BOOL:
        return {"true": True, "false": False}[word]
    if node.tag == _INT:
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
    """`base` overlaid by `top`: mappings merge key by key, everything else is replaced."""
    return Document(_overlaid(base.data, top.data, top_level=True), {**base.places, **top.places})


def _overlaid(base: dict[str, Any], top: dict[str, Any], *, top_level: bool) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        # Grids and plug-ins with options are replaced as a whole, not merged key by key.
        replaces = not isinstance(value, Mapping) or (key == "grid" if top_level else "name" in value)
        below = base.get(key)
        merged[key] = _overlaid(below, value, top_level=False) if isinstance(below, dict) and not replaces else value
    return merged


def nested(path: Sequence[str], value: Any, place: str) -> Document:
    """The document that has `value` at a path of keys; all of it stands at `place`."""
    for name in reversed(path):
        value = {name: value}
    return Document(value, {tuple(path[:i]): place for i in range(len(path) + 1)})


def overridden(document: Document, settings: Sequence[str]) -> Document:
    """`document` with each setting ``a.b=value`` applied in turn; see `_typed` for values. ``grid.a.b=[...]`` sets the
    key ``a.b`` of the grid: in each of its items that has this key, or in all items if none has it."""
    for setting in settings:
        keys, equals, value = setting.partition("=")
        path = keys.strip().split(".")
        if not equals or not all(path) or len(path) > MAX_NESTING:
            raise UserError(f"--set {setting}: expected KEY=VALUE with a dotted key, such as train.lr=0.05")
        name = f"--set {setting}"
        if path[0] == "grid" and path[1:]:
            document = _varied(document, ".".join(path[1:]), _typed(value, name), name)
        else:
            document = merge(document, nested(path, _typed(value, name), name))
    return document


def _varied(document: Document, key: str, values: Any, name: str) -> Document:
    grid = document.data.get("grid", {})
    items = [item for item in (grid if isinstance(grid, list) else [grid]) if isinstance(item, dict)]
    having = [item for item in items if key in item] or items
    changed = [{**item, key: values} if item in having else item for item in items]
    new = changed if isinstance(grid, list) and changed else changed[0] if changed else {key: values}
    places = {path: place for path, place in document.places.items() if key not in path}
    return Document({**document.data, "grid": new}, {**places, ("grid",): name})


def _typed(value: str, name: str) -> Any:
    """A value as it was typed: YAML where it is quoted, a list or a mapping, or a single word; else text."""
    value = value.strip()
    is_text = not value.startswith(tuple("[{'\"&*!|>")) and re.search(r" #|: |:$|\n|^#|^- ", value)
    return value if is_text else parse(f"value: {value}", name).data["value"]


def dotted(path: KeyPath) -> str:
    """``("grid", 0, "model.depth")`` as people read it: ``grid[0].model.depth``."""
    text = ""
    for key in path:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text
