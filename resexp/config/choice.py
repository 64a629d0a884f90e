"""Keys whose value is a built-in word or the name of a plug-in, alone or with the plug-in's options."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationError
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from resexp.config import plugins


@dataclass(frozen=True)
class Custom:
    """A plug-in's part of a run: its name, its options, and a hash of its source.

    In a file it is a mapping: ``{name: se, reduction: 4}``. Options are sorted pairs, so that configurations hash.
    """

    name: str
    options: tuple[tuple[str, Any], ...]
    source: str
    """Eight hex digits of the SHA-256 of the plug-in's file."""

    def as_mapping(self) -> dict[str, Any]:
        """As config.yaml has it."""
        return {"name": self.name, **dict(self.options), "source": self.source}

    def __str__(self) -> str:
        """As labels have it: ``se``, ``se+reduction=4``."""
        return "+".join([self.name, *(f"{key}={value}" for key, value in self.options)])


@dataclass(frozen=True)
class Choice:
    """The values of such a key: a built-in word of `role`, or what a plug-in registered for it."""

    role: plugins.Role

    @property
    def words(self) -> tuple[str, ...]:
        """The built-in words."""
        return plugins.BUILT_IN[self.role]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        shown = core_schema.plain_serializer_function_ser_schema(
            lambda value: value.as_mapping() if isinstance(value, Custom) else value
        )
        return core_schema.no_info_plain_validator_function(self.validate, serialization=shown)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        named = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}
        if self.role == "data":  # its words have sections of their own
            return named
        return {"anyOf": [{"enum": list(self.words)}, named]}

    def validate(self, value: Any) -> str | Custom:
        """The word itself, or the plug-in with its options."""
        if isinstance(value, Custom) or (isinstance(value, str) and value in self.words):
            return value
        given = dict(value) if isinstance(value, dict) else {"name": value}
        name, source = given.pop("name", None), given.pop("source", None)
        known = plugins.registered(self.role)
        if isinstance(name, str) and name in known:
            plugin = known[name]
            return Custom(name, _checked(plugin, given), source or plugin.source)
        if isinstance(name, str) and isinstance(source, str):  # a run of a plug-in that is not loaded can be read
            return Custom(name, _pairs(given), source)
        expected = ", ".join([*self.words, *known])
        raise PydanticCustomError("literal_error", "one of {expected}", {"expected": expected, "name": f"{name}"})


def _checked(plugin: plugins.Plugin, given: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The options with their defaults. Raises ValueError with the first mistake."""
    if plugin.options is None:
        if given:
            raise ValueError(f"{plugin.name} has no options; remove {', '.join(map(str, given))}")
        return ()
    try:
        options = plugin.options.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        if first["type"] == "extra_forbidden":
            raise ValueError(
                f"{plugin.name} has no option {key}; it has {', '.join(plugin.options.model_fields)}"
            ) from None
        raise ValueError(f"{plugin.name}: {key}: {first['msg']}") from None
    return _pairs(options.model_dump(mode="json"))


def _pairs(options: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((key, tuple(value) if isinstance(value, list) else value) for key, value in sorted(options.items()))
