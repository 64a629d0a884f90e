"""What all sections of a study file have in common."""

from __future__ import annotations

from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, field_validator

from resexp.errors import visible


class Section(BaseModel):
    """A part of a study file: unknown keys are refused and no value is converted ('5' is not 5)."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    mechanics: ClassVar[frozenset[str]] = frozenset()
    """Fields that say how to run, not what is measured; they stay out of the signature."""
    added: ClassVar[dict[str, Any]] = {}
    """Fields that came after the first release, each with the value that means "as before": a run that has it keeps the
    signature, and so the folder, that it always had."""

    @field_validator("*")
    @classmethod
    def _can_be_shown(cls, value: Any) -> Any:
        if isinstance(value, str) and visible(value) != value:
            raise ValueError("holds control characters")
        return value

    def science(self) -> dict[str, Any]:
        """The fields that change what is measured."""
        fields = self.model_dump(mode="json", exclude=set(self.mechanics))
        return {name: value for name, value in fields.items() if name not in self.added or value != self.added[name]}
