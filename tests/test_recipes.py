"""What a study may vary besides the paper's recipe: initial weights, activations, norms, optimisers, schedules.

Each is held against the formula of its paper, or against a slow reference.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import nn
from torch.nn import functional as F

from resexp.config import ModelConfig, RunConfig, TrainConfig
from resexp.data import open_dataset
from resexp.device.concurrent import run_to_completion
from resexp.device.hardware import Hardware
from resexp.models import build_model
from resexp.models.blocks import Block
from resexp.models.init import delta_orthogonal, dirac
from resexp.models.layers import TReLU, cosine_after, groups, tailored_slope
from resexp.paper import departures
from resexp.training.optim import Muon, Schedule, make_optimizer, orthogonalise
from resexp.training.trainer import Trainer
from tests.test_training import CPU, tiny

# -- initial weights ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("out", "into"), [(16, 16), (32, 16), (16, 3), (8, 16)])
def test_delta_orthogonal_keeps_norms(out: int, into: int) -> None:
    """All singular values of the middle pixel are the gain, so an image far from its border keeps its norm."""
    weight = torch.empty(out, into, 3, 3)
    delta_orthogonal(weight, math.sqrt(2))
    assert torch.linalg.svdvals(weight[:, :, 1, 1]).numpy() == pytest.approx(math.sqrt(2), rel=1e-5)
    assert weight.abs().sum().item() == pytest.approx(weight[:, :, 1, 1].abs().sum().item())
    if out >= into:
        x = torch.randn(1, into, 5, 5)
        assert F.conv2d(x, weight, padding=1).norm().item() == pytest.approx(math.sqrt(2) * x.norm().item(), rel=1e-5)


@pytest.mark.parametrize(
    ("init", "activation", "variance"),
    [("he", "relu", 2 / 144), ("he", "tanh", (5 / 3) ** 2 / 144), ("orthogonal", "relu", 2 / 144)],
)
def test_initial_weights_have_the_variance_of_their_activation(init: str, activation: str, variance: float) -> None:
    model = build_model(ModelConfig(kind="plain", depth=20, init=init, activation=activation))
    weight = model.get_submodule("stages.0.1.conv1").weight
    assert isinstance(weight, torch.Tensor)
    assert weight.var().item() == pytest.approx(variance, rel=0.1)


@pytest.mark.parametrize("kind", ["plain", "residual", "preact"])
def test_classifier_std_scales_the_last_layers_initial_weights_alone(
    kind: Literal["plain", "residual", "preact"],
) -> None:
    nets = []
    for std in (None, 0.01):
        torch.manual_seed(7)
        nets.append(build_model(ModelConfig(kind=kind, depth=8, classifier_std=std)).state_dict())
    usual, small = nets
    assert usual["fc.weight"].std().item() == pytest.approx(math.sqrt(2 / 64), rel=0.1)
    assert small["fc.weight"].div(usual["fc.weight"]).sub(0.01 / math.sqrt(2 / 64)).abs().max() < 1e-6
    assert all(torch.equal(small[name], usual[name]) for name in usual if name != "fc.weight")


def test_only_residual_nets_begin_above_the_loss_of_guessing_and_deep_ones_most() -> None:
    """Each block adds to the variance of what the last layer sees, so He's weights make its outputs large."""

    def loss(**model: Any) -> float:
        torch.manual_seed(0)
        x, y = torch.randn(64, 3, 16, 16), torch.arange(64) % 10
        with torch.no_grad():
            losses = [F.cross_entropy(build_model(ModelConfig(width=8, **model))(x), y).item() for _ in range(3)]
        return sum(losses) / 3

    guessing = math.log(10)
    assert loss(kind="plain", depth=56) < 1.1 * guessing
    assert 1.2 * guessing < loss(depth=20) < loss(depth=56)
    assert loss(depth=56) > 2 * guessing
    assert loss(depth=56, classifier_std=0.01) == pytest.approx(guessing, rel=0.02)


def test_with_classifier_std_zero_a_net_guesses_at_first() -> None:
    model = build_model(ModelConfig(depth=8, classifier_std=0.0))
    assert not model(torch.randn(4, 3, 32, 32)).any()


def test_classifier_std_is_refused_with_fixup() -> None:
    with pytest.raises(ValueError, match="with Fixup the last layer begins at zero"):
        ModelConfig(norm="fixup", classifier_std=0.01)


@pytest.mark.parametrize(("out", "into"), [(16, 16), (32, 16), (16, 3), (3, 16)])
def test_dirac_is_the_identity_plus_small_random_filters(out: int, into: int) -> None:
    weight = torch.empty(out, into, 3, 3)
    dirac(weight)
    shared = torch.arange(min(out, into))
    random = weight.clone()
    random[shared, shared, 1, 1] -= 1
    assert torch.allclose(random.flatten(1).norm(dim=1), torch.full((out,), 0.1))
    assert (random != 0).all()


@pytest.mark.parametrize("init", ["he", "orthogonal", "delta-orthogonal", "dirac"])
@pytest.mark.parametrize("kind", ["plain", "residual"])
def test_every_filter_of_a_new_net_learns(init: str, kind: Literal["plain", "residual"]) -> None:
    """Zeros that meet zeros have no gradient; such channels would stay dead."""
    model = build_model(ModelConfig(kind=kind, depth=20, width=16, init=init))
    F.cross_entropy(model(torch.rand(16, 3, 16, 16)), torch.arange(16) % 10).backward()
    for name, weight in model.named_parameters():
        if weight.ndim == 4:
            assert weight.grad is not None
            assert (weight.grad.flatten(1).norm(dim=1) > 0).all(), name


def test_a_choice_that_there_was_not_always_is_not_in_the_signature_at_its_default() -> None:
    assert ModelConfig().in_signature() == {"shortcut": "A", "variant": "cifar", "width": 16} | {
        key: value for key, value in ModelConfig().in_signature().items() if key in ("depth", "norm", "stride_conv")
    }


# -- activations -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layers", [7, 19, 55, 109])
def test_tat_brings_the_cosine_of_orthogonal_inputs_to_its_goal(layers: int) -> None:
    """Its fixed point: after all layers, 0.9 (arXiv 2203.08120)."""
    slope, cosine = tailored_slope(layers), 0.0
    for _ in range(layers):
        cosine = cosine_after(slope, cosine)
    assert cosine == pytest.approx(0.9, abs=1e-9) or slope == 0.0
    assert 0 <= slope < 1


def test_deeper_nets_are_tailored_more_linear() -> None:
    slopes = [tailored_slope(layers) for layers in (19, 31, 55, 109)]
    assert slopes == sorted(slopes)
    assert slopes[0] < slopes[-1]


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.8])
def test_the_cosine_after_a_tailored_layer_is_that_of_random_signals(slope: float) -> None:
    """Two Gaussian signals of cosine 0.4, by simulation."""
    torch.manual_seed(0)
    a, b = torch.randn(2, 2_000_000, dtype=torch.float64)
    b = 0.4 * a + math.sqrt(1 - 0.16) * b
    act = TReLU(slope)
    u, v = act(a), act(b)
    assert (u * u).mean().item() == pytest.approx(1, abs=5e-3)
    assert (u * v).mean().item() == pytest.approx(cosine_after(slope, 0.4), abs=5e-3)


@pytest.mark.parametrize(
    ("word", "function"),
    [("relu", F.relu), ("leaky_relu", F.leaky_relu), ("tanh", torch.tanh), ("gelu", F.gelu)],
)
@pytest.mark.parametrize("kind", ["plain", "residual", "preact"])
def test_every_nonlinearity_of_a_block_is_the_chosen_one(word: str, function: Callable[..., Any], kind: str) -> None:
    model = build_model(ModelConfig.model_validate({"kind": kind, "depth": 14, "activation": word})).eval()
    block = model.get_submodule("stages.0.1")
    assert isinstance(block, Block)
    x = torch.randn(2, 16, 8, 8)
    if kind == "preact":
        inner = function(block.bn1(x))
        expected = block.conv2(function(block.bn2(block.conv1(inner)))) + x
    else:
        expected = block.bn2(block.conv2(function(block.bn1(block.conv1(x)))))
        expected = function(expected + x if kind == "residual" else expected)
    assert torch.allclose(block(x), expected)


def test_tat_is_for_plain_nets_without_norms() -> None:
    with pytest.raises(ValidationError, match=r"set model\.kind to plain and model\.norm to none"):
        ModelConfig(kind="residual", activation="tat")
    assert ModelConfig(kind="plain", norm="none", activation="tat").activation == "tat"


# -- norms and scales --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("channels", "expected"), [(4, 1), (8, 1), (16, 2), (28, 2), (64, 8), (7, 1)])
def test_groups_have_eight_channels_or_more(channels: int, expected: int) -> None:
    assert groups(channels) == expected


def test_group_and_layer_norms_do_not_mix_images() -> None:
    for norm in ("group", "layer"):
        model = build_model(ModelConfig(kind="residual", depth=8, norm=norm)).train()
        x = torch.randn(4, 3, 32, 32)
        assert torch.allclose(model(x)[:1], model(x[:1]), atol=1e-5)


@pytest.mark.parametrize(("scale", "factor"), [("depth^-0.5", 9**-0.5), ("depth^-1", 1 / 9), (0.25, 0.25)])
def test_a_residual_branch_is_scaled(scale: float | str, factor: float) -> None:
    """ResNet-20 has 9 blocks."""
    model = build_model(ModelConfig.model_validate({"depth": 20, "residual_scale": scale})).eval()
    block = model.get_submodule("stages.0.0")
    assert isinstance(block, Block)
    x = torch.randn(2, 16, 8, 8)
    assert torch.allclose(block(x), F.relu(factor * block.branch(x) + x))


def test_a_plain_net_has_no_branch_to_scale() -> None:
    with pytest.raises(ValidationError, match="residual branches, and this net has none"):
        ModelConfig(kind="plain", residual_scale=0.5)


# -- optimisers --------------------------------------------------------------------------------------------------------


def reference(optimizer: str, weights: np.ndarray, gradients: list[np.ndarray]) -> np.ndarray:
    """Updates in float64, written out: rate 0.1, momentum 0.9, weight decay 0.01."""
    w, rate, mu, decay = weights.astype(float), 0.1, 0.9, 0.01
    m, v = np.zeros_like(w), np.zeros_like(w)
    for t, g in enumerate(gradients, 1):
        if optimizer == "adamw":
            w = w - rate * decay * w
            m, v = mu * m + (1 - mu) * g, 0.999 * v + 0.001 * g * g
            w = w - rate * (m / (1 - mu**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        else:
            g = g + decay * w
            m = mu * m + g
            w = w - rate * (g + mu * m if optimizer in ("nesterov", "muon") else m)
    return w


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adamw", "muon"])
def test_an_update_is_that_of_its_formula(optimizer: str) -> None:
    """Of a vector, which Muon leaves to Nesterov's momentum."""
    torch.manual_seed(0)
    layer = nn.Linear(6, 1, bias=False)
    layer.weight = nn.Parameter(torch.randn(6))
    before = layer.weight.detach().numpy().copy()
    gradients = [np.random.default_rng(n).normal(size=6) for n in range(5)]
    train = TrainConfig(optimizer=optimizer, weight_decay=0.01)
    made = make_optimizer(train, layer, torch.tensor(0.1))
    for gradient in gradients:
        layer.weight.grad = torch.tensor(gradient, dtype=torch.float32)
        made.step()
    assert layer.weight.detach().numpy() == pytest.approx(reference(optimizer, before, gradients), abs=1e-5)


def test_nesterov_needs_a_momentum() -> None:
    with pytest.raises(ValidationError, match="nesterov needs one above 0; set optimizer to sgd"):
        TrainConfig(optimizer="nesterov", momentum=0.0)
    assert TrainConfig(optimizer="sgd", momentum=0.0).momentum == 0


def test_muon_orthogonalises() -> None:
    """Singular vectors stay, singular values come near 1."""
    torch.manual_seed(0)
    matrix = torch.randn(16, 144)
    u, _, v = torch.linalg.svd(matrix, full_matrices=False)
    inner = u.T @ orthogonalise(matrix) @ v.T
    values = inner.diagonal()
    assert ((values > 0.6) & (values < 1.3)).all()
    assert (inner - values.diag()).abs().max() < 1e-4
    assert torch.allclose(orthogonalise(matrix.T), orthogonalise(matrix).T, atol=1e-5)


def test_muon_moves_a_convolution_as_pytorchs_moves_its_matrix() -> None:
    """torch.optim.Muon takes matrices and computes in bf16."""
    torch.manual_seed(0)
    kernel = nn.Parameter(torch.randn(16, 8, 3, 3))
    matrix = nn.Parameter(kernel.detach().flatten(1).clone())
    ours = Muon([kernel], torch.tensor(0.02), momentum=0.9, weight_decay=0.1)
    ours.state[kernel]["momentum_buffer"] = torch.zeros_like(kernel)
    theirs = torch.optim.Muon([matrix], lr=0.02, momentum=0.95, weight_decay=0.1)
    for _ in range(3):
        gradient = torch.randn(16, 8, 3, 3)
        kernel.grad, matrix.grad = gradient, gradient.flatten(1)
        ours.step()
        theirs.step()
    assert torch.allclose(kernel.flatten(1), matrix, atol=1e-3)


@pytest.mark.parametrize("optimizer", ["nesterov", "adamw", "muon"])
def test_a_resumed_run_is_the_uninterrupted_one(optimizer: str) -> None:
    config = tiny(train={"optimizer": optimizer, "lr": 0.01, "clip_norm": 1.0, "label_smoothing": 0.1})
    whole, first = trainer(config), trainer(config)
    run(whole, 6)
    run(first, 3)
    state = copied(first.state())
    second = trainer(config)
    second.load(state)
    run(second, 6)
    for a, b in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_checkpoint_of_another_optimiser_is_refused() -> None:
    first = trainer(tiny(train={"optimizer": "adamw"}))
    run(first, 2)
    with pytest.raises(Exception, match="other training settings"):
        trainer(tiny(train={"optimizer": "sgd"})).load(copied(first.state()))


def trainer(config: RunConfig) -> Trainer:
    return Trainer(config, open_dataset(config.data), Hardware(CPU, "fp32"))


def run(made: Trainer, until: int) -> None:
    run_to_completion(made.advance(until, lambda: False))
    made.read()


def copied(state: dict[str, Any]) -> dict[str, Any]:
    content = io.BytesIO()
    torch.save(state, content)
    content.seek(0)
    return torch.load(content, weights_only=True)  # type: ignore[no-any-return]


# -- the loss and its gradient -----------------------------------------------------------------------------------------


def test_label_smoothing_and_clipping_are_in_the_step() -> None:
    """One step of SGD without momentum moves the weights by the clipped gradient of the smoothed loss."""
    config = tiny(train={"label_smoothing": 0.2, "clip_norm": 0.05, "momentum": 0.0, "weight_decay": 0.0, "lr": 1.0})
    made = trainer(config)
    before = [parameter.detach().clone() for parameter in made.model.parameters()]
    run(made, 1)
    moved = [b - parameter.detach() for b, parameter in zip(before, made.model.parameters(), strict=True)]
    assert torch.nn.utils.get_total_norm(moved).item() == pytest.approx(0.05, rel=1e-3)


# -- rates -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "rates"),
    [
        ({"schedule": "constant"}, {0: 0.1, 99: 0.1}),
        ({"schedule": "cosine"}, {0: 0.1, 50: 0.05, 99: 0.05 * (1 + math.cos(0.99 * math.pi))}),
        ({"schedule": "cosine", "warmup_steps": 10}, {0: 0.01, 9: 0.05 * (1 + math.cos(0.09 * math.pi))}),
        ({"warmup_steps": 20}, {0: 0.005, 19: 0.1, 49: 0.1, 50: 0.01, 75: 0.001}),
    ],
)
def test_a_rate_is_a_function_of_the_step(keys: dict[str, Any], rates: dict[int, float]) -> None:
    train = TrainConfig(steps=100, **keys)
    schedule = Schedule(train, torch.device("cpu"))
    for step, rate in rates.items():
        assert Schedule(train, torch.device("cpu")).rate_at(step, warming_up=False) == pytest.approx(rate, rel=1e-6)
        schedule.set_rate(torch.tensor([step]))
        assert schedule.rate.item() == pytest.approx(rate, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize(("depth", "rate"), [(20, 0.1), (56, 0.1 * 2.8**-1.5), (8, 0.1 * 0.4**-1.5)])
def test_a_rate_may_be_a_power_of_the_depth(depth: int, rate: float) -> None:
    law = {"at_depth": 20, "value": 0.1, "power": -1.5}
    config = RunConfig.model_validate({"model": {"depth": depth}, "train": {"lr": law}})
    assert config.train.for_depth(depth).lr == pytest.approx(rate)
    assert "learning rate 0.1 (depth / 20)^-1.5 instead of 0.1" in map(str, departures(config, "cifar10"))


def test_nets_whose_rate_is_one_law_are_one_family() -> None:
    law = {"at_depth": 20, "value": 0.1, "power": -1.5}
    nets = [RunConfig.model_validate({"model": {"depth": depth}, "train": {"lr": law}}) for depth in (20, 56)]
    assert nets[0].train == nets[1].train


def test_a_law_with_a_mistake_is_one_line() -> None:
    with pytest.raises(ValidationError, match=r"power: field required; expected \{at_depth: 20"):
        RunConfig.model_validate({"train": {"lr": {"at_depth": 20, "value": 0.1}}})
