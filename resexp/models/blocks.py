"""The building block, with and without its shortcut, and the three shortcuts (He et al. 2015, section 3)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


def conv3x3(channels_in: int, channels_out: int, stride: int = 1) -> nn.Conv2d:
    """A 3x3 convolution that keeps the size (stride 1) or halves it (stride 2); BN follows, so it has no bias."""
    return nn.Conv2d(channels_in, channels_out, 3, stride, padding=1, bias=False)


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


class ZeroPadShortcut(nn.Module):
    """Option A: every `stride`-th pixel, zeros for the new channels; no parameters."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.new_channels = stride, channels_out - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C + new, H/stride, W/stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


def projection(channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """Options B and C: a 1x1 convolution and BN."""
    return nn.Sequential(nn.Conv2d(channels_in, channels_out, 1, stride, bias=False), BatchNorm(channels_out))


def make_shortcut(option: str, channels_in: int, channels_out: int, stride: int) -> nn.Module:
    """The shortcut of one block under option "A", "B" or "C"."""
    same = stride == 1 and channels_in == channels_out
    if option == "C" or (option == "B" and not same):
        return projection(channels_in, channels_out, stride)
    return nn.Identity() if same else ZeroPadShortcut(channels_in, channels_out, stride)


class Block(nn.Module):
    """Two 3x3 convolutions, each followed by BN: y = relu(F(x)), or y = relu(F(x) + shortcut(x)).

    `shortcut` is None for a plain net, else "A", "B" or "C". Maps (B, channels_in, H, W) to
    (B, channels_out, H/stride, W/stride).
    """

    def __init__(self, channels_in: int, channels_out: int, stride: int, shortcut: str | None) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels_in, channels_out, stride)
        self.bn1 = BatchNorm(channels_out)
        self.conv2 = conv3x3(channels_out, channels_out)
        self.bn2 = BatchNorm(channels_out)
        self.shortcut = make_shortcut(shortcut, channels_in, channels_out, stride) if shortcut else None

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) -> (B, channels_out, H/stride, W/stride)."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        if self.shortcut is not None:  # the whole difference between a plain and a residual net
            y = y + self.shortcut(x)
        return F.relu(y)
