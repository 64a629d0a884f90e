"""The nets: exact numbers of PAPER tables, and the block's equation."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from resexp.config import ModelConfig
from resexp.models import build_model
from resexp.models.blocks import Block, Place, ZeroPad
from resexp.models.summary import summarise


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


@pytest.mark.parametrize("depth", [8, 20, 56])
def test_depth_counts_the_weighted_layers(depth: int) -> None:
    net = build_model(ModelConfig(depth=depth))
    assert sum(isinstance(m, torch.nn.Conv2d | torch.nn.Linear) for m in net.modules()) == depth


def test_the_same_seed_gives_plain_and_residual_the_same_weights() -> None:
    nets = []
    for kind in ("plain", "residual"):
        torch.manual_seed(3)
        nets.append(build_model(ModelConfig(kind=kind, depth=20)))
    plain, residual = (list(net.parameters()) for net in nets)
    assert all(torch.equal(a, b) for a, b in zip(plain, residual, strict=True))


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("option", [None, "A", "B", "C"])
def test_a_block_is_relu_of_f_plus_shortcut(option: str | None, stride: int) -> None:
    config = ModelConfig(kind="residual" if option else "plain", shortcut=option)
    block = Block(config, Place(4, 4 * stride, stride, number=1, of=3)).eval()
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


def test_he_initialisation() -> None:
    torch.manual_seed(0)
    net = build_model(ModelConfig(depth=20, width=64))
    weight = net.stages[2][1].conv1.weight  # 256 channels in
    assert weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5, rel=0.01)
    assert torch.equal(net.fc.bias, torch.zeros(10))


# -- what a net costs -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "parameters", "multiply_adds"),
    [(20, 269_722, 40_551_040), (56, 853_018, 125_485_696), (110, 1_727_962, 252_887_680)],
)
def test_the_cost_of_the_papers_nets(depth: int, parameters: int, multiply_adds: int) -> None:
    net = summarise(ModelConfig(depth=depth), 32, 32)
    assert (net.parameters, net.multiply_adds) == (parameters, multiply_adds)


def test_multiply_adds_are_those_of_every_layer_by_hand() -> None:
    """Depth 8, width 16, 32x32: a stem, and two convolutions a stage on half the pixels with twice the channels."""
    stem = 32 * 32 * 16 * 3 * 9
    first = 2 * 32 * 32 * 16 * 16 * 9
    second = 16 * 16 * 32 * (16 + 32) * 9
    third = 8 * 8 * 64 * (32 + 64) * 9
    net = summarise(ModelConfig(depth=8), 32, 32)
    assert net.multiply_adds == stem + first + second + third + 64 * 10
    assert net.activations == 3 * 16 * 32 * 32 + 2 * 32 * 16 * 16 + 2 * 64 * 8 * 8
    assert net.step_flops(128) == 6 * 128 * net.multiply_adds


def test_projections_cost_what_they_cost() -> None:
    """Option B: a 1x1 convolution where a stage begins, on that stage's pixels."""
    a, b = (summarise(ModelConfig(depth=8, shortcut=option), 32, 32) for option in ("A", "B"))
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


@pytest.mark.parametrize("depth", [20, 110, 1202])
def test_memory_for_the_backward_pass_is_twice_the_activations(depth: int) -> None:
    """What a pack reckons with: each convolution's output before and after BN."""
    net = summarise(ModelConfig(depth=depth), 32, 32)
    per_image = (kept_for_backward(depth, 4) - kept_for_backward(depth, 2)) / 2
    assert per_image == pytest.approx(2 * 4 * net.activations, rel=0.01)


def test_depth_1202_fits_in_16_gb() -> None:
    net = summarise(ModelConfig(depth=1202), 32, 32)
    assert net.memory(batch=128, itemsize=4) < 16e9
    assert net.memory(batch=128, itemsize=2) < 9e9
