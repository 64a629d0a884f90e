"""The nets: exact numbers of PAPER tables, and the block's equation."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from resexp.config import ModelConfig
from resexp.models import build_model
from resexp.models.blocks import Block, Place, ZeroPad
from resexp.models.summary import summarise_net


def parameters(**config: object) -> int:
    return sum(p.numel() for p in build_model(ModelConfig.model_validate(config)).parameters())


@pytest.mark.parametrize(
    ("depth", "count"),
    [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018), (110, 1_727_962), (1202, 19_421_274)],
)
def test_parameter_counts_are_the_papers_and_plain_equals_residual(depth: int, count: int) -> None:
    assert parameters(depth=depth) == count
    assert parameters(depth=depth, kind="plain") == count


def test_projections_add_their_parameters() -> None:
    assert parameters(depth=20, shortcut="B") == 272_474
    assert parameters(depth=110, shortcut="B") == 1_730_714
    # C also projects in the seven blocks that keep their dimensions: 3 of 16, 2 of 32 and 2 of 64 filters.
    assert parameters(depth=20, shortcut="C") == 272_474 + 3 * (16**2 + 32) + 2 * (32**2 + 64) + 2 * (64**2 + 128)


@pytest.mark.parametrize(("depth", "more"), [(29, 16), (56, 8), (83, 5), (110, 4)])
def test_projections_make_residual_bottleneck_nets_larger_by_what_the_study_says(depth: int, more: int) -> None:
    """In percent; see configs/cifar10/bottleneck.yaml."""
    plain, residual = (parameters(depth=depth, block="bottleneck", kind=kind) for kind in ("plain", "residual"))
    assert (residual - plain, round(100 * (residual / plain - 1))) == (42_880, more)


def drawn(seed: int, **config: Any) -> dict[str, Tensor]:
    """The initial state of a net, by name."""
    torch.manual_seed(seed)
    return build_model(ModelConfig.model_validate(config)).state_dict()


@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_weights_are_drawn_layer_by_layer(kind: str) -> None:
    """PyTorch's own initialisation of each layer, then He's of each: runs of earlier versions began like this."""
    channels = [3, 4, 4, 4, 8, 8, 16, 16]
    torch.manual_seed(3)
    layers: list[nn.Module] = [nn.Conv2d(i, o, 3, bias=False) for i, o in itertools.pairwise(channels)]
    layers.append(nn.Linear(16, 10))
    expected = [nn.init.kaiming_normal_(layer.weight, nonlinearity="relu") for layer in layers]
    state = drawn(3, kind=kind, depth=8, width=4)
    assert not state["fc.bias"].any()
    weights = [value for value in state.values() if value.dim() > 1]
    assert len(weights) == len(expected) == 8
    assert all(torch.equal(weight, own) for weight, own in zip(weights, expected, strict=True))


@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_the_stems_activation_is_that_of_the_first_preactivated_block(block: Literal["basic", "bottleneck"]) -> None:
    """It is applied once: twice would be another function for all but ReLU."""
    net = build_model(ModelConfig(kind="preact", block=block, depth=_DEPTHS["cifar", block], activation="leaky_relu"))
    first = net.get_submodule("stages.0.0")
    inputs: list[Tensor] = []
    first.get_submodule("conv1").register_forward_pre_hook(lambda module, given: inputs.append(given[0]))
    images = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        net.eval()(images)
        stem = F.leaky_relu(net.get_submodule("bn")(net.get_submodule("conv")(images)))
    assert (stem < 0).any()
    assert torch.equal(inputs[0], stem)


@pytest.mark.parametrize(
    ("variant", "norm", "block"),
    [
        ("cifar", "batch", "basic"),
        ("cifar", "none", "bottleneck"),
        ("imagenet", "none", "basic"),
        ("imagenet", "batch", "bottleneck"),
    ],
)
def test_one_seed_gives_the_same_weights_whatever_the_shortcut(variant: str, norm: str, block: str) -> None:
    """Kinds and options A, B and C differ in their shortcuts alone."""
    common = {"variant": variant, "block": block, "norm": norm, "depth": _DEPTHS[variant, block], "width": 3}
    plain = drawn(3, kind="plain", **common)
    for kind in ("residual", "preact"):
        for option in "ABC":
            net = drawn(3, kind=kind, shortcut=option, **common)
            projections = {name for name in net if ".shortcut." in name}
            assert bool(projections) == (option != "A")
            shared = {name for name in net.keys() - projections if net[name].dim() > 1}
            assert shared == {name for name in plain if plain[name].dim() > 1}
            assert all(torch.equal(net[name], plain[name]) for name in shared), (kind, option)


_DEPTHS = {
    ("cifar", "basic"): 20,
    ("cifar", "bottleneck"): 20,
    ("imagenet", "basic"): 18,
    ("imagenet", "bottleneck"): 50,
}


@pytest.mark.parametrize("option", ["A", "B", "C"])
def test_where_a_branch_begins_does_not_change_the_weights(option: str) -> None:
    """Zero-gamma and ReZero draw nothing; Fixup scales what is drawn, by a number of each layer."""
    usual = drawn(3, depth=14, width=4, shortcut=option)
    convolutions = [name for name in usual if usual[name].dim() == 4]
    for branch in ("zero-gamma", "rezero"):
        other = drawn(3, depth=14, width=4, shortcut=option, residual_init=branch)
        assert all(torch.equal(other[name], usual[name]) for name in (*convolutions, "fc.weight"))
    fixup = drawn(3, depth=14, width=4, shortcut=option, norm="fixup")
    for name in convolutions:
        scaled = fixup[name.replace(".weight", ".1.weight")]
        factor = 0 if "conv2" in name else 6**-0.5 if "conv1" in name else 1
        torch.testing.assert_close(scaled, usual[name] * factor)


def test_projections_are_drawn_by_he_too() -> None:
    torch.manual_seed(0)
    net = build_model(ModelConfig(depth=20, width=64, shortcut="B"))
    weight = net.stages[2][0].shortcut[0].weight  # 128 channels in
    assert weight.std().item() == pytest.approx((2 / 128) ** 0.5, rel=0.01)
    other = net.stages[1][0].shortcut[0].weight
    assert not torch.equal(weight[:128, :64], other)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("option", [None, "A", "B", "C"])
def test_a_block_is_relu_of_f_plus_shortcut(option: str | None, stride: int) -> None:
    config = ModelConfig(kind="residual" if option else "plain", shortcut=option)
    block = Block(config, Place(4, 4 * stride, stride, number=1, blocks=3)).eval()
    x = torch.randn(2, 4, 8, 8)
    f = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    expected = F.relu(f if block.shortcut is None else f + block.shortcut(x))
    assert torch.equal(block(x), expected)
    assert block(x).shape == (2, 4 * stride, 8 // stride, 8 // stride)
    assert (block.shortcut is None) == (option is None)


def test_option_a_keeps_every_second_pixel_and_pads_channels_with_zeros() -> None:
    x = torch.randn(2, 3, 8, 8)
    y = ZeroPad(3, 6, 2)(x)
    assert torch.equal(y[:, :3], x[:, :, ::2, ::2])
    assert torch.equal(y[:, 3:], torch.zeros(2, 3, 4, 4))
    assert not list(ZeroPad(3, 6, 2).parameters())


@pytest.mark.parametrize("size", [4, 9, 16, 32])
@pytest.mark.parametrize("option", ["A", "B"])
def test_images_of_any_size(size: int, option: str) -> None:
    net = build_model(ModelConfig(depth=8, width=4, shortcut=option), classes=7)
    assert net(torch.randn(2, 3, size, size)).shape == (2, 7)


# -- what a net costs -------------------------------------------------------------------------------------------------


def test_multiply_adds_are_those_of_every_layer_by_hand() -> None:
    """Depth 8, width 16, 32x32: a stem, and two convolutions a stage on half the pixels with twice the channels."""
    stem = 32 * 32 * 16 * 3 * 9
    first = 2 * 32 * 32 * 16 * 16 * 9
    second = 16 * 16 * 32 * (16 + 32) * 9
    third = 8 * 8 * 64 * (32 + 64) * 9
    net = summarise_net(ModelConfig(depth=8), 32, 32)
    assert net.multiply_adds == stem + first + second + third + 64 * 10
    assert net.activations == 3 * 16 * 32 * 32 + 2 * 32 * 16 * 16 + 2 * 64 * 8 * 8
    assert net.step_flops(128) == 6 * 128 * net.multiply_adds


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "plain", "depth": 20},
        {"kind": "residual", "depth": 56, "shortcut": "C"},
        {"kind": "preact", "depth": 164, "block": "bottleneck"},
        {"variant": "imagenet", "depth": 50, "shortcut": "B"},
        {"kind": "vgg", "variant": "imagenet", "depth": 16},
    ],
)
def test_multiply_adds_are_those_that_pytorch_counts(config: dict[str, Any]) -> None:
    """Its FlopCounterMode counts two operations per multiply-add."""
    net = ModelConfig.model_validate(config)
    side = 224 if net.variant == "imagenet" else 32
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_model(net)(torch.empty(1, 3, side, side))
    assert summarise_net(net, side, side).multiply_adds == counter.get_total_flops() / 2


def test_projections_cost_what_they_cost() -> None:
    """Option B: a 1x1 convolution where a stage begins, on that stage's pixels."""
    a, b = (summarise_net(ModelConfig(depth=8, shortcut=option), 32, 32) for option in ("A", "B"))
    assert b.multiply_adds - a.multiply_adds == 16 * 16 * 16 * 32 + 8 * 8 * 32 * 64


def kept_for_backward(depth: int, batch: int) -> int:
    """Bytes that autograd keeps of a forward pass in fp32, parameters left out."""
    model = build_model(ModelConfig(depth=depth)).to(memory_format=torch.channels_last)
    own = {p.untyped_storage().data_ptr() for p in (*model.parameters(), *model.buffers())}
    kept: dict[int, int] = {}
    alive = []

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        alive.append(tensor)
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(torch.randn(batch, 3, 32, 32))
    return sum(kept.values())


@pytest.mark.parametrize("depth", [20, 110])
def test_memory_for_the_backward_pass_is_twice_the_activations(depth: int) -> None:
    """What a pack reckons with: each convolution's output before and after BN."""
    net = summarise_net(ModelConfig(depth=depth), 32, 32)
    per_image = (kept_for_backward(depth, 4) - kept_for_backward(depth, 2)) / 2
    assert per_image == pytest.approx(2 * 4 * net.activations, rel=0.01)


@pytest.mark.slow
def test_depth_1202_fits_in_16_gb() -> None:
    net = summarise_net(ModelConfig(depth=1202), 32, 32)
    assert net.training_bytes(batch=128, itemsize=4) < 16e9
    assert net.training_bytes(batch=128, itemsize=2) < 9e9
