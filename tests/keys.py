"""configs/KEYS.md: every key of a study file with its values, default and meaning, as the schema has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic_core import PydanticUndefined

from resexp.config import SECTIONS, SOURCES, Section, Study

KEYS = Path(__file__).parent.parent / "configs/KEYS.md"
TITLES = {"plugin": "data, source: a plug-in", "cache": "data.cache", "ray": "executor.ray", "slurm": "executor.slurm"}


def keys() -> str:
    """The text of KEYS.md."""
    parts = [
        "# Keys of a study file",
        "Written by `make published` from the schema; `resexp schema` prints the same keys as JSON Schema.",
    ]
    parts += ["Unset keys have the default. A default in italics depends on other keys.", "## Top level", _table(Study)]
    for name, section in SECTIONS.items():
        title = f"data, source: {name}" if name in SOURCES else TITLES.get(name, name)
        parts += [f"## {title}", f"{_words(section.__doc__)}", _table(section)]
    return "\n\n".join(parts) + "\n"


def _table(section: type[Section]) -> str:
    schema = section.model_json_schema()
    rows = [["key", "values", "default", "meaning"], ["---"] * 4]
    for name, field in section.model_fields.items():
        if name == "data" or (isinstance(field.annotation, type) and issubclass(field.annotation, Section)):
            rows.append([f"`{name}`", "a mapping", "", f"See {TITLES.get(name, name)}."])
            continue
        described = schema["properties"][name]
        rows.append([f"`{name}`", _values(described, schema), _default(field), _words(field.description)])
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows)


def _default(field: Any) -> str:
    if field.default_factory is not None:
        return "*depends*"
    if field.default is PydanticUndefined:
        return "*depends*" if "Default:" in (field.description or "") else "required"
    value = field.default
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return "a single net" if value == ({},) else f"`{list(value)}`"
    return f"`{value}`" if value != "" else "empty"


def _values(described: dict[str, Any], schema: dict[str, Any]) -> str:
    """Allowed values in words."""
    if "$ref" in described:
        described = schema["$defs"][described["$ref"].rpartition("/")[2]]
    if "anyOf" in described or "oneOf" in described:
        options = [_values(option, schema) for option in described.get("anyOf", described.get("oneOf", []))]
        return ", or ".join(dict.fromkeys(option for option in options if option != "null"))
    if "const" in described:
        return f"`{described['const']}`"
    if "enum" in described:
        return ", ".join(f"`{value}`" for value in described["enum"])
    kind = described.get("type", "a value")
    if kind == "array":
        return f"list of {_values(described['items'], schema)}" if described.get("items") else "list"
    words = {"string": "text", "boolean": "`true`, `false`", "object": "a mapping"}
    limits = [
        f"{sign} {described[limit]:g}"
        for limit, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if limit in described and abs(described[limit]) < 1e9
    ]
    if "epochs" in described.get("pattern", ""):
        return "epochs"
    return " ".join([words.get(kind, kind), *limits])


def _words(text: str | None) -> str:
    return " ".join((text or "").split())
