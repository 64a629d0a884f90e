"""The paper's founding argument, carried out: a deeper net that is a trained shallower one with identity blocks.

"The added layers are identity mapping, and the other layers are copied from the learned shallower model": such a net
has no higher training error than the shallower one (He et al. 2015, section 1).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from resexp.config import ModelConfig
from resexp.config.plugins import PluginRef
from resexp.models.blocks import Block, PreactBlock, why_unnamed
from resexp.models.layers import BatchNorm, LearnedScalar
from resexp.models.resnet import ResNet
from resexp.probes.outputs import Moments, channel_sums, moments, summed_outputs

BatchSource = Callable[[], Iterable[tuple[Tensor, Tensor]]]
"""Batches of images and labels, as often as they are asked for."""


def why_not(shallow: ModelConfig, deep: ModelConfig) -> str:
    """Why `deep` can't be `shallow` with identity blocks inserted, or as it is; empty if it can."""
    if shallow.kind == "vgg":
        return "VGG has no blocks"
    if shallow.kind == "plain" and shallow.block == "bottleneck":
        return "a plain bottleneck squeezes its input to a quarter of the channels, so it can be no identity"
    if shallow.shortcut == "C":
        return "with option C every shortcut is a projection, so no block can be an identity"
    own_parts = (shallow.shortcut, shallow.norm, *([shallow.block] if shallow.kind == "plain" else []))
    if plugin := next((part for part in own_parts if isinstance(part, PluginRef)), None):
        return f"{plugin} is a plug-in's, and may change what it is given"
    if shallow.drop_path:
        return "with stochastic depth a block's weight in the net depends on how many there are"
    if shallow.kind == "plain" and shallow.norm not in ("batch", "none"):
        return f"norm {shallow.norm} takes its statistics from each image, so no plain block can be an identity"
    if shallow.kind != "preact" and shallow.activation != "relu":
        return f"activation {shallow.activation} changes what a block is given, so no block can be an identity"
    if reason := why_unnamed(shallow):
        return reason
    if isinstance(shallow.residual_scale, str):
        return "with a residual_scale that is a power of the depth, a block computes something else in a deeper net"
    but = {"depth", "params"}  # the widths are compared
    if shallow.model_dump(exclude=but) != deep.model_dump(exclude=but):
        return "the two nets differ in more than depth"
    if shallow.depth > deep.depth:
        return f"{deep.depth} layers are fewer than {shallow.depth}"
    return ""


@torch.no_grad()
def deepen(shallow: ResNet, deep: ResNet, batches: BatchSource) -> None:
    """Make `deep` compute what `shallow` does, in eval mode: the blocks of each stage are copied, and later ones
    are made identities. Where that takes BN's statistics, those over `batches` are used.

    In a residual block F becomes zero. In a plain block each convolution copies the pixel in its middle, and BN's
    gain and bias undo its normalisation (in train mode approximately). ReLU changes nothing, because the input is
    not negative.
    """
    shallow.eval()
    with summed_outputs(dict(enumerate(shallow.stages)), channel_sums) as sums:
        for x, _ in batches():
            shallow(x)
    for name in ("conv", "bn", "last", "fc"):
        deep.get_submodule(name).load_state_dict(shallow.get_submodule(name).state_dict())
    for number, (deep_stage, stage) in enumerate(zip(deep.stages, shallow.stages, strict=True)):
        for block, original in zip_longest(deep_stage.children(), stage.children()):
            assert isinstance(block, Block)
            if original is not None:
                block.load_state_dict(original.state_dict())
            elif block.shortcut is not None:
                _zero_branch(block)
            else:
                _make_identity(block, moments(sums[number]))


@torch.no_grad()
def compare(shallow: nn.Module, deep: nn.Module, batches: BatchSource) -> dict[str, Any]:
    """Training errors of the two nets, fractions, in eval mode; how many predictions differ, and by how
    much the logits do at most."""
    shallow.eval()
    deep.eval()
    images, wrong, deep_wrong, changed, largest = 0, 0, 0, 0, 0.0
    for x, y in batches():
        a, b = shallow(x), deep(x)
        images += len(x)
        wrong += int((a.argmax(1) != y).sum())
        deep_wrong += int((b.argmax(1) != y).sum())
        changed += int((a.argmax(1) != b.argmax(1)).sum())
        largest = max(largest, float((a - b).abs().max()))
    return {
        "images": images,
        "handed_error": wrong / images,
        "constructed_error": deep_wrong / images,
        "changed_predictions": changed,
        "largest_logit_difference": largest,
    }


def _zero_branch(block: Block) -> None:
    """Let F(x) be zero, by one factor: a second one would keep both from learning."""
    if any(isinstance(scale, LearnedScalar) and not scale.value.any() for scale in block.branch_scale.children()):
        return  # a new block of residual_init rezero
    last = block.get_submodule(f"bn{block.layers}")
    if isinstance(block, PreactBlock) or not isinstance(last, BatchNorm | nn.GroupNorm):  # it would scale up zeros
        last = _convolutions(block)[-1]
    for parameter in last.parameters():
        nn.init.zeros_(parameter)


def _make_identity(block: Block, inputs: Moments) -> None:
    """Let the layers of a plain block be identities for `inputs` of these moments."""
    for number, convolution in enumerate(_convolutions(block), 1):
        nn.init.dirac_(convolution.weight)
        if convolution.bias is not None:
            nn.init.zeros_(convolution.bias)
        norm = block.get_submodule(f"bn{number}")
        if isinstance(norm, BatchNorm):
            assert norm.running_mean is not None
            assert norm.running_var is not None
            norm.running_mean.copy_(inputs.mean)
            norm.running_var.copy_(inputs.variance)
            norm.bias.copy_(norm.running_mean)
            norm.weight.copy_((norm.running_var + norm.eps).sqrt())


def _convolutions(block: Block) -> list[nn.Conv2d]:
    return [m for name, m in block.named_modules() if isinstance(m, nn.Conv2d) and name.startswith("conv")]
