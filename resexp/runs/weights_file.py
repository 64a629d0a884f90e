"""Files of weights for other programs: a plain state dict, and what its net is and takes.

A ``.safetensors`` file has the description in its metadata, under ``resexp``. A ``.pt`` file has it in a JSON file of
the same name, next to it.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import AfterValidator, Field, ValidationError, ValidationInfo, field_validator
from torch import Tensor

from resexp.config.train import WEIGHTS
from resexp.errors import UserError, sanitize
from resexp.runs.checkpoint import is_plain, load_stored
from resexp.utils.files import write_atomic
from resexp.utils.untrusted import Count, JsonRecord, first_mistake, read_file

MAX_BYTES = 1 << 34
MAX_DESCRIPTION = 1 << 30
"""Bytes of a description: a mean image of 4,096 pixels a side has 600 MB."""

Side = Annotated[int, Field(ge=1, le=4096)]


class Description(JsonRecord):
    """The net of a file of weights, and the images that it takes: (N, 3, H, W), RGB in [0, 1], less `mean`."""

    resexp: str
    """The version that wrote the file."""
    net: str
    """Name of the net, such as ``residual-20-B``."""
    plugins: dict[str, str] = Field(default_factory=dict)
    """The digest of each plug-in in the net, by its name."""
    torchvision: str | None = None
    """The net of torchvision.models that takes the weights, if they have its names."""
    classes: list[Annotated[str, AfterValidator(sanitize)]] = Field(default_factory=list)
    """Names of the classes in the order of the logits; empty if unknown."""
    size: tuple[Side, Side] | None = None
    """Height and width of the images."""
    mean: list[float] | list[list[list[float]]] | None = None
    """Mean of the training images: per channel (3,), or per pixel (H, W, 3). None if unknown."""
    val_resize: Side | None = None
    """Side to which the shorter side of an image is resized before its centre is cropped. None: no crop."""
    data: dict[str, Any] = Field(default_factory=dict)
    """The `data` section of the run, without paths."""
    signature: str = ""
    seed: Count = 0
    step: Count = 0
    test_error: float | None = None
    """Fraction in [0, 1]."""

    @field_validator("mean")
    @classmethod
    def _of_such_images(cls, mean: Any, info: ValidationInfo) -> Any:
        if mean is not None and (shape := np.asarray(mean, np.float32).shape) != (3,):  # ragged lists raise ValueError
            size = info.data.get("size")
            if size is None or shape != (*size, 3):
                raise ValueError(f"a mean of the shape {shape} for images of {size}")
        return mean

    @property
    def mean_image(self) -> NDArray[np.float32]:
        """The mean of every pixel, (H, W, 3); for files that know it and the size."""
        assert self.size is not None
        return np.broadcast_to(np.asarray(self.mean, np.float32), (*self.size, 3)).copy()


@dataclass(frozen=True)
class WeightsFile:
    """What a file of weights holds."""

    weights: dict[str, Tensor]
    sha256: str
    description: Description | None
    """None if nothing but weights was found."""


def check_new(to: Path) -> None:
    """Raise UserError unless `to` is the name of a new file of weights."""
    if to.suffix not in WEIGHTS:
        raise UserError(f"{to}: unknown suffix {to.suffix!r}; allowed: {', '.join(WEIGHTS)}")
    for path in (to, to.with_suffix(".json")) if to.suffix == ".pt" else (to,):
        if path.exists() or path.is_symlink():
            raise UserError(f"{path}: exists already, and is left as it is; name another file")


def write(to: Path, weights: dict[str, Tensor], description: Description) -> None:
    """Write a file that `check_new` allows, and the description with it."""
    text = description.model_dump_json(exclude_defaults=True)
    if to.suffix == ".safetensors":
        try:
            from safetensors.torch import save
        except ImportError:
            raise UserError(f"{to}: needs safetensors: pip install 'resexp[export]'; or name a .pt file") from None
        write_atomic(to, bytes(save(weights, {"format": "pt", "resexp": text})))
        return
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    write_atomic(to.with_suffix(".json"), text)
    write_atomic(to, buffer.getvalue())


def read(path: Path) -> WeightsFile:
    """Read a file that `write` wrote, or another state dict. Raises FileNotFoundError, or UserError for all else."""
    content = read_file(path, MAX_BYTES)
    text: str | bytes | None = None
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            weights = load(content)
            header = content[8 : 8 + int.from_bytes(content[:8], "little")]  # JSON, behind its length
            text = json.loads(header).get("__metadata__", {}).get("resexp")
        else:
            weights = load_stored(content, torch.device("cpu"))
            if not isinstance(weights, dict) or not all(isinstance(k, str) and is_plain(v) for k, v in weights.items()):
                raise ValueError("no dictionary of tensors by name")
    except ImportError:
        raise UserError(f"{path}: needs safetensors: pip install 'resexp[export]'") from None
    except Exception as error:  # readers raise what they like at files that were made to break them
        reason = str(error).partition("\n")[0]
        expected = "expected a state dict, such as resexp export writes"
        raise UserError(f"{path}: not a file of weights ({reason}); {expected}") from None
    described = path.with_suffix(".json")
    if path.suffix != ".safetensors" and described.exists():
        text = read_file(described, MAX_DESCRIPTION)
    try:
        description = None if text is None else Description.model_validate_json(text)
    except ValidationError as error:
        raise UserError(f"{path}: its description is damaged ({first_mistake(error)}); export it again") from None
    return WeightsFile(weights, hashlib.sha256(content).hexdigest(), description)
