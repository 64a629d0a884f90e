"""The paper's families: a stem, stages of blocks, global average pooling, one fully connected layer."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from resexp.config import ModelConfig
from resexp.models.blocks import Block, Place, block_class, init_branch
from resexp.models.init import init_classifier, init_weights
from resexp.models.layers import conv, make_activation, norm, with_fixup_bias


class ResNet(nn.Module):
    """A plain, residual or pre-activated net, for CIFAR (section 4.2) or ImageNet (section 4.1, Table 1).

    With one seed, plain, residual and pre-activated nets of one depth, width and block get the same initial
    convolutions and fully connected layer, whatever their shortcut: projections are drawn last.

    - zero-gamma and rezero draw nothing, so they change no other weight. Fixup scales the same weights.
    - `norm: none` and stochastic depth take random numbers of their own, so the weights differ.

    State dicts of torchvision's resnets load, into nets with `shortcut: B` and `stride_conv: 3x3`.
    """

    def __init__(self, config: ModelConfig, classes: int) -> None:
        super().__init__()
        width, large = config.width, config.variant == "imagenet"
        self.conv = conv(config, 7, 3, width, stride=2) if large else conv(config, 3, 3, width)
        self.bn = norm(config, width)
        self.activation = make_activation(config)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1) if large else nn.Identity()
        block = block_class(config)
        blocks: list[Block] = []
        stages: list[nn.Module] = []
        channels = width
        for stage, count in enumerate(config.stages):
            for index in range(count):
                stride = 2 if stage > 0 and index == 0 else 1
                place = Place(channels, width << stage, stride, len(blocks) + 1, sum(config.stages))
                blocks.append(block(config, place))
                channels = block.expansion * place.channels
            stages.append(nn.Sequential(*blocks[-count:]))
        self.stages = nn.Sequential(*stages)
        preact = config.kind == "preact"
        self.last = nn.Sequential(norm(config, channels), make_activation(config)) if preact else nn.Identity()
        fc = nn.Linear(channels, classes)
        self.fc = with_fixup_bias(config, fc)
        on_shortcuts = [
            module for made in blocks for name, module in made.named_modules() if name.split(".")[0] == "shortcut"
        ]
        init_weights(config, [module for module in self.modules() if module not in on_shortcuts])
        init_weights(config, on_shortcuts)
        for made in blocks:
            init_branch(config, made, len(blocks))
        init_classifier(config, fc)
        self.register_load_state_dict_pre_hook(_rename_torchvision)  # type: ignore[no-untyped-call]

    def forward(self, x: Tensor) -> Tensor:
        """Images (B, 3, H, W) -> logits (B, classes)."""
        x = self.pool(self.activation(self.bn(self.conv(x))))
        x = self.last(self.stages(x))
        logits: Tensor = self.fc(x.mean(dim=(2, 3)))
        return logits


_TORCHVISION = {"conv1.": "conv.", "bn1.": "bn."} | {f"layer{stage + 1}.": f"stages.{stage}." for stage in range(4)}
"""Prefixes of parameter names: torchvision's to ours."""


def _rename_torchvision(model: nn.Module, state: dict[str, Any], *_: Any) -> None:
    for name in list(state):
        state[from_torchvision(name)] = state.pop(name)


def from_torchvision(name: str) -> str:
    """Translate torchvision's name of a parameter to ours; our own names are returned unchanged."""
    return _renamed(name, _TORCHVISION).replace(".downsample.", ".shortcut.")


def to_torchvision(name: str) -> str:
    """What torchvision calls a parameter or buffer, by its name here."""
    ours = {our: their for their, our in _TORCHVISION.items()}
    return _renamed(name, ours).replace(".shortcut.", ".downsample.")


def _renamed(name: str, beginnings: dict[str, str]) -> str:
    old = next((old for old in beginnings if name.startswith(old)), "")
    return beginnings.get(old, "") + name.removeprefix(old)
