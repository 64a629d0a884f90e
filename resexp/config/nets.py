"""The nets that a person asks about, by a short name such as imagenet/residual-50, or all those of a study."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError, field_validator

from resexp.config import FolderData, ImageNetData, ModelConfig, RunConfig, Section, ShapesData, yaml_file
from resexp.config.model import WORDS, name_part
from resexp.config.params import CLASSES, classes_of, resolved
from resexp.config.study import hint, load, validated
from resexp.config.yaml_file import Document
from resexp.errors import UserError

_ALWAYS = ("kind", "depth", "variant")
_SIDES = {"cifar": 32, "imagenet": 224}
_VALUE = r"(?:[\w.+=^]|(?:(?<=[=^])|(?<=\de))-(?=[\d.]))+"
"""A value in a name; a minus sign is part of it before a number: ``-0.5``, ``1e-05``, ``depth^-1``."""
_GIVEN = rf"-([a-z_]+)=({'|'.join(word for word in WORDS if '-' in word)}|{_VALUE})"
"""A part of a name such as ``-norm=none``."""


@dataclass(frozen=True)
class NamedNet:
    """A net and the images it is for."""

    config: ModelConfig
    size: int
    """Side of an image, pixels."""
    classes: int

    @property
    def name(self) -> str:
        """Kind, depth, and what else does not follow from them: ``residual-56-B``, ``plain-20-width=8``."""
        needed = _needed_fields(self.config)
        variant = f"{self.config.variant}/" if "variant" in needed else ""
        more = [name_part(f"model.{key}", value) for key, value in needed.items() if key not in _ALWAYS]
        return "-".join([variant + self.config.kind, str(self.config.depth), *more])


def parse_net(name: str, settings: list[str], size: int | None = None) -> NamedNet:
    """The net with this name, ``[imagenet/]KIND-DEPTH[-WORD...]``; a word is a value of a field of ModelConfig, or
    ``field=value``.

    `settings` change fields of its model; `size` is the side of the images, by default the paper's. Raises UserError
    with one line for every mistake.
    """
    parts = re.fullmatch(r"(?:([a-z]+)/)?([a-z]+)-(\d{1,5})(-.+)?", name)
    if parts is None:
        raise UserError(
            f"{name}: not the name of a net; expected KIND-DEPTH or KIND-DEPTH-WORD, such as plain-20, "
            "preact-164-bottleneck or imagenet/residual-34-B"
        )
    variant, kind, depth, rest = parts.groups("")
    given = re.findall(_GIVEN, rest)
    settings = [*(f"model.{field}={_mapping(value)}" for field, value in given), *settings]
    model: dict[str, Any] = {"kind": kind, "depth": int(depth), **({"variant": variant} if variant else {})}
    for word in _split(name, re.sub(_GIVEN, "", rest)):
        field = WORDS[word]
        if field in model:
            raise UserError(f"{name}: {model[field]} and {word} are both its {field}; keep one")
        model[field] = word
    document = yaml_file.overridden(Document({"model": model}, {(): name, ("model",): name}), settings)
    config = validated(_Named, document).model
    return _checked(NamedNet(config, size or _SIDES[config.variant], CLASSES[config.variant]))


def _mapping(value: str) -> str:
    """Convert ``se+reduction=4`` to the YAML mapping of a plug-in with options; other values are returned unchanged."""
    if "=" not in value:
        return value
    name, *options = value.split("+")
    return f"{{name: {name}, {', '.join(option.replace('=', ': ', 1) for option in options)}}}"


def of_study(study: str, settings: list[str], size: int | None = None) -> list[NamedNet]:
    """The nets of a study's grid, each once, with the images of its data. Raises UserError as `study.load` does."""
    configs = [cell.config for cell in load(study, settings)[1]]
    nets = [
        NamedNet(config.model, size or _pixels(config), classes_of(config.data, config.model)) for config in configs
    ]
    return [_checked(net) for net in dict.fromkeys(nets)]


class _Named(Section):
    model: ModelConfig

    @field_validator("model")
    @classmethod
    def _params_as_width(cls, model: ModelConfig) -> ModelConfig:
        return resolved(model, CLASSES[model.variant])


def _split(name: str, rest: str) -> list[str]:
    """The words in ``-A-zero-gamma``. Raises UserError for one that is unknown."""
    known = "|".join(map(re.escape, WORDS))
    unknown = re.sub(rf"-(?:{known})(?=-|$)", "", rest)
    if unknown:
        word = unknown[1:]
        raise UserError(f"{name}: unknown word {word!r}; allowed: {', '.join(WORDS)}{hint(word, list(WORDS))}")
    return re.findall(rf"-({known})(?=-|$)", rest)


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


def _pixels(config: RunConfig) -> int:
    if isinstance(config.data, ImageNetData):
        return config.data.crop
    if config.data.resize:
        return config.data.resize
    if isinstance(config.data, ShapesData):
        return config.data.size
    return 224 if isinstance(config.data, FolderData) and config.model.variant == "imagenet" else 32


def _checked(net: NamedNet) -> NamedNet:
    if net.size < net.config.smallest_side:
        raise UserError(f"{net.name}: halves its images five times, so they need 32 pixels, got {net.size}")
    return net
