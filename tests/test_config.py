"""The schema: the paper's defaults, limits, and the signature."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from resexp.config import FolderData, ModelConfig, RunConfig, ShapesData, TrainConfig


def test_the_defaults_are_the_papers_recipe() -> None:
    train = TrainConfig()
    assert (train.steps, train.batch_size, train.lr, train.gamma) == (64_000, 128, 0.1, 0.1)
    assert (train.momentum, train.weight_decay, train.milestones) == (0.9, 1e-4, (32_000, 48_000))
    assert train.warmup_lr is None
    assert ModelConfig() == ModelConfig(kind="residual", depth=20, width=16, shortcut="A")
    assert (RunConfig().data.pad, RunConfig().data.flip, RunConfig().data.split) == (4, True, "full")


@pytest.mark.parametrize(("steps", "milestones"), [(400, (200, 300)), (2, (1,)), (1, ())])
def test_milestones_stand_at_half_and_three_quarters_of_the_steps(steps: int, milestones: tuple[int, ...]) -> None:
    assert TrainConfig(steps=steps).milestones == milestones


def test_a_plain_net_has_no_shortcut_and_a_residual_one_option_a() -> None:
    assert ModelConfig(kind="plain").shortcut is None
    assert ModelConfig(kind="residual").shortcut == "A"
    with pytest.raises(ValidationError, match="a plain net has no shortcut"):
        ModelConfig(kind="plain", shortcut="A")


@pytest.mark.parametrize(("depth", "near"), [(21, "20 and 26"), (55, "50 and 56"), (18, "14 and 20")])
def test_a_depth_that_is_not_6n_plus_2_names_the_nearest_two(depth: int, near: str) -> None:
    with pytest.raises(ValidationError, match=f"the nearest are {near}"):
        ModelConfig(depth=depth)


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": "400"},
        {"steps": True},
        {"steps": 1.0},
        {"lr": "0.1"},
        {"lr": 0},
        {"lr": float("inf")},
        {"batch_size": 1},
        {"momentum": 1.0},
        {"steps": 100, "milestones": [100]},
        {"milestones": [2, 1]},
        {"milestones": [0]},
        {"device": "tpu"},
    ],
)
def test_values_of_the_wrong_type_or_out_of_range_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TrainConfig.model_validate(wrong)


def test_signatures_are_pinned() -> None:
    """A changed default changes these, so that it can't silently reuse the folder of an older run."""
    assert RunConfig().signature == "daa7e441"
    assert RunConfig(data=ShapesData(source="shapes")).signature == PINNED_SHAPES
    assert RunConfig(model=ModelConfig(kind="plain", depth=56)).signature == "b659d094"


PINNED_SHAPES = "90368743"


def test_the_signature_is_of_the_science_and_not_of_the_mechanics() -> None:
    base = RunConfig()
    mechanics = TrainConfig(log_every=7, checkpoint_steps=5, checkpoint_seconds=1.0, device="cpu")
    assert RunConfig(train=mechanics, seed=3).signature == base.signature
    a, b = (RunConfig(data=FolderData(source="folder", path=path)) for path in ("here", "there"))
    assert a.signature == b.signature
    for changed in (TrainConfig(lr=0.2), TrainConfig(precision="fp16"), TrainConfig(eval_every=10)):
        assert RunConfig(train=changed).signature != base.signature


def test_a_resolved_configuration_reads_back_the_same() -> None:
    config = RunConfig(
        data=ShapesData(source="shapes", split="holdout"), model=ModelConfig(kind="plain", depth=32), seed=4
    )
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config
