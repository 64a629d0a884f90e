"""The building blocks, with and without their shortcut, and the three shortcuts (He et al. 2015, section 3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from resexp.config import ModelConfig
from resexp.config.plugins import PluginRef, find_plugin
from resexp.errors import UserError
from resexp.models.layers import (
    BatchNorm,
    ConstantScale,
    LearnedScalar,
    StochasticDepth,
    conv,
    from_plugin,
    make_activation,
    norm,
)


class ZeroPad(nn.Module):
    """Every `stride`-th pixel, zeros for the new channels; no parameters."""

    def __init__(self, channels_in: int, channels_out: int, stride: int) -> None:
        super().__init__()
        self.stride, self.new_channels = stride, channels_out - channels_in

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C + new, H/stride, W/stride)."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.new_channels))


class Projection(nn.Sequential):
    """A 1x1 convolution, followed by BN, except in pre-activated blocks, where BN and ReLU come before it.

    Creating one does not advance torch's random state, so all other layers begin as they do without projections.
    """

    def __init__(self, config: ModelConfig, channels_in: int, channels_out: int, stride: int) -> None:
        with torch.random.fork_rng(devices=[]):
            layers = [conv(config, 1, channels_in, channels_out, stride)]
        super().__init__(*layers, *([] if config.kind == "preact" else [norm(config, channels_out)]))


def make_shortcut(config: ModelConfig, channels_in: int, channels_out: int, stride: int) -> nn.Module | None:
    """The shortcut of one block; None in a plain net.

    Where dimensions change, zeros (A) or a projection (B, C); elsewhere the identity (A, B) or a projection (C).
    """
    if config.shortcut is None:
        return None
    if isinstance(config.shortcut, PluginRef):
        with torch.random.fork_rng(devices=[]):
            return from_plugin("shortcut", config.shortcut, channels_in, channels_out, stride)  # type: ignore[no-any-return]
    dimensions_stay = stride == 1 and channels_in == channels_out
    if dimensions_stay and config.shortcut != "C":
        return nn.Identity()
    if config.shortcut == "A":
        return ZeroPad(channels_in, channels_out, stride)
    return Projection(config, channels_in, channels_out, stride)


@dataclass(frozen=True)
class Place:
    """Where in the net a block stands."""

    channels_in: int
    channels: int
    """Channels of the 3x3 convolutions."""
    stride: int
    number: int
    """Number of the block in the net, from 1."""
    blocks: int
    """Number of blocks in the net."""


class Block(nn.Module):
    """Two 3x3 convolutions, each followed by BN: y = relu(F(x)), or y = relu(F(x) + shortcut(x)).

    Maps (B, channels_in, H, W) to (B, expansion * channels, H/stride, W/stride). A block of your own derives from it
    and overrides `make_branch`, which also gets the options of the study, and `branch`.
    """

    expansion = 1
    """Output channels divided by `Place.channels`."""
    layers = 2
    """Weighted layers, which the depth of the net counts."""

    def __init__(self, config: ModelConfig, place: Place) -> None:
        super().__init__()
        options = dict(config.block.options) if isinstance(config.block, PluginRef) else {}
        self.make_branch(config, place, **options)
        self.act = make_activation(config)
        self.shortcut = make_shortcut(config, place.channels_in, self.expansion * place.channels, place.stride)
        self.branch_scale = make_branch_scale(config, place)
        self.keeps_dimensions = place.stride == 1 and place.channels_in == self.expansion * place.channels

    def make_branch(self, config: ModelConfig, place: Place, **options: Any) -> None:
        """Create the layers of F."""
        self.conv1 = conv(config, 3, place.channels_in, place.channels, place.stride)
        self.bn1 = norm(config, place.channels)
        self.act1 = make_activation(config)
        self.conv2 = conv(config, 3, place.channels, place.channels)
        self.bn2 = norm(config, place.channels)

    def branch(self, x: Tensor) -> Tensor:
        """F(x)."""
        y = self.act1(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(y))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) -> (B, expansion * channels, H/stride, W/stride)."""
        y = self.branch_scale(self.branch(x))
        if self.shortcut is not None:  # the whole difference between a plain and a residual net
            y = y + self.shortcut(x)
        return self.act(y)  # type: ignore[no-any-return]


def _strides(config: ModelConfig, place: Place) -> tuple[int, int]:
    """The strides of a bottleneck's first 1x1 convolution and of its 3x3."""
    return (place.stride, 1) if config.stride_conv == "1x1" else (1, place.stride)


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions, the last four times as wide (section 4.1, "Deeper Bottleneck Architectures")."""

    expansion = 4
    layers = 3

    def make_branch(self, config: ModelConfig, place: Place, **options: Any) -> None:
        """Create the layers of F."""
        first, second = _strides(config, place)
        self.conv1 = conv(config, 1, place.channels_in, place.channels, first)
        self.bn1 = norm(config, place.channels)
        self.act1 = make_activation(config)
        self.conv2 = conv(config, 3, place.channels, place.channels, second)
        self.bn2 = norm(config, place.channels)
        self.act2 = make_activation(config)
        self.conv3 = conv(config, 1, place.channels, 4 * place.channels)
        self.bn3 = norm(config, 4 * place.channels)

    def branch(self, x: Tensor) -> Tensor:
        """F(x)."""
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.act2(self.bn2(self.conv2(y)))
        return self.bn3(self.conv3(y))  # type: ignore[no-any-return]


class PreactBlock(Block):
    """Two 3x3 convolutions, each preceded by BN and ReLU: y = F(x) + shortcut(x) (arXiv 1603.05027, section 4).

    The stem's BN and ReLU are those of the first block. A projection is applied to x after BN and ReLU.
    """

    def __init__(self, config: ModelConfig, place: Place) -> None:
        super().__init__(config, place)
        if place.number == 1:
            self.act = nn.Identity()

    def make_branch(self, config: ModelConfig, place: Place, **options: Any) -> None:
        """Create the layers of F."""
        self.bn1 = nn.Identity() if place.number == 1 else norm(config, place.channels_in)
        self.conv1 = conv(config, 3, place.channels_in, place.channels, place.stride)
        self.bn2 = norm(config, place.channels)
        self.act2 = make_activation(config)
        self.conv2 = conv(config, 3, place.channels, place.channels)

    def branch(self, x: Tensor) -> Tensor:
        """F(x), given x after BN and ReLU."""
        y = self.conv1(x)
        return self.conv2(self.act2(self.bn2(y)))  # type: ignore[no-any-return]

    def forward(self, x: Tensor) -> Tensor:
        """(B, channels_in, H, W) -> (B, expansion * channels, H/stride, W/stride)."""
        activated = self.act(self.bn1(x))
        y = self.branch_scale(self.branch(activated))
        return y + self.shortcut(activated if isinstance(self.shortcut, Projection) else x)  # type: ignore[misc, no-any-return]


class PreactBottleneck(PreactBlock):
    """1x1, 3x3 and 1x1 convolutions, each preceded by BN and ReLU."""

    expansion = 4
    layers = 3

    def make_branch(self, config: ModelConfig, place: Place, **options: Any) -> None:
        """Create the layers of F."""
        first, second = _strides(config, place)
        self.bn1 = nn.Identity() if place.number == 1 else norm(config, place.channels_in)
        self.conv1 = conv(config, 1, place.channels_in, place.channels, first)
        self.bn2 = norm(config, place.channels)
        self.act2 = make_activation(config)
        self.conv2 = conv(config, 3, place.channels, place.channels, second)
        self.bn3 = norm(config, place.channels)
        self.act3 = make_activation(config)
        self.conv3 = conv(config, 1, place.channels, 4 * place.channels)

    def branch(self, x: Tensor) -> Tensor:
        """F(x), given x after BN and ReLU."""
        y = self.conv1(x)
        y = self.conv2(self.act2(self.bn2(y)))
        return self.conv3(self.act3(self.bn3(y)))  # type: ignore[no-any-return]


BLOCKS: dict[str, tuple[type[Block], type[PreactBlock]]] = {
    "basic": (Block, PreactBlock),
    "bottleneck": (Bottleneck, PreactBottleneck),
}
"""For each `model.block`: that of plain and residual nets, and that of pre-activated ones."""


def block_class(config: ModelConfig) -> type[Block]:
    """The block that `config` names. Raises UserError if a plug-in's does not fit the kind of net."""
    if not isinstance(config.block, PluginRef):
        return BLOCKS[config.block][config.kind == "preact"]
    plugin = find_plugin("block", config.block)
    made: type[Block] = plugin.make
    if not (isinstance(made, type) and issubclass(made, Block)):
        raise UserError(f"{plugin.path}: block {plugin.name}: must be a class derived from resexp.models.blocks.Block")
    if issubclass(made, PreactBlock) != (config.kind == "preact"):
        kinds = "preact nets" if issubclass(made, PreactBlock) else "plain and residual nets"
        raise UserError(f"{plugin.path}: block {plugin.name}: is for {kinds}, and model.kind is {config.kind}")
    return made


def why_unnamed(config: ModelConfig) -> str:
    """Why the layers of a plug-in's block can't be found by their names; empty if they can."""
    if not isinstance(config.block, PluginRef):
        return ""
    made = block_class(config)
    with torch.random.fork_rng(devices=[]):
        block = made(config, Place(made.expansion * config.width, config.width, 1, 2, 2))
    names = [f"{layer}{number}" for number in range(1, made.layers + 1) for layer in ("conv", "bn")]
    missing = [name for name in names if not isinstance(getattr(block, name, None), nn.Module)]
    return f"block {config.block.name} has no layer {missing[0]}" if missing else ""


def why_undivided(config: ModelConfig) -> str:
    """Why probes can't separate F(x) from the shortcut in a plug-in's block; empty if they can."""
    if not isinstance(config.block, PluginRef):
        return ""
    usual = PreactBlock if config.kind == "preact" else Block
    return "" if block_class(config).forward is usual.forward else f"block {config.block.name} has a forward of its own"


def make_branch_scale(config: ModelConfig, place: Place) -> nn.Module:
    """The module applied to F(x) before the addition: scaling, ReZero, Fixup or stochastic depth; by default an empty
    nn.Sequential."""
    modules: list[nn.Module] = []
    if config.residual_scale != 1:
        powers = {"depth^-0.5": -0.5, "depth^-1": -1.0}
        scale = config.residual_scale
        modules.append(ConstantScale(place.blocks ** powers[scale] if isinstance(scale, str) else scale))
    if config.residual_init == "rezero":
        modules.append(LearnedScalar(0.0, multiply=True))
    if config.norm == "fixup":
        modules.append(LearnedScalar(1.0, multiply=True))
    if config.drop_path:
        modules.append(StochasticDepth(config.drop_path * place.number / place.blocks))
    return nn.Sequential(*modules)


def init_branch(config: ModelConfig, block: Block, blocks: int) -> None:
    """Apply zero-gamma or Fixup initialisation to the branch of a He-initialised block. `blocks`: number of blocks in
    the net. Raises UserError if a plug-in's block does not name its layers."""
    if config.residual_init == "zero-gamma":
        last_norm = getattr(block, f"bn{block.layers}", None)
        if not isinstance(last_norm, BatchNorm):
            raise UserError(f"residual_init zero-gamma: block {config.block} has no BN called bn{block.layers}; add it")
        nn.init.zeros_(last_norm.weight)
    if config.norm == "fixup":
        layers = [getattr(block, f"conv{number + 1}", None) for number in range(block.layers)]
        weights = [layer[-1].weight for layer in layers if isinstance(layer, nn.Sequential)]
        if len(weights) < block.layers:
            raise UserError(
                f"norm fixup: block {config.block} needs conv1 to conv{block.layers}, made by resexp.models.layers.conv"
            )
        for weight in weights[:-1]:
            weight.data *= blocks ** (-1 / (2 * block.layers - 2))
        weights[-1].data.zero_()  # type: ignore[operator]
