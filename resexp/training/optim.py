"""The optimiser and its learning rate (He et al. 2015, section 4.2).

The rate is a pure function of the step, except where errors lower it (`plateau`) or end the warm-up.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from resexp.config import TrainConfig
from resexp.config.plugins import PluginRef, find_plugin
from resexp.errors import UserError
from resexp.runs.checkpoint import fits

MOVING_DECAY = 0.99
"""Decay of the moving average of the training error that ends the warm-up: about the last 100 steps."""
NEVER = 2**62
"""A step that no run reaches."""


class Schedule:
    """The learning rate, and when its warm-up ends. On the device, `set_rate` computes the values of `rate_at` from a
    step counter there."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        """`config` comes from `TrainConfig.for_depth`."""
        assert isinstance(config.lr, float)
        self.config = config
        self.milestones = list(config.milestones)
        """Steps at which the rate is lowered; with `plateau`, those found so far."""
        self.rate = torch.tensor(config.lr, device=device)
        """What the optimiser reads, a float32 scalar."""
        drops = config.max_lr_drops if config.schedule == "plateau" else len(self.milestones)
        self._milestones = torch.full((drops,), NEVER, dtype=torch.int64, device=device)
        self._rates = torch.tensor([config.lr * config.gamma**number for number in range(drops + 1)], device=device)
        self._table: Tensor | None = None
        """The rate of every step; None where milestones lower it."""
        if config.schedule not in ("milestones", "plateau"):
            rates = [self.rate_at(step, warming_up=False) for step in range(config.steps)]
            self._table = torch.tensor(rates, device=device)
        self._warmup_rate = torch.tensor(config.warmup_lr or config.lr, device=device)
        self.warming_up = torch.tensor(config.warmup_lr is not None, device=device)
        self.moving_error = torch.tensor(1.0, device=device)
        """Moving average of the errors of the batches."""
        self._least, self._stale = math.inf, 0
        self._copy_milestones()

    def _copy_milestones(self) -> None:
        self._milestones[: len(self.milestones)] = torch.tensor(self.milestones, dtype=torch.int64)

    def rate_at(self, step: int, *, warming_up: bool) -> float:
        """The rate of update number `step`, counted from 0.

        Raises UserError if a plug-in's factor on the rate is no finite number >= 0.
        """
        config = self.config
        if warming_up and config.warmup_lr is not None:
            return config.warmup_lr
        assert isinstance(config.lr, float)
        ramp = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
        if isinstance(config.schedule, PluginRef):
            plugin = find_plugin("schedule", config.schedule)
            factor = plugin.make(step, config.steps, **dict(config.schedule.options))
            if not isinstance(factor, Real) or not 0 <= float(factor) < math.inf:
                raise UserError(
                    f"{plugin.path}: schedule {plugin.name}: factor {factor!r} at step {step}; return a number >= 0"
                )
        elif config.schedule == "cosine":
            factor = 0.5 * (1 + math.cos(math.pi * step / config.steps))
        else:  # a constant rate has no milestones
            factor = config.gamma ** sum(step >= milestone for milestone in self.milestones)
        return float(ramp * config.lr * factor)

    def set_rate(self, step: Tensor) -> None:
        """Set the rate of update number `step`, an int64 tensor (1,)."""
        if self._table is not None:
            rate = self._table.index_select(0, step).squeeze()
        else:
            reached = (self._milestones <= step).sum(dim=0, keepdim=True)
            rate = self._rates.index_select(0, reached).squeeze()
            if self.config.warmup_steps:
                rate = rate * ((step + 1) / self.config.warmup_steps).clamp(max=1).squeeze()
        if self.config.warmup_lr is not None:
            rate = torch.where(self.warming_up, self._warmup_rate, rate)
        self.rate.copy_(rate)

    def observe_error(self, error: float, step: int) -> bool:
        """Take in the error of an evaluation after `step` updates. Returns whether the rate is to be lowered now.

        Section 3.4. Never during a warm-up, which has a rate of its own."""
        if self.config.schedule != "plateau" or len(self.milestones) == self.config.max_lr_drops:
            return False
        if self.warming_up or step < (self.config.warmup_steps or 0):
            return False
        self._stale = 0 if error < self._least else self._stale + 1
        self._least = min(error, self._least)
        if self._stale < self.config.patience:
            return False
        self._stale = 0
        return True

    def add_milestone(self, step: int) -> None:
        """A milestone: from update number `step` on the rate is lower."""
        self.milestones.append(step)
        self._copy_milestones()

    def state(self) -> dict[str, Any]:
        """What a continuation needs."""
        return {
            "warming_up": bool(self.warming_up),
            "running_error": self.moving_error.item(),  # an earlier name; not what records.running_error computes
            "milestones": self.milestones,
            "least_error": self._least,
            "stale": self._stale,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Restore what `state` returned."""
        self.warming_up.fill_(state["warming_up"])
        self.moving_error.fill_(state["running_error"])
        if self.config.schedule == "plateau":
            self.milestones, self._least, self._stale = state["milestones"], state["least_error"], state["stale"]
            self._copy_milestones()

    def update_warmup(self, error: Tensor) -> None:
        """Take in a batch's error. Ends the warm-up, for good, when the moving average is low enough (section 4.2)."""
        if self.config.warmup_lr is not None:
            self.moving_error.lerp_(error, 1 - MOVING_DECAY)
            self.warming_up.logical_and_(self.moving_error >= self.config.warmup_until_error)


MUON_MOMENTUM = 0.95
"""Momentum of convolutions; all else has that of the study."""
MUON_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic that brings all singular values near 1."""
MUON_ITERATIONS = 5


def orthogonalise(matrix: Tensor) -> Tensor:
    """Approximate U V^T of a matrix U S V^T, (m, n): the singular values end between 0.7 and 1.2.

    Newton-Schulz iterations in float32.
    """
    a, b, c = MUON_COEFFICIENTS
    x = matrix.float()
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / x.norm().clamp(min=1e-7)
    for _ in range(MUON_ITERATIONS):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    found: Tensor = x if wide else x.T
    return found


class Muon(torch.optim.Optimizer):
    """Orthogonalised momentum for convolutions, as matrices (out, in * k * k); SGD with Nesterov momentum for all else.

    After Jordan et al. 2024, "Muon: An optimizer for hidden layers"; torch.optim.Muon takes matrices only. Weight decay
    is decoupled for convolutions. The rate of a matrix (m, n) is multiplied by sqrt(max(1, m / n)). `make_optimizer`
    makes the buffers. The step reads nothing on the host, so it can be captured as a CUDA graph.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: Tensor, momentum: float, weight_decay: float) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            rate, momentum, decay = group["lr"], group["momentum"], group["weight_decay"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                buffer = self.state[parameter]["momentum_buffer"]
                gradient = parameter.grad
                if parameter.ndim == 4:
                    buffer.lerp_(gradient, 1 - MUON_MOMENTUM)
                    rows, columns = parameter.shape[0], parameter[0].numel()
                    update = orthogonalise(gradient.lerp(buffer, MUON_MOMENTUM).flatten(1)).view_as(parameter)
                    parameter.mul_(1 - rate * decay)
                    parameter.sub_(rate * math.sqrt(max(1, rows / columns)) * update)
                else:
                    gradient = gradient + decay * parameter
                    buffer.mul_(momentum).add_(gradient)
                    parameter.sub_(rate * (gradient + momentum * buffer))


STATE = {"sgd": {"momentum_buffer"}, "adamw": {"step", "exp_avg", "exp_avg_sq"}}
"""What a built-in optimiser keeps of each parameter."""


def make_optimizer(config: TrainConfig, model: nn.Module, rate: Tensor) -> torch.optim.Optimizer:
    """The optimiser at `rate`; weight decay on every parameter, which is Caffe's default."""
    parameters, chosen = list(model.parameters()), config.optimizer
    if isinstance(chosen, PluginRef):
        plugin = find_plugin("optimizer", chosen)
        made = plugin.make(parameters, rate, config, **dict(chosen.options))
        if not isinstance(made, torch.optim.Optimizer):
            raise UserError(
                f"{plugin.path}: optimizer {plugin.name}: returns a {type(made).__name__}, not an Optimizer"
            )
        return made
    momentum, decay, fused = config.momentum, config.weight_decay, rate.is_cuda
    if chosen == "adamw":
        betas = (momentum, 0.999)
        return torch.optim.AdamW(parameters, lr=rate, betas=betas, weight_decay=decay, fused=fused, capturable=fused)
    optimizer: torch.optim.Optimizer
    if chosen == "muon":
        optimizer = Muon(parameters, rate, momentum, decay)
    else:
        nesterov = chosen == "nesterov"
        optimizer = torch.optim.SGD(parameters, rate, momentum, weight_decay=decay, nesterov=nesterov, fused=fused)
    # The fused kernel makes its momentum in the first step, and leaves it unwritten where fp16 overflows in that step.
    for parameter in parameters:
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def load_optimizer(optimizer: torch.optim.Optimizer, saved: dict[str, Any], *, is_plugin: bool) -> None:
    """Continue from a state_dict(). The groups stay ours: loaded ones would have copies of the rate, which `Schedule`
    does not write. A plug-in may keep anything else in its groups, too."""
    groups = optimizer.param_groups
    optimizer.load_state_dict(saved if is_plugin else {**optimizer.state_dict(), "state": saved["state"]})
    if is_plugin:
        for old, new in zip(groups, optimizer.param_groups, strict=True):
            old.update({key: value for key, value in new.items() if key != "lr"})
    optimizer.param_groups = groups


def is_optimizer_state(config: TrainConfig, kept: Any, parameters: list[nn.Parameter]) -> bool:
    """Whether `kept`, from a checkpoint, has the form of this optimiser's state: {parameter index: {name: tensor}} with
    matching shapes."""
    if not isinstance(kept, dict) or not all(isinstance(of_one, dict) for of_one in kept.values()):
        return False
    names = STATE["adamw" if config.optimizer == "adamw" else "sgd"]
    for number, of_one in kept.items():
        if number not in range(len(parameters)):
            return False
        for name, value in of_one.items():
            like = torch.tensor(0.0) if name == "step" else parameters[number]
            if name not in names or not (value is None or fits(value, like)):
                return False
    return True
