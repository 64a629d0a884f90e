"""What blocks are made of: convolutions, norms, nonlinearities, and a random generator that runs on the device."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp.config import ModelConfig
from resexp.config.plugins import PluginRef, Role, find_plugin
from resexp.distributed import SINGLE_PROCESS, Ranks, all_gather

BN_MOMENTUM = 0.1
"""Weight of a new batch in BN's moving averages; PyTorch's default."""


class BatchNorm(nn.BatchNorm2d):
    """BatchNorm2d that leaves `num_batches_tracked` at 0: a fixed momentum does not need the count, and counting costs
    one more kernel per layer."""

    ranks: Ranks = SINGLE_PROCESS
    """The ranks over whose images the statistics are computed; set by `batch_over_ranks`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if self.training and self.ranks.world_size > 1:
            return self._across(x)
        averages, momentum = (self.running_mean, self.running_var), self.momentum or 0.0
        return F.batch_norm(x, *averages, self.weight, self.bias, self.training, momentum, self.eps)

    def _across(self, x: Tensor) -> Tensor:
        """As in training, over the images of all ranks; each has equally many.

        nn.SyncBatchNorm is for CUDA only. It would wait for all ranks where rank 0 trains a copy by itself, in a probe.
        """
        images = x.float()
        own = torch.stack(torch.var_mean(images, (0, 2, 3), correction=0))
        variances, means = all_gather(own, self.ranks).unbind(1)
        mean = means.mean(0)
        variance = (variances + (means - mean) ** 2).mean(0)
        count = self.ranks.world_size * x.numel() // x.shape[1]
        with torch.no_grad():
            assert self.running_mean is not None
            assert self.running_var is not None
            self.running_mean.lerp_(mean, self.momentum or 0.0)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum or 0.0)
        scale = self.weight * (variance + self.eps).rsqrt()
        y = (images - mean[:, None, None]) * scale[:, None, None] + self.bias[:, None, None]
        return y.to(x.dtype)


@contextlib.contextmanager
def averaging_bn(model: nn.Module) -> Iterator[Callable[[int], None]]:
    """While it is open, BN's averages become mean and variance over all images that pass through the net. All other
    layers are in eval mode. Call what it gives with the size of each batch, before the batch."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta, images = [norm.momentum for norm in norms], 0
    model.eval()
    for norm in norms:
        norm.train().reset_running_stats()

    def expect(batch: int) -> None:
        nonlocal images
        images += batch
        for norm in norms:
            norm.momentum = batch / images

    try:
        yield expect
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.eval().momentum = momentum


class LearnedScalar(nn.Module):
    """A learned scalar, multiplied with x or added to it."""

    def __init__(self, begin: float, *, multiply: bool) -> None:
        super().__init__()
        self.value, self.multiply = nn.Parameter(torch.full((1,), begin)), multiply

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)."""
        return x * self.value if self.multiply else x + self.value


class ConstantScale(nn.Module):
    """A constant factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)."""
        return x * self.factor


def from_plugin(role: Role, chosen: PluginRef, *arguments: Any) -> Any:
    """What the plug-in of `role` makes of these arguments and of the study's options."""
    return find_plugin(role, chosen).make(*arguments, **dict(chosen.options))


def norm(config: ModelConfig, channels: int) -> nn.Module:
    """The normalisation layer after a convolution with `channels` filters."""
    if isinstance(config.norm, PluginRef):
        return from_plugin("norm", config.norm, channels)  # type: ignore[no-any-return]
    norms: dict[str, Callable[[], nn.Module]] = {
        "batch": lambda: BatchNorm(channels),
        "group": lambda: nn.GroupNorm(groups(channels), channels),
        "layer": lambda: nn.GroupNorm(1, channels),
        "none": nn.Identity,
        "fixup": lambda: LearnedScalar(0.0, multiply=False),
    }
    return norms[config.norm]()


GROUP = 8
"""Smallest number of channels per group of `norm: group`."""


def groups(channels: int) -> int:
    """The largest number of equal groups with at least GROUP channels each; 1 if there is none."""
    return next(count for count in range(max(1, channels // GROUP), 0, -1) if channels % count == 0)


def with_fixup_bias(config: ModelConfig, layer: nn.Module) -> nn.Module:
    """A convolution or a fully connected layer; Fixup adds a learned scalar to its input."""
    return nn.Sequential(LearnedScalar(0.0, multiply=False), layer) if config.norm == "fixup" else layer


class NarrowPointwise(nn.Conv2d):
    """A 1x1 convolution of few channels and stride 2, computed as one of stride 1 on every second pixel.

    On CPUs with AVX2 and without AVX-512, oneDNN's backward pass of the strided one writes past a buffer if the layout
    is channels_last and x has fewer than `SAFE` channels (3.13, in PyTorch 2.15). That corrupts or kills the process.
    """

    SAFE = 8

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C', H/2, W/2)."""
        vertical, horizontal = self.stride
        return F.conv2d(x[:, :, ::vertical, ::horizontal], self.weight, self.bias)


def conv(config: ModelConfig, size: int, channels_in: int, channels_out: int, stride: int = 1) -> nn.Module:
    """A convolution of `size` x `size` that keeps height and width (stride 1) or halves them (stride 2); it has a bias
    only where nothing else adds one."""
    narrow = size == 1 and stride > 1 and channels_in < NarrowPointwise.SAFE
    layer, bias = NarrowPointwise if narrow else nn.Conv2d, config.norm == "none"
    return with_fixup_bias(config, layer(channels_in, channels_out, size, stride, padding=size // 2, bias=bias))


class CounterRandom(nn.Module):
    """A counter-based generator of uniform numbers in [0, 1), the same after an interruption.

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

    def forward(self, like: Tensor, number: Tensor | None = None) -> Tensor:
        """Random float32 numbers of the shape of `like`. `number`, int64, selects the draw; default: the next one."""
        first = (self.calls if number is None else number) * like.numel()
        counter = first + torch.arange(1, like.numel() + 1, device=like.device)
        self.calls += 1
        z = self.key + counter * -7046029254386353131
        z = (z ^ _shifted(z, 30)) * -4658895280553007687
        z = (z ^ _shifted(z, 27)) * -7723592293110705685
        return ((_shifted(z ^ _shifted(z, 31), 40)).float() / 2**24).view(like.shape)


def _keep_draws(draws: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """Keep the generator's own state when a state dict (for example torchvision's) lacks it."""
    for name, buffer in draws.named_buffers():
        state.setdefault(prefix + name, buffer)


def _shifted(z: Tensor, bits: int) -> Tensor:
    """Logical (unsigned) right shift of an int64."""
    return (z >> bits) & ((1 << (64 - bits)) - 1)


class StochasticDepth(nn.Module):
    """Drops the branch for the whole batch with probability `rate`; in eval mode scales it by 1 - rate
    (Huang et al. 2016, arXiv 1603.09382)."""

    parts = 1
    """Calls for one batch: the microbatches of a rank."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate, self.draws = rate, CounterRandom()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        if not self.training:
            return x * (1 - self.rate)
        kept: Tensor = self.draws(x[:1, :1, :1, :1], self.draws.calls // self.parts) >= self.rate
        return x * kept.to(x.dtype)


class Dropout(nn.Module):
    """Zeroes each number with probability `rate` and scales up the others; nothing in eval mode."""

    ranks: Ranks = SINGLE_PROCESS
    """Ranks that share the batch; see `batch_over_ranks`."""
    parts = 1
    """Calls for one batch: the microbatches of a rank."""

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        self.rate, self.draws = rate, CounterRandom()

    def forward(self, x: Tensor) -> Tensor:
        """(B, C) -> (B, C)."""
        if not self.training:
            return x
        batch, part = self.draws.calls // self.parts, self.draws.calls % self.parts
        number = (batch * self.ranks.world_size + self.ranks.rank) * self.parts + part  # that one process would use
        kept: Tensor = self.draws(x, number) >= self.rate
        return x * kept.to(x.dtype) / (1 - self.rate)


@contextlib.contextmanager
def batch_over_ranks(ranks: Ranks, modules: Iterable[BatchNorm | Dropout]) -> Iterator[None]:
    """Within the context, let these modules treat the batches of all `ranks` as one.

    Use it only where all ranks run the same code: otherwise the collective operations would wait for ever.
    """
    for module in modules:
        module.ranks = ranks
    try:
        yield
    finally:
        for module in modules:
            module.ranks = SINGLE_PROCESS


ETA = 0.9
"""Target cosine between the outputs of two orthogonal inputs (TAT, arXiv 2203.08120, section 4.1)."""


def make_activation(config: ModelConfig) -> nn.Module:
    """The nonlinearity of one place in a net."""
    chosen = config.activation
    if isinstance(chosen, PluginRef):
        return from_plugin("activation", chosen)  # type: ignore[no-any-return]
    if chosen == "tat":
        return TReLU(tailored_slope(config.depth - 1))
    known: dict[str, type[nn.Module]] = {
        "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh, "gelu": nn.GELU,
    }  # fmt: skip
    return known[chosen]()


class TReLU(nn.Module):
    """A leaky ReLU, scaled so that it keeps the second moment of a standard normal input (arXiv 2203.08120)."""

    def __init__(self, slope: float) -> None:
        super().__init__()
        self.slope, self.scale = slope, math.sqrt(2 / (1 + slope**2))

    def forward(self, x: Tensor) -> Tensor:
        """(...) -> (...)."""
        return F.leaky_relu(x, self.slope) * self.scale


def cosine_after(slope: float, cosine: float) -> float:
    """The cosine between two signals after a wide layer and a Tailored ReLU, from that before it (arXiv
    2203.08120, equation 9)."""
    angle = math.sqrt(max(0.0, 1 - cosine**2)) - cosine * math.acos(max(-1.0, min(1.0, cosine)))
    return cosine + (1 - slope) ** 2 / (math.pi * (1 + slope**2)) * angle


@functools.cache
def tailored_slope(layers: int) -> float:
    """The slope at which `layers` layers turn a cosine of 0 into ETA, by bisection: deeper nets are more linear."""

    def at_the_end(slope: float) -> float:
        cosine = 0.0
        for _ in range(layers):
            cosine = cosine_after(slope, cosine)
        return cosine

    if at_the_end(0.0) <= ETA:
        return 0.0
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if at_the_end(middle) > ETA else (low, middle)
    return (low + high) / 2
