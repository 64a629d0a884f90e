"""The grammar of the names of nets, and the nets that a person asks about by name or with a study.

A name is ``[imagenet/]KIND-DEPTH[-PART...]``; a part is a word, which names its field, or ``field=value``:
``residual-56-B``, ``imagenet/plain-34``, ``plain-20-norm=none-block=se+reduction=4``.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from pydantic import ValidationError, field_validator

from resexp.config import FolderData, ImageNetData, ModelConfig, RunConfig, Section, ShapesData
from resexp.config.messages import hint, validated
from resexp.config.model import ResidualInit, StrideConv
from resexp.config.params import CLASSES, resolved
from resexp.config.plugins import BUILT_IN, with_options
from resexp.config.yaml_file import Document, overridden, typed
from resexp.errors import UserError

_CHOICES: dict[Any, tuple[str, ...]] = {
    **BUILT_IN,
    "stride_conv": get_args(StrideConv),
    "residual_init": get_args(ResidualInit),
}
WORDS = {
    word: field
    for field in ModelConfig.model_fields
    for word in _CHOICES.get(field, ())
    if word.replace("-", "").isalnum() and word != "none"
}
"""Words that may follow kind and depth in a net's name, with the field that each is a value of."""

_ALWAYS = ("kind", "depth", "variant")
_SIDES = {"cifar": 32, "imagenet": 224}
_NAME = re.compile(r"(?:([a-z]+)/)?([a-z]+)-(\d{1,5})((?:-.+)?)")
_QUOTED = r'"(?:[^"\\]|\\.)*"'
_VALUE = rf"(?:[\w.+=^\[\]{{}}:,]|{_QUOTED}|(?:(?<=[=^\[:,])|(?<=\de))-(?=[\d.]))+"
"""A value in a name; a minus sign is part of it before a number: ``-0.5``, ``1e-05``, ``depth^-1``."""
_OPTION = re.compile(rf"\+([^\W\d]\w*)=((?:{_QUOTED}|[^\"+]|\+(?![^\W\d]\w*=))*)")
_PART = re.compile(rf"-(?:([a-z_]+)=)?({'|'.join(WORDS)}|{_VALUE})(?=-|$)")


@dataclass(frozen=True)
class NamedNet:
    """A net and the images it is for."""

    config: ModelConfig
    size: int
    """Side of an image, pixels."""
    classes: int

    def checked(self) -> NamedNet:
        """The net. Raises UserError if the images are too small for it."""
        if self.size < self.config.smallest_side:
            raise UserError(f"{self.name}: halves its images five times, so they need 32 pixels, got {self.size}")
        return self

    @property
    def name(self) -> str:
        """Kind, depth, and what else does not follow from them: ``residual-56-B``, ``plain-20-width=8``."""
        needed = _needed_fields(self.config)
        variant = f"{self.config.variant}/" if "variant" in needed else ""
        extras = {f"model.{key}": value for key, value in needed.items() if key not in _ALWAYS}
        return variant + net_name(self.config, extras)


def net_name(config: ModelConfig, extras: Mapping[str, Any]) -> str:
    """Kind and depth, and behind them what the dotted keys `extras` have as values."""
    return "-".join([config.kind, str(config.depth), *(_part(key, value) for key, value in extras.items())])


def _part(key: str, value: Any) -> str:
    """``norm=none``, or a word alone where it names its field, such as ``B``."""
    if isinstance(value, dict) and "name" in value:
        value = with_options(value["name"], {k: v for k, v in value.items() if k not in ("name", "source")})
    values = value if isinstance(value, list | tuple) else [value]
    text = "+".join(str(one).lower() if one is None or isinstance(one, bool) else str(one) for one in values)
    return text if key == f"model.{WORDS.get(text)}" else f"{key.rpartition('.')[2]}={text}"


def parse_net(name: str, settings: list[str], size: int | None = None) -> NamedNet:
    """The net with this name.

    `settings` change fields of its model; `size` is the side of the images, by default the paper's. Raises UserError
    with one line for every mistake.
    """
    if not (parts := _NAME.fullmatch(name)):
        raise UserError(
            f"{name}: not the name of a net; expected KIND-DEPTH or KIND-DEPTH-WORD, such as plain-20, "
            "preact-164-bottleneck or imagenet/residual-34-B"
        )
    variant, kind, depth, rest = parts.groups("")
    model: dict[str, Any] = {"kind": kind, "depth": int(depth), **({"variant": variant} if variant else {})}
    while rest:
        part = _PART.match(rest)
        if part is None or not (field := part[1] or WORDS.get(part[2], "")):
            word = rest[1:]
            raise UserError(
                f"{name}: unknown word {word!r}; allowed: {', '.join(WORDS)}{hint(word, list(WORDS))}; a plug-in's "
                "part has its role before its name, such as block=scaled"
            )
        if field in model:
            raise UserError(f"{name}: {model[field]} and {part[2]} are both its {field}; keep one")
        model[field] = _typed_part(part[2], name)
        rest = rest[part.end() :]
    config = validated(_Named, overridden(Document({"model": model}, {(): name}), settings)).model
    return NamedNet(config, size or _SIDES[config.variant], CLASSES[config.variant]).checked()


def _typed_part(text: str, name: str) -> Any:
    """``se+reduction=4`` as the mapping of a plug-in with options; other values as YAML reads them."""
    if not (plugin := re.fullmatch(rf"([^+]*)((?:{_OPTION.pattern})+)", text)):
        return typed(text, name)
    return {"name": plugin[1]} | {key: typed(value, name) for key, value in re.findall(_OPTION, plugin[2])}


class _Named(Section):
    model: ModelConfig

    @field_validator("model")
    @classmethod
    def _params_as_width(cls, model: ModelConfig) -> ModelConfig:
        return resolved(model, CLASSES[model.variant])


def _needed_fields(config: ModelConfig) -> dict[str, Any]:
    """A minimal set of fields from which ModelConfig reproduces `config`."""
    config = config.model_copy(update={"params": None})  # the width follows from it
    needed = config.model_dump()
    for field in list(needed):
        rest = {key: value for key, value in needed.items() if key != field}
        with contextlib.suppress(ValidationError):  # the rest makes no net, so the field is needed
            if ModelConfig(**rest) == config:
                needed = rest
    return needed


def pixels(config: RunConfig) -> int:
    """Side of the images of a run."""
    if isinstance(config.data, ImageNetData):
        return config.data.crop
    if config.data.resize:
        return config.data.resize
    if isinstance(config.data, ShapesData):
        return config.data.size
    return _SIDES[config.model.variant] if isinstance(config.data, FolderData) else _SIDES["cifar"]
