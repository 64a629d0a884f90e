"""The optimiser and its learning rate, a pure function of the step (He et al. 2015, section 4.2)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from resexp.config import TrainConfig

RUNNING_DECAY = 0.99
"""Decay of the moving average of the training error that ends the warm-up: about the last 100 steps."""
NEVER = 2**62
"""A step that no run reaches."""


def learning_rate(config: TrainConfig, step: int, *, warming_up: bool, found: Sequence[int] | None = None) -> float:
    """The rate of update number `step`, counted from 0: `lr` times gamma for every milestone reached.

    They are those of `config`, or those `found` in training; see `Schedule.is_plateau`.
    """
    if warming_up and config.warmup_lr is not None:
        return config.warmup_lr
    return config.lr * config.gamma ** sum(step >= milestone for milestone in found or config.milestones)


class Schedule:
    """`learning_rate` where the step is counted: on the device, with the warm-up and its end."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        self.milestones = list(config.milestones)
        """Steps at which the rate goes down, as far as they are known."""
        self.rate = torch.tensor(config.lr, device=device)
        """What the optimiser reads, a float32 scalar."""
        places = config.max_lr_drops if config.schedule == "plateau" else len(self.milestones)
        self._milestones = torch.full((places,), NEVER, dtype=torch.int64, device=device)
        self._rates = torch.tensor([config.lr * config.gamma**drops for drops in range(places + 1)], device=device)
        self._warmup_rate = torch.tensor(config.warmup_lr or config.lr, device=device)
        self.warming_up = torch.tensor(config.warmup_lr is not None, device=device)
        self.running_error = torch.tensor(1.0, device=device)
        self._least, self._stale = math.inf, 0
        self._place()

    def _place(self) -> None:
        self._milestones[: len(self.milestones)] = torch.tensor(self.milestones, dtype=torch.int64)

    def at(self, step: int, *, warming_up: bool) -> float:
        """The rate of update number `step`."""
        return learning_rate(self.config, step, warming_up=warming_up, found=self.milestones)

    def set_rate(self, step: Tensor) -> None:
        """Set the rate of update number `step`, an int64 tensor (1,)."""
        reached = (self._milestones <= step).sum(dim=0, keepdim=True)
        rate = self._rates.index_select(0, reached).squeeze()
        if self.config.warmup_lr is not None:
            rate = torch.where(self.warming_up, self._warmup_rate, rate)
        self.rate.copy_(rate)

    def is_plateau(self, error: float) -> bool:
        """Whether the error of an evaluation shows a plateau at which the rate is to be lowered (section 3.4)."""
        if self.config.schedule != "plateau" or len(self.milestones) == self.config.max_lr_drops:
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
        self._place()

    def state(self) -> dict[str, Any]:
        """What a continuation needs."""
        return {
            "warming_up": bool(self.warming_up),
            "running_error": self.running_error.item(),
            "milestones": self.milestones,
            "least_error": self._least,
            "stale": self._stale,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned; the first runs had no plateaus."""
        self.warming_up.fill_(state["warming_up"])
        self.running_error.fill_(state["running_error"])
        if self.config.schedule == "plateau":
            self.milestones, self._least, self._stale = state["milestones"], state["least_error"], state["stale"]
            self._place()

    def update_warmup(self, error: Tensor) -> None:
        """End the warm-up when the running training error is low enough, for good (section 4.2, n = 18)."""
        if self.config.warmup_lr is not None:
            self.running_error.lerp_(error, 1 - RUNNING_DECAY)
            self.warming_up.logical_and_(self.running_error >= self.config.warmup_until_error)


def make_optimizer(config: TrainConfig, model: nn.Module, rate: Tensor) -> torch.optim.SGD:
    """SGD with momentum at `rate`; weight decay on every parameter, which is Caffe's default."""
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=rate,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=rate.is_cuda,
    )
    # The fused kernel makes its momentum in the first step, and leaves it unwritten where fp16 overflows in that step.
    for parameter in model.parameters():
        optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer
