"""Probes: their numbers against slow, straightforward computation, and that training does not notice them."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
from collections.abc import Callable, Collection, Iterable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional as F

from resexp.config import ModelConfig, RunConfig, TrainConfig
from resexp.config.study import load, load_run
from resexp.data.loader import normalise
from resexp.device.concurrent import run_to_completion
from resexp.errors import UserError
from resexp.models import build_model
from resexp.models.layers import BatchNorm
from resexp.probes import PROBES, ProbeInput
from resexp.probes import lesion as lesions
from resexp.probes.identity import compare, deepen, why_not
from resexp.probes.outputs import channel_sums, moments, signals
from resexp.runs.store import Run, StudyFolder
from resexp.sweeping import create
from resexp.training.probing import probe
from resexp.training.train import train
from tests.conftest import working_in, write_tiny
from tests.test_training import measured, weights

Resexp = Callable[..., subprocess.CompletedProcess[str]]


def subject(images: int = 64, side: int = 8, **config: Any) -> ProbeInput:
    """A random net whose BN has statistics unlike those it began with, and random images."""
    torch.manual_seed(1)
    model_config = ModelConfig(**{"depth": 8, "width": 4, **config})
    model = build_model(model_config)
    for module in model.modules():
        if isinstance(module, BatchNorm):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_(std=0.2)
    pixels = torch.randint(0, 256, (images, side, side, 3), dtype=torch.uint8)
    mean = pixels.float().mean(0) / 255
    return ProbeInput(model_config, model, pixels, torch.randint(0, 10, (images,)), mean, np.arange(images))


def take(name: str, of: ProbeInput) -> dict[str, Any]:
    work = PROBES[name].measure(of)
    while True:
        try:
            next(work)
        except StopIteration as end:
            found: dict[str, Any] = end.value
            json.dumps(found)  # it can be written
            return found


def by_name(rows: list[dict[str, Any]], key: str = "layer") -> dict[str, dict[str, Any]]:
    return {row[key]: row for row in rows}


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_gradients_are_those_of_each_batch() -> None:
    of = subject(images=600)
    found = take("gradients", of)
    of.model.train()
    gradients = []
    assert (found["batches"], found["batch_size"]) == (4, 128)  # no image twice
    for x, y in of.split(512, 128):
        of.model.zero_grad()
        F.cross_entropy(of.model(x), y).backward()
        gradients.append(of.model.get_submodule("stages.1.0.conv1").weight.grad.double().flatten().clone())
    each = torch.stack(gradients)
    row = by_name(found["layers"])["stages.1.0.conv1"]
    assert row["norm"] == pytest.approx(each.square().sum(1).mean().sqrt().item(), rel=1e-4)
    noise = each.var(0, correction=1).sum().item()
    signal = each.mean(0).square().sum().item() - noise / 4
    assert row["snr"] == pytest.approx(signal / noise, rel=1e-3)
    assert [row["layer"] for row in found["layers"]][::7] == ["conv", "fc"]


def test_neighbours_agree_less_the_further_they_are() -> None:
    agreement = take("gradients", subject())["agreement"]
    assert agreement == sorted(agreement, reverse=True)
    assert agreement[0] > 0.9


def test_signals_are_the_moments_of_each_output() -> None:
    of = subject(images=250)
    found = take("signals", of)
    outputs: dict[str, Tensor] = {}
    for name in ("stages.0.0.conv2", "stages.2.0"):
        of.model.get_submodule(name).register_forward_hook(lambda m, i, out, name=name: outputs.update({name: out}))
    ((x, _),) = of.split(250, 250)
    of.model.train()(x)
    conv, block = outputs["stages.0.0.conv2"], outputs["stages.2.0"]
    row = by_name(found["layers"])["stages.0.0.conv2"]
    assert (row["mean"], row["variance"]) == pytest.approx(
        (conv.mean().item(), conv.var(correction=0).item()), rel=1e-4
    )
    assert by_name(found["blocks"])["stages.2.0"]["variance"] == pytest.approx(block.var(correction=0).item(), rel=1e-4)


def test_responses_are_taken_after_bn_and_before_relu_and_addition() -> None:
    of = subject(images=250)
    found = take("responses", of)
    ((x, _),) = of.split(250, 250)
    model: Any = of.model.eval()
    stem = model.bn(model.conv(x))
    block = model.stages[0][0]
    response = block.branch(F.relu(stem))
    rows = by_name(found["layers"])
    assert rows["conv"]["std"] == pytest.approx(stem.std(correction=0).item(), rel=1e-4)
    assert rows["stages.0.0.conv2"]["std"] == pytest.approx(response.std(correction=0).item(), rel=1e-4)
    of_channels = response.transpose(0, 1).flatten(1).std(1, correction=0).mean().item()
    assert rows["stages.0.0.conv2"]["channel_std"] == pytest.approx(of_channels, rel=1e-4)
    assert len(rows) == 7  # the 3x3 layers of depth 8: all but the last layer
    assert found["mean_std"] == pytest.approx(np.mean([row["std"] for row in found["layers"]]))


@pytest.mark.parametrize("config", [{"block": "bottleneck", "depth": 11}, {"norm": "fixup"}, {"norm": "none"}])
def test_responses_of_other_blocks_are_those_of_their_3x3_layers(config: dict[str, Any]) -> None:
    found = take("responses", subject(**config))
    assert len(found["layers"]) == (4 if "block" in config else 7)


def test_branches_are_measured_beside_their_shortcuts() -> None:
    of = subject(images=250, depth=14)
    found = by_name(take("branches", of)["blocks"], "block")
    model: Any = of.model.eval()
    ((x, _),) = of.split(250, 250)
    x = F.relu(model.bn(model.conv(x)))
    block = model.stages[0][0]
    row = found["stages.0.0"]
    assert row["branch"] == pytest.approx(block.branch(x).square().sum((1, 2, 3)).mean().sqrt().item(), rel=1e-4)
    assert row["shortcut"] == pytest.approx(x.square().sum((1, 2, 3)).mean().sqrt().item(), rel=1e-4)
    assert row["ratio"] == pytest.approx(row["branch"] / row["shortcut"])


def test_a_net_that_was_never_trained_is_normalised_by_what_it_is_given() -> None:
    """In eval mode BN has no averages yet: without them the responses of 20 layers grow to thousands."""
    torch.manual_seed(0)
    config = ModelConfig(kind="residual", depth=56, width=8)
    pixels = torch.randint(0, 256, (300, 16, 16, 3), dtype=torch.uint8)
    of = ProbeInput(
        config, build_model(config), pixels, torch.randint(0, 10, (300,)), pixels.float().mean(0) / 255, np.arange(300)
    )
    trained = replace(of, model=copy.deepcopy(of.model))
    with torch.no_grad():  # as after many equal batches
        for module in (norms := [m for m in trained.model.modules() if isinstance(m, BatchNorm)]):
            module.momentum = 1.0
        trained.model.train()(normalise(of.images, of.mean))
        assert all(norm.running_mean.any() for norm in norms)
    found, expected = (take("branches", net)["blocks"] for net in (of, trained))
    assert [row["ratio"] for row in found] == pytest.approx([row["ratio"] for row in expected], rel=0.02)
    responses = take("responses", of)["layers"]
    assert [row["channel_std"] for row in responses] == pytest.approx([1.0] * 55, rel=0.05)
    state = copy.deepcopy(of.model.state_dict())
    take("responses", of)
    assert all(torch.equal(state[name], value) for name, value in of.model.state_dict().items())  # taken once
    assert not of.model.training


def error_of(of: ProbeInput, order: Iterable[int], skipped: Collection[int]) -> float:
    """Error of the net with its blocks in another order and without some."""
    ((x, y),) = of.split(250, 250)
    model: Any = of.model.eval()
    blocks = [block for stage in model.stages for block in stage]
    h = F.relu(model.bn(model.conv(x)))
    for number, block in enumerate(blocks[index] for index in order):
        if number not in skipped:
            h = block(h)
        elif of.config.kind == "residual":
            h = F.relu(block.shortcut(h))
        elif of.config.kind == "preact":
            h = block.shortcut(h)
    return float((model.fc(model.last(h).mean((2, 3))).argmax(1) != y).float().mean())


@pytest.mark.parametrize("kind", ["plain", "residual", "preact"])
def test_several_blocks_are_left_out_or_change_places(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Labels are what the net says, so that an error counts what changes. Exchanges make 2 0 1 | 4 5 | 7 8 of
    0 1 2 | 4 5 | 7 8, and 0 1 2 | 5 4 | 8 7: both invert 2 of 21 pairs."""
    monkeypatch.setattr(lesions, "_sets", lambda blocks, count: [[6, 3, 1, 0][:count]])
    orders = {1: [[(5, 6)]], 2: [[(0, 1), (0, 2)], [(3, 4), (5, 6)]], 4: []}
    monkeypatch.setattr(lesions, "_exchanges", lambda stages, count: orders[count])
    of = subject(kind=kind, depth=20, images=250)
    model: Any = of.model.eval()
    logits = model(normalise(of.images, of.mean)).detach()
    model.fc.bias.data -= logits.mean(0)  # or all images would be of one class
    of = replace(of, labels=(logits - logits.mean(0)).argmax(1))
    before = {name: value.clone() for name, value in of.model.state_dict().items()}
    found = take("lesion", of)
    removed = [error_of(of, range(9), skipped) for skipped in ((8, 4), (8, 4, 1, 0))]
    assert [row["blocks"] for row in found["removed"]] == [2, 4]
    assert [row["error"] for row in found["removed"]] == pytest.approx(removed)
    moved = [(0, 1, 2, 3, 4, 5, 6, 8, 7), (2, 0, 1, 3, 4, 5, 6, 7, 8), (0, 1, 2, 3, 5, 4, 6, 8, 7)]
    shuffled = [error_of(of, order, ()) for order in moved]
    assert [row["pairs"] for row in found["shuffled"]] == [1, 2, 2]
    assert [row["error"] for row in found["shuffled"]] == pytest.approx(shuffled)
    assert [row["tau"] for row in found["shuffled"]] == pytest.approx([1 - 2 / 21, 1 - 4 / 21, 1 - 4 / 21])
    assert min(removed) > 0.3
    assert all(torch.equal(value, before[name]) for name, value in of.model.state_dict().items())


def test_sets_of_blocks_and_orders_are_random_and_the_same_in_every_net() -> None:
    """Five of each number, without repeats within a set; exchanges stay within a stage."""
    plain, residual = (take("lesion", subject(kind=kind, depth=20)) for kind in ("plain", "residual"))
    assert [row["blocks"] for row in plain["removed"]] == [2] * 5 + [4] * 5
    assert [row["pairs"] for row in plain["shuffled"]] == [1] * 5 + [2] * 5 + [4] * 5
    assert [(row["pairs"], row["tau"]) for row in plain["shuffled"]] == [
        (row["pairs"], row["tau"]) for row in residual["shuffled"]
    ]
    sets = list(lesions._sets(25, 8))
    assert len(sets) == 5
    assert all(len(set(chosen)) == 8 and set(chosen) <= set(range(25)) for chosen in sets)
    assert len(set(map(tuple, sets))) == 5
    assert sets == list(lesions._sets(25, 8))
    stages = [0, 0, 0, 1, 1, 2]
    for pairs in lesions._exchanges(stages, 8):
        assert len(pairs) == 8
        assert set(pairs) <= {(0, 1), (0, 2), (1, 2), (3, 4)}
    assert list(lesions._exchanges([0, 1, 2], 1)) == []


@pytest.mark.parametrize("kind", ["plain", "residual", "preact"])
def test_a_lesion_leaves_out_one_block_and_mends_it(kind: str) -> None:
    of = subject(kind=kind, depth=20, images=250)
    before = {name: value.clone() for name, value in of.model.state_dict().items()}
    found = take("lesion", of)

    def error(skipped: int | None) -> float:
        return error_of(of, range(9), () if skipped is None else (skipped,))

    without = by_name(found["without"], "block")
    assert found["intact"] == pytest.approx(error(None))
    assert without["stages.0.1"]["error"] == pytest.approx(error(1))
    assert without["stages.2.2"]["error"] == pytest.approx(error(8))
    assert [row["block"] for row in found["without"] if not row["same"]] == (
        [] if kind == "plain" else ["stages.1.0", "stages.2.0"]
    )
    assert [row["block"] for row in found["swapped"]] == ["stages.0.1", "stages.0.2", "stages.1.2", "stages.2.2"]
    assert all(torch.equal(value, before[name]) for name, value in of.model.state_dict().items())


def test_the_landscape_has_the_net_in_its_middle_and_directions_of_its_own_norms() -> None:
    of = subject(images=250)
    ((x, y),) = of.split(250, 250)
    with torch.no_grad():
        loss = F.cross_entropy(of.model.eval()(x), y).item()
    norms = of.model.get_submodule("stages.0.0.conv1").weight.detach().flatten(1).norm(dim=1)
    found = take("landscape", of)
    assert found["loss"][8][8] == pytest.approx(loss, rel=1e-5)
    assert found["steps"][8] == 0
    assert (len(found["loss"]), len(found["loss"][0])) == (17, 17)
    # It ends in the corner w + a + b; two random directions of as many numbers are nearly at right angles.
    corner = of.model.get_submodule("stages.2.0.conv2").weight.detach().norm()
    original = subject(images=250).model.get_submodule("stages.2.0.conv2").weight.detach().norm()
    assert (corner / original).item() == pytest.approx(3**0.5, rel=0.05)
    assert len(norms) == 4


def test_moments_of_pieces_are_those_of_the_whole() -> None:
    x = torch.randn(10, 3, 4, 4) * torch.tensor([1.0, 2.0, 3.0])[:, None, None] + 5
    found = moments(torch.stack([channel_sums(piece) for piece in x.split(4)]).sum(0))
    assert found.mean.mean().item() == pytest.approx(x.mean().item())
    assert found.overall_variance == pytest.approx(x.var(correction=0).item(), rel=1e-5)


def test_neighbours_lose_the_same_branches() -> None:
    assert take("gradients", subject(depth=20, drop_path=0.5))["agreement"][0] > 0.8


def test_what_is_not_a_number_is_written_as_none(make: Callable[..., Run], here: Resexp) -> None:
    """Fixup begins with a classifier of zeros: no gradient comes through it."""
    run = make(model={"norm": "fixup"})
    done = here("probe", "gradients", run.folder, "--at-init", "--json")
    assert done.returncode == 0
    (record,) = json.loads(done.stdout, parse_constant=pytest.fail)
    assert record["agreement"] == [None] * 5
    assert by_name(record["layers"])["conv.1"]["snr"] is None


def test_what_is_not_finite_ends_no_command(make: Callable[..., Run], here: Resexp) -> None:
    """A net that overflows from some layer on."""
    run = make(model={"norm": "none", "kind": "residual", "residual_scale": 1e13})
    for name, says in (("signals", "not finite)"), ("landscape", "loss none, around it none"), ("gradients", "none")):
        done = here("probe", name, run.folder, "--at-init")
        assert (done.returncode, says in " ".join(done.stdout.split())) == (0, True), done.stdout


# -- identity blocks --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "config",
    [
        {"kind": "plain"},
        {"kind": "plain", "norm": "none"},
        {"kind": "residual"},
        {"kind": "residual", "shortcut": "B"},
        {"kind": "residual", "residual_init": "rezero", "norm": "none"},
        {"kind": "residual", "residual_init": "rezero"},
        {"kind": "residual", "residual_init": "zero-gamma"},
        {"kind": "residual", "norm": "fixup"},
        {"kind": "residual", "norm": "group"},
        {"kind": "residual", "norm": "layer"},
        {"kind": "preact"},
        {"kind": "residual", "block": "bottleneck", "depth": 11},
    ],
)
def test_the_deeper_net_computes_what_the_shallower_one_does(config: dict[str, Any]) -> None:
    of = subject(images=500, **config)
    depth = 3 * of.config.depth - 4  # three times the blocks
    deeper = ModelConfig(**{"width": 4, **config, "depth": depth})
    deep: Any = build_model(deeper)
    assert why_not(of.config, deeper) == ""

    def batches() -> Any:
        return of.split(500)

    deepen(of.model, deep, batches)  # type: ignore[arg-type]
    found = compare(of.model, deep, batches)
    assert found["changed_predictions"] == 0
    assert found["constructed_error"] == found["handed_error"]
    exact = config["kind"] != "plain" or config.get("norm") == "none"
    assert found["largest_logit_difference"] <= (0.0 if exact else 1e-5)
    assert_all_learn(deep, *next(iter(batches())))


def assert_all_learn(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    """Every weight has a gradient once the zeros of others are gone, after two steps."""
    optimizer = torch.optim.SGD(model.train().parameters(), lr=1e-4)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert max(losses) - min(losses) < 0.05  # a small step changes the function little: no norm scales up zeros
    dead = [name for name, weight in model.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert dead == []


@pytest.mark.parametrize("images", [251, 2])
def test_no_batch_is_of_one_image(images: int) -> None:
    """In train mode BN would have no variance where the last maps have one pixel."""
    of = subject(images=500, side=4, kind="residual")
    small = replace(of, index=of.index[:images])
    assert sum(len(x) for x, _ in small.split(1000)) == images
    assert min(len(x) for x, _ in small.split(1000)) > 1
    run_to_completion(signals(small))


def test_whatever_is_not_refused_is_an_identity() -> None:
    equal = 0
    for kind, norm, activation, scale in product(
        ("plain", "residual", "preact"), ("batch", "group", "layer", "none", "fixup"),
        ("relu", "leaky_relu", "gelu", "tanh", "tat"), (1.0, 0.5, "depth^-0.5"),
    ):  # fmt: skip
        fields = {"kind": kind, "norm": norm, "activation": activation, "residual_scale": scale, "width": 4}
        try:
            shallow, deeper = (ModelConfig(**fields, depth=depth) for depth in (8, 14))
        except ValidationError:
            continue
        if why_not(shallow, deeper):
            continue
        model, deep = (build_model(config) for config in (shallow, deeper))
        batches = [(torch.rand(8, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8))]
        deepen(model, deep, lambda batches=batches: batches)  # type: ignore[arg-type, misc]
        assert compare(model, deep, lambda batches=batches: batches)["largest_logit_difference"] < 1e-4, fields  # type: ignore[misc]
        equal += 1
    assert equal > 30


def test_in_train_mode_a_plain_identity_is_nearly_one() -> None:
    """Its gain and bias are the statistics of what comes in, so that training begins where the shallower net ended."""
    of = subject(images=500, kind="plain")
    for norm in of.model.modules():
        if isinstance(norm, BatchNorm):
            norm.reset_running_stats()
            norm.momentum = 1.0
    ((x, _),) = of.split(500, 500)
    of.model.train()(x)  # statistics are now those of these images
    deep: Any = build_model(ModelConfig(kind="plain", depth=14, width=4))
    deepen(of.model, deep, lambda: of.split(500))  # type: ignore[arg-type]
    with torch.no_grad():
        assert (deep.train()(x) - of.model.train()(x)).abs().max() < 0.05


def test_what_cannot_be_an_identity() -> None:
    plain = {"kind": "plain", "block": "bottleneck"}
    assert "squeezes" in why_not(ModelConfig(**plain, depth=11), ModelConfig(**plain, depth=20))
    assert "every shortcut is a projection" in why_not(ModelConfig(depth=8, shortcut="C"), ModelConfig(shortcut="C"))
    assert "stochastic depth" in why_not(ModelConfig(depth=8, drop_path=0.5), ModelConfig(drop_path=0.5))
    assert why_not(ModelConfig(depth=20), ModelConfig(depth=20)) == ""  # none are inserted
    assert why_not(ModelConfig(depth=20), ModelConfig(depth=14)) == "14 layers are fewer than 20"
    assert "more than depth" in why_not(ModelConfig(depth=8), ModelConfig(depth=20, width=8))
    of_params = ModelConfig(depth=8, width=8, params=None), ModelConfig(depth=20, width=8, params=None)
    assert why_not(of_params[0].model_copy(update={"params": 20_000}), of_params[1]) == ""


# -- in training ------------------------------------------------------------------------------------------------------

ALL = {name: [0, 6, -1] for name in ("gradients", "signals", "responses", "branches", "lesion")}


@pytest.fixture
def make(write_study: Callable[..., Path]) -> Callable[..., Run]:
    """Create the run of a tiny study."""

    def run(results: str = "results", **sections: Any) -> Run:
        study, (cell,) = load(str(write_study(**sections)))
        return create(study, cell, Path(results))

    return run


def test_training_does_not_notice_probes(make: Callable[..., Run]) -> None:
    probed, bare = make("with", probes=ALL), make("without")
    assert probed.folder.relative_to("with") == bare.folder.relative_to("without")  # probes are no part of the recipe
    assert train(probed).state == train(bare).state == "finished"
    assert measured(probed) == measured(bare)
    a, b = weights(probed), weights(bare)
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert {path.name for path in probed.folder.glob("probes/*")} == {f"{n}-{s}.json" for n in ALL for s in (0, 6, 12)}


def test_a_probe_that_makes_no_sense_for_a_net_is_left_out_of_its_training(make: Callable[..., Run]) -> None:
    run = make(model={"kind": "plain"}, probes={"branches": [0, -1]})
    assert train(run).state == "finished"
    assert not list(run.folder.glob("probes/*"))


def test_a_probe_in_training_finds_what_one_of_the_finished_run_finds(make: Callable[..., Run]) -> None:
    run = make(probes={"gradients": [0, -1], "responses": [-1]})
    assert train(run).state == "finished"
    for name, step, initial in (("gradients", 0, True), ("gradients", 12, False), ("responses", 12, False)):
        in_training = run.probes(name)[step]
        run.probe_path(name, step).unlink()
        assert probe(run, name, initial=initial) == step
        assert {**run.probes(name)[step], "seconds": 0} == {**in_training, "seconds": 0}


def test_a_run_stopped_in_a_probe_takes_it_again(make: Callable[..., Run]) -> None:
    whole, run = make("whole", probes={"lesion": [-1]}), make("parts", probes={"lesion": [-1]})
    assert train(whole).state == "finished"
    asked = 0

    def stop() -> bool:
        """A few pieces after the last step, where only the probe and the test are left."""
        nonlocal asked
        asked += bool(run.metrics() and run.metrics()[-1]["event"] == "eval" and run.metrics()[-1]["step"] == 12)
        return asked > 2

    assert train(run, stop=stop).state == "interrupted"
    assert not run.probes("lesion")
    assert train(run).state == "finished"
    assert {**run.probes("lesion")[12], "seconds": 0} == {**whole.probes("lesion")[12], "seconds": 0}
    assert measured(run) == measured(whole)


@pytest.mark.parametrize(
    "model", [{"drop_path": 0.5}, {"norm": "fixup"}, {"residual_init": "rezero"}, {"kind": "preact"}]
)
def test_every_kind_of_net_resumes_bit_for_bit(model: dict[str, Any], make: Callable[..., Run]) -> None:
    whole, parts = (make(results, model=model, train={"checkpoint_steps": 5}) for results in ("whole", "parts"))
    assert train(whole).state == "finished"
    assert train(parts, stop=lambda: parts.status().step >= 5).state == "interrupted"
    assert train(parts).state == "finished"
    a, b = weights(whole), weights(parts)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert measured(whole) == measured(parts)


# -- from the command line --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of a plain and a residual net, trained."""
    with working_in(tmp_path_factory.mktemp("trained")) as folder:
        study, cells = load(str(write_tiny(folder / "tiny.yaml", grid={"model.kind": ["plain", "residual"]})))
        for cell in cells:
            assert train(create(study, cell, Path("results"))).state == "finished"
    return folder


@pytest.fixture
def trained(trained_once: Path, tmp_path: Path) -> dict[str, Path]:
    """A copy of that study, by kind of net."""
    shutil.copytree(trained_once, tmp_path, dirs_exist_ok=True)
    return {path.parent.name.partition("-")[0]: path for path in Path("results").glob("tiny/*/seed0")}


def test_probe_of_a_study_leaves_out_nets_that_it_makes_no_sense_for(here: Resexp, trained: dict[str, Path]) -> None:
    done = here("probe", "branches", "results/tiny", "--json")
    assert done.returncode == 0
    assert "plain-8 seed 0: left out, for a plain net has no residual branches" in done.stderr
    (record,) = json.loads(done.stdout)
    assert record["run"] == "residual-8 seed 0"
    assert record == {
        "run": record["run"],
        "folder": record["folder"],
        **Run(trained["residual"]).probes("branches")[12],
    }


def test_probe_of_a_study_file_looks_at_untrained_nets(here: Resexp, write_study: Callable[..., Path]) -> None:
    done = here("probe", "gradients", write_study(), "--set", "model.depth=14", "--json")
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert (record["run"], record["step"], len(record["layers"])) == ("residual-14 seed 0", 0, 14)


def test_probe_of_a_study_that_was_trained_here_looks_at_its_nets(
    here: Resexp, write_study: Callable[..., Path]
) -> None:
    study = write_study(executor={"name": "debug"})
    assert json.loads(here("probe", "signals", study, "--json").stdout)[0]["step"] == 0
    assert here("sweep", study).returncode == 0
    for words, step in (([], 12), (["--at-init"], 0), (["--set", "model.depth=14"], 0)):
        assert json.loads(here("probe", "signals", study, *words, "--json").stdout)[0]["step"] == step


def test_identity_blocks_handed_on_and_trained_at_equal_budgets(
    here: Resexp, trained: dict[str, Path], write_study: Callable[..., Path]
) -> None:
    """Donors of 12 steps, trained on for 6: a net of the donor's depth goes on as long, and a fresh one gets all 18."""
    donors = [trained["plain"], Path("results/tiny", trained["plain"].parent.name, "seed1")]
    more = write_study(grid={"model.kind": "plain"}, seeds=[1], executor={"name": "debug"})
    assert here("sweep", "--config", more).returncode == 0
    done = here("probe", "identity", *donors, "--depth", 14, "--set", "train.steps=6", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["shallow"], found["depth"], found["steps"]) == ("plain-8", 14, 12)
    for donor, of_donor in zip(donors, found["donors"], strict=True):
        assert of_donor["handed_error"] == Run(donor).status().clean_train_error
        assert of_donor["constructed_error"] == of_donor["handed_error"]
    (folder,) = Path("results").glob("identity-plain-8-*-to-plain-14-*")
    study = StudyFolder(folder)
    labels = ["plain-14-built", "plain-8-trained-further", "plain-14-new"]
    for run, (seed, label) in zip(study.runs(), product((0, 1), labels), strict=True):
        assert run.label.startswith(label)  # runs that begin as other donors are told apart by their signatures
        assert run.title.endswith(f"seed {seed}")
    configs = [load_run(run.config_path) for run in study.runs()]
    assert [config.train.init_from for config in configs] == [
        origin and str(origin) for donor in donors for origin in (donor, donor, None)
    ]
    assert [config.train.steps for config in configs] == [6, 6, 18] * 2
    assert [config.train.milestones for config in configs] == [(3, 4), (3, 4), (9, 13)] * 2  # the default's
    again = here(
        *("probe", "identity", study.runs()[0].folder, "--depth", 20),
        *("--set", "train.steps=6", "--set", "train.milestones=[2]"),
    )
    assert again.returncode == 0, again.stderr
    (second,) = Path("results").glob("identity-plain-14-*")
    *_, fresh = (load_run(run.config_path).train for run in StudyFolder(second).runs())
    assert (fresh.steps, fresh.milestones) == (12 + 6 + 6, (8,))  # a third of the way, as 2 is of 6


def test_views_and_ensembles(here: Resexp, trained: dict[str, Path]) -> None:
    assert "4 pixels" not in here("probe", "ten-crop", "results/tiny").stdout
    run = Run(trained["plain"])
    record = run.probes("ten-crop")[12]
    assert (record["crop"], record["pad"], record["views"]) == (8, 1, 10)
    assert record["single_view_test_error"] == run.status().test_error
    assert here("probe", "multi-scale", trained["plain"], "--sides", "8,12").returncode == 0
    assert run.probes("multi-scale")[12]["sides"] == [8, 12]
    found = json.loads(here("probe", "ensemble", "results/tiny", "--json").stdout)
    assert [member["test_error"] for member in found["members"]] == [
        Run(trained[kind]).status().test_error for kind in ("plain", "residual")
    ]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["branches", "{plain}"], "a plain net has no residual branches, so there is nothing to probe for branches"),
        (["gradients", "results"], "results: neither a run folder (config.yaml) nor a study folder"),
        (["gradients", "nowhere"], "nowhere: no such file"),
        (["gradients", "{plain}", "--set", "model.depth=14"], "--set goes with a study file"),
        (["ensemble", "{plain}"], "an ensemble needs two runs or more"),
        (["ensemble", "{plain}", "{plain}"], "named twice"),
        (["ten-crop", "{plain}", "--crop", "9"], "a crop of 9 pixels from images of 8x8"),
        (["multi-scale", "{plain}", "--sides", "8;12"], "expected positive whole numbers with commas between"),
        (["identity", "{plain}", "--depth", "8"], "8 layers are not deeper than 8"),
        (["identity", "{plain}", "--depth", "15"], "must be 6n+2"),
        (["identity", "{plain}", "--depth", "14", "--set", "data.pad=2"], "trained on other data"),
        (["identity", "results/nowhere", "--depth", "14"], "results/nowhere: neither a run folder (config.yaml) nor"),
        (["identity", "{plain}", "{plain}", "--depth", "14"], "two donors have the same seed; name each once"),
        (["identity", "{plain}", "{residual}", "--depth", "14"], "donors differ in seed only"),
    ],
)
def test_bad_input_is_one_line(here: Resexp, trained: dict[str, Path], arguments: list[str], says: str) -> None:
    done = here("probe", *(argument.format(**trained) for argument in arguments))
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_probe_of_other_images_than_the_run_saw_is_refused(here: Resexp, trained: dict[str, Path]) -> None:
    run = Run(trained["plain"])
    manifest = run.manifest()
    assert manifest is not None
    manifest.data.fingerprint = "another"
    run.write_manifest(manifest)
    done = here("probe", "signals", trained["plain"])
    assert done.returncode == 2
    assert "begun on other data" in done.stderr


def test_a_start_is_the_same_however_its_folder_is_spelled() -> None:
    spelled = ["results/study/plain-8-0123/seed0", "./results/study/plain-8-0123/seed0/", "/else/plain-8-0123/seed0"]
    assert len({RunConfig(train=TrainConfig(init_from=name)).signature for name in spelled}) == 1
    assert RunConfig().signature != RunConfig(train=TrainConfig(init_from=spelled[0])).signature


def test_a_probe_that_can_not_write_measures_nothing(trained: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    run = Run(trained["plain"])
    monkeypatch.setattr("os.access", lambda path, mode: Path(path) != run.probe_folder)
    monkeypatch.setattr("resexp.training.probing.open_dataset", None)
    with pytest.raises(UserError, match=r"probes: can't be written to; allow it, or copy the study elsewhere"):
        probe(run, "lesion")


def test_a_run_without_a_checkpoint(here: Resexp, trained: dict[str, Path]) -> None:
    (trained["plain"] / "checkpoint.pt").unlink()
    done = here("probe", "signals", trained["plain"])
    assert done.returncode == 2
    assert "no checkpoint.pt, so there are no weights" in done.stderr


def test_a_start_that_is_not_finished_is_refused_before_training(
    here: Resexp, write_study: Callable[..., Path], trained: dict[str, Path]
) -> None:
    study = write_study(model={"depth": 14, "kind": "plain"}, train={"init_from": "results/nowhere"})
    done = here("train", "--config", study)
    assert done.returncode == 2
    assert "results/nowhere: no run folder to start from" in done.stderr


@pytest.mark.parametrize(
    ("probes", "says"),
    [
        ({"gradients": [13]}, "step 13 is beyond train.steps, 12"),
        ({"gradient": [0]}, "unknown key, got [0]; allowed: gradients"),
        ({"lesion": 3}, "probes.lesion: "),
    ],
)
def test_mistakes_in_the_probes_section(
    here: Resexp, write_study: Callable[..., Path], probes: dict[str, Any], says: str
) -> None:
    done = here("sweep", "--config", write_study(probes=probes))
    assert done.returncode == 2
    assert says in done.stderr
    assert "tiny.yaml" in done.stderr


def test_a_damaged_record_is_named(trained: dict[str, Path]) -> None:
    run = Run(trained["plain"])
    run.probe_path("signals", 12).parent.mkdir()
    run.probe_path("signals", 12).write_text("{")
    with pytest.raises(UserError, match=r"signals-12.json: damaged; delete it"):
        run.probes("signals")


def test_of_a_vgg_is_said_what_can_be_said() -> None:
    of = subject(kind="vgg", depth=16, side=32, width=1, images=8)
    assert len(take("signals", of)["layers"]) == 16
    assert PROBES["lesion"].why_not(of.config) == "VGG has no blocks"
