"""The optimiser and its learning rate, a pure function of the step (He et al. 2015, section 4.2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from resexp.config import TrainConfig

RUNNING_DECAY = 0.99
"""Of the moving average of the training error that ends the warm-up: about the last 100 steps."""


def learning_rate(config: TrainConfig, step: int, *, warming_up: bool) -> float:
    """The rate of update number `step`, counted from 0: `lr` times gamma for every milestone reached."""
    if warming_up and config.warmup_lr is not None:
        return config.warmup_lr
    return config.lr * config.gamma ** sum(step >= milestone for milestone in config.milestones)


class Schedule:
    """`learning_rate` where the step is counted: on the device, with the warm-up and its end."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        milestones = list(config.milestones)
        self.rate = torch.tensor(config.lr, device=device)
        """What the optimiser reads, a float32 scalar."""
        self._milestones = torch.tensor(milestones, dtype=torch.int64, device=device)
        rates = [learning_rate(config, step, warming_up=False) for step in (0, *milestones)]
        self._rates = torch.tensor(rates, device=device)
        self._warmup_rate = torch.tensor(config.warmup_lr or config.lr, device=device)
        self.warming_up = torch.tensor(config.warmup_lr is not None, device=device)
        self.running_error = torch.tensor(1.0, device=device)

    def set_rate(self, step: Tensor) -> None:
        """Set the rate of update number `step`, an int64 tensor (1,)."""
        reached = (self._milestones <= step).sum(dim=0, keepdim=True)
        rate = self._rates.index_select(0, reached).squeeze()
        if self.config.warmup_lr is not None:
            rate = torch.where(self.warming_up, self._warmup_rate, rate)
        self.rate.copy_(rate)

    def watch(self, error: Tensor) -> None:
        """End the warm-up when the running training error is low enough, for good (section 4.2, n = 18)."""
        if self.config.warmup_lr is not None:
            self.running_error.lerp_(error, 1 - RUNNING_DECAY)
            self.warming_up.logical_and_(self.running_error >= self.config.warmup_until)


def make_optimizer(config: TrainConfig, model: nn.Module, rate: Tensor) -> torch.optim.SGD:
    """SGD with momentum at `rate`; weight decay on every parameter, as in the paper's Caffe."""
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
