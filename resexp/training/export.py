"""The final weights of a run as a plain state dict, for programs that know nothing of resexp."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from resexp.config import ModelConfig
from resexp.config.model import IMAGENET
from resexp.config.study import load_run
from resexp.errors import UserError
from resexp.evaluation.given import describe
from resexp.models.resnet import to_torchvision
from resexp.runs import weights_file
from resexp.runs.checkpoint import final_weights
from resexp.runs.store import Run


def export(run: Run, to: Path, *, torchvision: bool = False) -> str:
    """Write the weights that a finished run was evaluated with: ``.pt`` for torch.load, or ``.safetensors``.

    With them goes a description; see `runs.weights_file`. `torchvision` gives the weights its names. Returns the name
    of the net, torchvision's if so. Raises UserError where the run is not finished or has no checkpoint, torchvision
    has no such net, `to` exists, or its suffix is another.
    """
    weights_file.check_new(to)
    if (run.folder / "study.json").exists():
        raise UserError(f"{run.folder}: a study folder; name one of its runs, such as {run.folder}/plain-20-.../seed0")
    if not run.config_path.exists():
        raise UserError(f"{run.folder}: not a run folder; expected a folder with a config.yaml")
    if (state := run.status().state) != "finished":
        raise UserError(f"{run.folder}: {state}, and only a finished run is exported; finish its training first")
    config = load_run(run.config_path)
    theirs = _torchvisions_name(run, config.model) if torchvision else None
    step, weights = final_weights(run)
    weights = {key: value.contiguous().clone() for key, value in weights.items()}
    description = describe(run, config, step).model_copy(update={"torchvision": theirs})
    weights_file.write(to, for_torchvision(weights) if torchvision else weights, description)
    return theirs or description.net


def for_torchvision(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict under torchvision's names, without the state of dropout's random numbers."""
    return {to_torchvision(key): value for key, value in weights.items() if ".draws." not in key}


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
        raise UserError(f"{run.folder}: torchvision has no net with {', '.join(odd)}; leave --torchvision out")
    return f"{'vgg' if model.kind == 'vgg' else 'resnet'}{model.depth}"
