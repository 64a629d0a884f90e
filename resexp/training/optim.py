"""The optimiser and its learning rate, a pure function of the step (He et al. 2015, section 4.2)."""

from __future__ import annotations

import torch
from torch import nn

from resexp.config import TrainConfig


def learning_rate(config: TrainConfig, step: int, *, warming_up: bool) -> float:
    """The rate of update number `step`, counted from 0: `lr` times gamma for every milestone reached."""
    if warming_up and config.warmup_lr is not None:
        return config.warmup_lr
    return config.lr * config.gamma ** sum(step >= milestone for milestone in config.milestones)


def make_optimizer(config: TrainConfig, model: nn.Module, device: torch.device) -> torch.optim.SGD:
    """SGD with momentum; weight decay on every parameter, as in the paper's Caffe."""
    return torch.optim.SGD(
        model.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        fused=device.type == "cuda",
    )
