"""The nets beyond CIFAR's plain and residual ones: exact numbers, torchvision's weights, and what each option does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from resexp.config import ModelConfig, RunConfig, TrainConfig
from resexp.config.study import load
from resexp.errors import UserError
from resexp.models import build_model
from resexp.models.blocks import Block, Bottleneck, Place, PreactBlock
from resexp.models.layers import CounterRandom, Dropout, StochasticDepth
from resexp.models.summary import summarise_net
from resexp.sweeping import create


def net(**config: Any) -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(**config))


def blocks(model: nn.Module) -> list[Block]:
    return [module for module in model.modules() if isinstance(module, Block)]


# -- counts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "parameters", "gflops"),
    [
        ({"kind": "plain", "depth": 18}, 11_515_688, 1.8),
        ({"depth": 18}, 11_515_688, 1.8),
        ({"kind": "plain", "depth": 34}, 21_623_848, 3.6),
        ({"depth": 34}, 21_623_848, 3.6),
        ({"depth": 50}, 25_557_032, 3.8),
        ({"depth": 101}, 44_549_160, 7.6),
        ({"depth": 152}, 60_192_808, 11.3),
        ({"kind": "vgg", "depth": 16}, 138_357_544, 15.3),
        ({"kind": "vgg", "depth": 19}, 143_667_240, 19.6),
    ],
)
def test_imagenet_nets_cost_what_the_paper_says(config: dict[str, Any], parameters: int, gflops: float) -> None:
    """Tables 1 and 3. The paper's 3.8 and 15.3 are 3.86 and 15.47 when counted, all others agree when rounded."""
    counted = summarise_net(ModelConfig(**{"variant": "imagenet", **config}), 224, 224, classes=1000)
    assert counted.parameters == parameters
    assert counted.multiply_adds / 1e9 == pytest.approx(gflops, abs=0.18 if config.get("kind") == "vgg" else 0.06)


@pytest.mark.parametrize(
    ("config", "parameters", "multiply_adds"),
    [
        ({"kind": "preact", "depth": 110}, 1_727_962, 252_887_680),
        ({"kind": "residual", "block": "bottleneck", "depth": 164}, 1_704_154, 244_500_992),
        ({"kind": "preact", "block": "bottleneck", "depth": 164}, 1_703_258, 244_500_992),
        ({"kind": "preact", "block": "bottleneck", "depth": 1001}, 10_327_706, 1_487_849_984),
        ({"kind": "plain", "block": "bottleneck", "depth": 56}, 548_442, 78_825_984),
    ],
)
def test_bottleneck_and_preactivated_cifar_nets(config: dict[str, Any], parameters: int, multiply_adds: int) -> None:
    """arXiv 1603.05027 gives 1.7M parameters for depth 164 and 10.2M for 1001."""
    counted = summarise_net(ModelConfig(**config), 32, 32)
    assert (counted.parameters, counted.multiply_adds) == (parameters, multiply_adds)


@pytest.mark.parametrize("kind", ["plain", "residual", "preact"])
@pytest.mark.parametrize(("block", "depth"), [("basic", 20), ("bottleneck", 29)])
def test_depth_counts_the_weighted_layers_of_the_main_path(kind: str, block: str, depth: int) -> None:
    weighted = [
        name
        for name, module in net(kind=kind, block=block, depth=depth, width=2).named_modules()
        if isinstance(module, nn.Conv2d | nn.Linear) and "shortcut" not in name
    ]
    assert len(weighted) == depth


@pytest.mark.parametrize(("variant", "size"), [("cifar", 32), ("imagenet", 64)])
@pytest.mark.parametrize("kind", ["plain", "residual", "preact"])
def test_output_shape(kind: str, variant: str, size: int) -> None:
    model = net(kind=kind, variant=variant, width=4)
    assert model(torch.randn(2, 3, size, size)).shape == (2, 10)


# -- torchvision ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config"),
    [
        ("resnet18", {"depth": 18, "shortcut": "B"}),
        ("resnet50", {"depth": 50, "stride_conv": "3x3"}),
        ("vgg16", {"kind": "vgg", "depth": 16}),
    ],
)
def test_torchvisions_weights_load_and_give_its_outputs(name: str, config: dict[str, Any]) -> None:
    torch.manual_seed(0)
    theirs = getattr(torchvision.models, name)(weights=None).eval()
    for module in theirs.modules():  # statistics as after training, not zeros and ones
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(std=0.1)
            module.running_var.uniform_(0.5, 2)
    with torch.device("meta"):
        ours = build_model(ModelConfig(**{"variant": "imagenet", **config}), 1000)
    ours = ours.to_empty(device="cpu").eval()
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(1, 3, 96, 96)
    with torch.no_grad():
        expected, got = theirs(x), ours(x)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


# -- blocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stride_conv", ["1x1", "3x3"])
def test_a_bottleneck_halves_in_its_first_1x1_or_in_its_3x3(stride_conv: str) -> None:
    config = ModelConfig(variant="imagenet", depth=50, stride_conv=stride_conv)
    block = Bottleneck(config, Place(256, 128, 2, number=4, blocks=16))
    strides = [block.conv1.stride, block.conv2.stride, block.conv3.stride]
    assert strides == ([(2, 2), (1, 1), (1, 1)] if stride_conv == "1x1" else [(1, 1), (2, 2), (1, 1)])
    assert block(torch.randn(1, 256, 8, 8)).shape == (1, 512, 4, 4)


def test_a_preactivated_block_adds_what_came_in_untouched() -> None:
    """arXiv 1603.05027, eq. 5: nothing stands on the way of the identity."""
    block = PreactBlock(ModelConfig(kind="preact"), Place(8, 8, 1, number=2, blocks=9)).eval()
    x = torch.randn(2, 8, 4, 4)
    f = block.conv2(F.relu(block.bn2(block.conv1(F.relu(block.bn1(x))))))
    assert torch.equal(block(x), f + x)


def test_a_projection_takes_the_activated_input() -> None:
    block = PreactBlock(ModelConfig(kind="preact", shortcut="B"), Place(8, 16, 2, number=4, blocks=9)).eval()
    x = torch.randn(2, 8, 4, 4)
    activated = F.relu(block.bn1(x))
    assert torch.equal(block(x), block.branch(activated) + block.shortcut(activated))


# -- how branches begin, and what is left out of them -----------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"residual_init": "zero-gamma"},
        {"residual_init": "rezero"},
        {"residual_init": "rezero", "norm": "none"},
        {"residual_init": "rezero", "kind": "preact"},
        {"residual_init": "zero-gamma", "block": "bottleneck"},
        {"norm": "fixup"},
        {"norm": "fixup", "block": "bottleneck"},
    ],
)
def test_the_branches_begin_at_zero_and_learn(config: dict[str, Any]) -> None:
    """Every block begins as its shortcut; and after two steps of gradient descent none does."""
    model = net(depth=20, width=4, **config)
    x, y = torch.randn(8, 3, 8, 8), torch.arange(8)
    sizes: list[float] = []
    for block in blocks(model):
        block.branch_scale.register_forward_hook(
            lambda module, inputs, output: sizes.append(float(output.abs().max().detach()))
        )
    for step in range(3):
        sizes.clear()
        F.cross_entropy(model(x), y).backward()
        if step == 0:
            assert set(sizes) == {0.0}
        for parameter in model.parameters():
            parameter.data -= 0.1 * parameter.grad
            parameter.grad = None
    assert min(sizes) > 0


def test_fixups_weights() -> None:
    """Zhang et al. 2019, section 3: He's times L^(-1/(2m-2)), the last of a branch and the classifier at zero."""
    model = net(depth=56, width=64, norm="fixup")
    assert len(blocks(model)) == 27
    block = model.stages[2][3]
    assert block.conv1[1].weight.std().item() == pytest.approx((2 / (9 * 256)) ** 0.5 * 27**-0.5, rel=0.01)
    assert not block.conv2[1].weight.any()
    assert not model.fc[1].weight.any()
    assert not any(isinstance(module, nn.BatchNorm2d) for module in model.modules())


def test_a_net_without_bn_has_biases_instead() -> None:
    model = net(kind="plain", norm="none", depth=20)
    assert sum(p.numel() for p in model.parameters()) == 269_722 - (7 * 16 + 6 * 32 + 6 * 64)


def test_stochastic_depth_leaves_out_later_branches_more_often() -> None:
    """Huang et al. 2016, eq. 4: the l-th of L branches is there with probability 1 - l/L * 0.5."""
    rates = [block.branch_scale[0].rate for block in blocks(net(depth=20, drop_path=0.5))]
    assert rates == pytest.approx([0.5 * n / 9 for n in range(1, 10)])


def test_stochastic_depth_drops_whole_batches_and_averages_in_eval_mode() -> None:
    gate, x = StochasticDepth(0.25), torch.ones(4, 2, 2, 2)
    seen = [float(gate(x).unique()) for _ in range(2000)]
    assert set(seen) == {0.0, 1.0}
    assert sum(seen) / 2000 == pytest.approx(0.75, abs=0.03)
    assert torch.equal(gate.eval()(x), 0.75 * x)


def test_dropout_keeps_the_mean_and_does_nothing_in_eval_mode() -> None:
    dropout, x = Dropout(0.5), torch.ones(100, 1000)
    dropped = dropout(x)
    assert set(dropped.unique().tolist()) == {0.0, 2.0}
    assert dropped.mean().item() == pytest.approx(1, abs=0.02)
    assert torch.equal(dropout.eval()(x), x)


def test_draws_are_splitmix64_and_go_on_from_a_state_dict() -> None:
    """The first outputs of SplitMix64 with seed 0, from its reference implementation."""
    draws = CounterRandom()
    draws.key.zero_()
    known = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert draws(torch.empty(3)).tolist() == [(value >> 40) / 2**24 for value in known]
    other = CounterRandom()
    other.load_state_dict(draws.state_dict())
    assert torch.equal(other(torch.empty(5)), draws(torch.empty(5)))


def test_draws_are_uniform_and_uncorrelated() -> None:
    u = CounterRandom()(torch.empty(2, 100_000))
    assert u.min() >= 0
    assert u.max() < 1
    counts = torch.histc(u, 20, 0, 1) / u.numel()
    assert counts.tolist() == pytest.approx([0.05] * 20, abs=0.002)
    assert abs(torch.corrcoef(u)[0, 1].item()) < 0.01


def test_vgg_has_the_norm_and_the_activation_of_its_configuration() -> None:
    model = net(kind="vgg", width=1, norm="group", activation="tanh")
    assert [len([m for m in model.modules() if isinstance(m, of)]) for of in (nn.GroupNorm, nn.Tanh, nn.ReLU)] == [
        13,
        15,
        0,
    ]


# -- mistakes ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"depth": 57}, "must be 6n+2; the nearest are 56 and 62"),
        ({"depth": 60, "block": "bottleneck"}, "must be 9n+2; the nearest are 56 and 65"),
        ({"variant": "imagenet", "depth": 20}, "of basic blocks, ImageNet's nets have 18, 34 layers"),
        ({"variant": "imagenet", "depth": 34, "block": "bottleneck"}, "have 50, 101, 152 layers"),
        ({"kind": "vgg", "depth": 20}, "VGG has 16 or 19 layers"),
        ({"kind": "vgg", "block": "bottleneck"}, "VGG has no blocks to choose; leave it out"),
        ({"kind": "vgg", "block": "bottleneck", "depth": 16}, "VGG has no blocks to choose; leave it out"),
        ({"kind": "vgg", "variant": "cifar"}, "VGG has one variant"),
        ({"kind": "vgg", "shortcut": "A"}, "a vgg net has no shortcut"),
        ({"kind": "plain", "residual_init": "rezero"}, "this net has none"),
        ({"kind": "plain", "drop_path": 0.5}, "this net has none"),
        ({"kind": "plain", "norm": "fixup"}, "Fixup initialises residual branches"),
        ({"norm": "none", "residual_init": "zero-gamma"}, "the BN that ends a branch"),
        ({"kind": "preact", "residual_init": "zero-gamma"}, "the BN that ends a branch"),
        ({"stride_conv": "3x3"}, "only bottleneck blocks have it"),
    ],
)
def test_a_net_that_makes_no_sense_is_refused(config: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=says.replace("+", r"\+")):
        ModelConfig(**config)


def test_what_is_not_said_fits_what_is() -> None:
    assert ModelConfig(variant="imagenet", depth=50).block == "bottleneck"
    assert ModelConfig(variant="imagenet", depth=50).shortcut == "B"
    assert ModelConfig(variant="imagenet").depth == 18
    assert ModelConfig(kind="vgg").norm == "none"
    assert ModelConfig(kind="preact", block="bottleneck", depth=164).stride_conv == "1x1"


def test_a_run_is_refused_where_its_net_does_not_allow_it(tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="this net has no BN"):
        RunConfig(model=ModelConfig(norm="none"), train=TrainConfig(precise_bn_images=100))
    study = {"data": {"source": "shapes", "size": 16}, "model": {"kind": "vgg", "width": 4}, "train": {"device": "cpu"}}
    (tmp_path / "vgg.yaml").write_text(yaml.safe_dump(study))
    loaded, (cell,) = load(str(tmp_path / "vgg.yaml"))
    with pytest.raises(UserError, match=r"vgg-16: images of 16 pixels a side, and it needs 32; set data.resize"):
        create(loaded, cell, tmp_path / "results")
    assert not (tmp_path / "results").exists()
