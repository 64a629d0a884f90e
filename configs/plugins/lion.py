"""An optimiser and a schedule of your own: Lion (Chen et al. 2023, arXiv 2302.06675) with a linear decay."""

import torch

from resexp.config import Section
from resexp.config.plugins import register


class Options(Section):
    """What a study may choose."""

    beta: float = 0.99


@register("optimizer", "lion", Options)
class Lion(torch.optim.Optimizer):
    """The sign of a mean of gradients. `train.momentum` is its first beta."""

    def __init__(self, parameters, rate, train, beta=0.99):
        super().__init__(parameters, {"lr": rate})
        self.momentum, self.decay, self.beta = train.momentum, train.weight_decay, beta

    @torch.no_grad()
    def step(self, closure=None):
        for group in self.param_groups:
            for parameter in group["params"]:
                state, gradient = self.state[parameter], parameter.grad
                mean = state.setdefault("mean", torch.zeros_like(parameter))
                update = gradient.lerp(mean, self.momentum).sign_()
                parameter.mul_(1 - group["lr"] * self.decay).sub_(group["lr"] * update)
                mean.lerp_(gradient, 1 - self.beta)


@register("schedule", "linear")
def linear(step, steps):
    """A factor of the rate that goes from 1 to 0."""
    return 1 - step / steps
