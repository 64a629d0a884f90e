"""What all sections of a study file have in common."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
    field_validator,
)
from pydantic_core import PydanticCustomError

from resexp.errors import sanitize


def flat(value: Any, key: str = "") -> dict[str, Any]:
    """Every value of nested sections by its dotted key, such as ``train.lr``."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {k: v for name, inner in value.items() for k, v in flat(inner, f"{key}.{name}" if key else name).items()}


def only(expected: str) -> WrapValidator:
    """One mistake, with the choices `expected`, where a union would report one for each of its members."""

    def validate(value: Any, handler: ValidatorFunctionWrapHandler) -> Any:
        try:
            return handler(value)
        except ValidationError:
            raise PydanticCustomError("literal_error", "one of {expected}", {"expected": expected}) from None

    return WrapValidator(validate)


class Section(BaseModel):
    """A part of a study file: unknown keys are refused and no value is converted ('5' is not 5)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    not_in_signature: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how to run, not what is measured; they stay out of the signature."""

    @field_validator("*")
    @classmethod
    def _can_be_shown(cls, value: Any) -> Any:
        if isinstance(value, str) and sanitize(value) != value:
            raise ValueError("holds control characters")
        return value

    def measured(self) -> dict[str, Any]:
        """The fields that change what is measured."""
        return self.model_dump(mode="json", exclude=set(self.not_in_signature))

    def default_of(self, name: str) -> Any:
        """A field's default, given the fields that it depends on."""
        return type(self).model_fields[name].get_default(call_default_factory=True, validated_data=dict(self))

    def changed(self) -> dict[str, Any]:
        """The measured fields that differ from their defaults."""
        return {name: value for name, value in self.measured().items() if getattr(self, name) != self.default_of(name)}

    def in_signature(self) -> dict[str, Any]:
        """The fields that the signature covers: fields with a computed default, and fields that differ from a fixed
        one.

        A key that is added later leaves every signature as it was while the key is at its default. So the default of a
        key never changes. A default that depends on other fields is written out, since these may change.
        """
        given, fields = dict(self), type(self).model_fields
        return {
            name: given[name].in_signature() if isinstance(given[name], Section) else value
            for name, value in self.measured().items()
            if fields[name].default_factory is not None or given[name] != fields[name].default
        }
