"""What blocks are made of: convolutions, what follows them, and random numbers that a device counts by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp.config import ModelConfig


class BatchNorm(nn.BatchNorm2d):
    """BN that does not count batches: averages of fixed momentum don't need it, and it is one more kernel a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return F.batch_norm(
            x,
            self.running_mean,
            self.running_var,
            self.weight,
            self.bias,
            self.training,
            self.momentum or 0.0,
            self.eps,
        )


class Scalar(nn.Module):
    """A learned number that all of x is multiplied by, or that is added to it."""

    def __init__(self, begin: float, *, multiply: bool) -> None:
        super().__init__()
        self.value, self.multiply = nn.Parameter(torch.full((1,), begin)), multiply

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)."""
        return x * self.value if self.multiply else x + self.value


def norm(config: ModelConfig, channels: int) -> nn.Module:
    """What follows a convolution of `channels` filters."""
    norms: dict[str, Callable[[], nn.Module]] = {
        "batch": lambda: BatchNorm(channels),
        "none": nn.Identity,
        "fixup": lambda: Scalar(0.0, multiply=False),
    }
    return norms[config.norm]()


def weighted(config: ModelConfig, layer: nn.Module) -> nn.Module:
    """A convolution or a fully connected layer; Fixup adds a learned scalar to its input."""
    return nn.Sequential(Scalar(0.0, multiply=False), layer) if config.norm == "fixup" else layer


def conv(config: ModelConfig, size: int, channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
    """A convolution of `size` x `size` that keeps height and width (stride 1) or halves them (stride 2); it has a bias
    only where nothing else adds one."""
    bias = config.norm == "none"
    return weighted(config, nn.Conv2d(channels_in, channels_out, size, stride, padding=size // 2, bias=bias))


class Draws(nn.Module):
    """Uniform random numbers in [0, 1) by counting: the same in every run of a seed, however often it is interrupted.

    The n-th call is a hash of n (SplitMix64, Steele et al. 2014), computed on the device; so a step that draws can be
    replayed as a CUDA graph, and runs that take turns in one process don't share a generator.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("key", torch.randint(2**62, (1,)))
        self.register_buffer("calls", torch.zeros(1, dtype=torch.int64))
        self.key: Tensor
        self.calls: Tensor
        self.register_load_state_dict_pre_hook(_keep_draws)  # type: ignore[no-untyped-call]

    def forward(self, like: Tensor) -> Tensor:
        """Numbers of the shape of `like`, float32."""
        counter = self.calls * like.numel() + torch.arange(1, like.numel() + 1, device=like.device)
        self.calls += 1
        z = self.key + counter * -7046029254386353131
        z = (z ^ _shifted(z, 30)) * -4658895280553007687
        z = (z ^ _shifted(z, 27)) * -7723592293110705685
        return ((_shifted(z ^ _shifted(z, 31), 40)).float() / 2**24).view(like.shape)


def _keep_draws(draws: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Weights of another library come without a place in our random numbers: it stays as it is."""
    for name, buffer in draws.named_buffers():
        state.setdefault(prefix + name, buffer)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """An int64 shifted right as if it had no sign."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


class StochasticDepth(nn.Module):
    """Leaves a branch out of a step, for the whole batch; in eval mode it is weighted by how often it was there
    (Huang et al. 2016, arXiv 1603.09382)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.draws = rate, Draws()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training:
            return x * (1 - self.rate)
        kept: Tensor = self.draws(x[:1, :1, :1, :1]) >= self.rate
        return x * kept.to(x.dtype)


class Dropout(nn.Module):
    """Zeroes each number with probability `rate` and scales up the others; nothing in eval mode."""

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.rate, self.draws = rate, Draws()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) -> (B, C)."""
        if not self.training:
            return x
        kept: Tensor = self.draws(x) >= self.rate
        return x * kept.to(x.dtype) / (1 - self.rate)


def he_init(model: nn.Module) -> None:
    """He initialisation of all convolutions and fully connected layers (arXiv 1502.01852); biases are zero."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
