"""The final weights of a run as a plain state dict, for programs that know nothing of resexp."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from resexp.config import ModelConfig
from resexp.config.depths import IMAGENET
from resexp.config.study import load_run
from resexp.errors import UserError
from resexp.models.resnet import to_torchvision
from resexp.runs.checkpoint import final_weights
from resexp.runs.store import Run
from resexp.utils.files import write_atomic

Names = Literal["resexp", "torchvision"]
"""Whose names the parameters and buffers get."""


def export(run: Run, to: Path, names: Names = "resexp") -> str:
    """Write the weights that a finished run was evaluated with: ``.pt`` for torch.load, or ``.safetensors``.

    Returns what the net is called under these names. Raises UserError where the run is not finished or has no
    checkpoint, torchvision has no such net, `to` exists, or its suffix is another.
    """
    if to.suffix not in (".pt", ".safetensors"):
        raise UserError(f"{to}: unknown suffix {to.suffix!r}; allowed: .pt, .safetensors")
    if to.exists() or to.is_symlink():
        raise UserError(f"{to}: exists already, and is left as it is; name another file")
    if (run.folder / "study.json").exists():
        raise UserError(f"{run.folder}: a study folder; name one of its runs, such as {run.folder}/plain-20-.../seed0")
    if not run.config_path.exists():
        raise UserError(f"{run.folder}: not a run folder; expected a folder with a config.yaml")
    if (state := run.status().state) != "finished":
        raise UserError(f"{run.folder}: {state}, and only a finished run is exported; finish its training first")
    model = load_run(run.config_path).model
    name = f"{model.kind}-{model.depth}" if names == "resexp" else _torchvisions_name(run, model)
    weights = {key: value.contiguous().clone() for key, value in final_weights(run)[1].items()}
    write_atomic(to, _packed(weights if names == "resexp" else for_torchvision(weights), to))
    return name


def for_torchvision(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under torchvision's names, without the state of dropout's random numbers."""
    return {to_torchvision(key): value for key, value in weights.items() if ".draws." not in key}


def _packed(weights: dict[str, Tensor], to: Path) -> bytes:
    if to.suffix == ".safetensors":
        try:
            from safetensors.torch import save
        except ImportError:
            raise UserError(f"{to}: needs safetensors: pip install 'resexp[export]'; or name a .pt file") from None
        return bytes(save(weights))
    buffer = io.BytesIO()
    torch.save(weights, buffer)
    return buffer.getvalue()


def _torchvisions_name(run: Run, model: ModelConfig) -> str:
    """Such as ``resnet50``. Raises UserError where torchvision has no net that computes the same."""
    if model.kind == "vgg":
        needed: dict[str, object] = {"width": 64, "norm": "none"}
    else:
        block = IMAGENET[model.depth][0] if model.depth in IMAGENET else "basic"
        needed = {"kind": "residual", "variant": "imagenet", "block": block, "width": 64, "shortcut": "B"}
        needed |= {"stride_conv": "3x3"} if block == "bottleneck" else {}
        needed |= {"norm": "batch", "drop_path": 0.0}
    odd = [f"model.{key}: {getattr(model, key)}" for key, value in needed.items() if getattr(model, key) != value]
    odd += ["model.residual_init: rezero"] if model.residual_init == "rezero" else []
    if odd:
        raise UserError(f"{run.folder}: torchvision has no net with {', '.join(odd)}; leave --names out")
    return f"{'vgg' if model.kind == 'vgg' else 'resnet'}{model.depth}"
