"""The schema: the paper's defaults, limits, and the signature."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from resexp.config import SECTIONS, FolderData, ModelConfig, RunConfig, ShapesData, TrainConfig
from resexp.config.messages import RENAMED
from resexp.config.study import load
from resexp.errors import UserError


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


@pytest.mark.parametrize(
    ("data", "batch_size", "steps"),
    [
        ({"source": "cifar10"}, 128, 64_063),  # 164 x 50,000 / 128 = 64,062.5
        ({"source": "cifar10", "split": "holdout"}, 128, 57_657),  # 164 x 45,000 / 128 = 57,656.25
        ({"source": "cifar10"}, 256, 32_032),
        ({"source": "cifar100"}, 128, 64_063),
        ({"source": "svhn"}, 128, 93_861),  # 164 x 73,257 / 128 = 93,860.5
        ({"source": "svhn", "split": "holdout"}, 128, 84_475),  # 164 x 65,931 / 128 = 84,474.1
        ({"source": "shapes", "train_images": 1000}, 100, 1640),
        ({"source": "imagenet", "path": "ilsvrc"}, 256, 820_748),  # 164 x 1,281,167 / 256 = 820,747.6
    ],
)
def test_steps_may_be_written_in_epochs(data: dict[str, Any], batch_size: int, steps: int) -> None:
    train = {"batch_size": batch_size, "steps": "164 epochs"}
    assert RunConfig.model_validate({"data": data, "train": train}).train == TrainConfig(
        batch_size=batch_size, steps=steps
    )


def test_all_that_counts_steps_may_be_written_in_epochs() -> None:
    train = {"steps": "2 epochs", "milestones": ["1 epoch", "1.5 epochs"], "eval_every": "0.5 epochs"}
    train |= {"log_every": "1 epoch", "checkpoint_steps": "1 epochs"}
    data = {"source": "shapes", "train_images": 1000}
    steps = {"steps": 20, "milestones": [10, 15], "eval_every": 5, "log_every": 10, "checkpoint_steps": 10}
    ours, plain = (
        RunConfig.model_validate({"data": data, "train": {"batch_size": 100, **own}}) for own in (train, steps)
    )
    assert ours == plain
    assert ours.signature == plain.signature


@pytest.mark.parametrize(
    "data", [{"source": "folder", "path": "x"}, {"source": "imagenet", "path": "x", "classes": 10}]
)
def test_epochs_of_unknown_length_are_refused(data: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="steps in epochs needs the number of training images, unknown here"):
        RunConfig.model_validate({"data": data, "train": {"steps": "3 epochs"}})


def test_a_plain_net_has_no_shortcut_and_a_residual_one_option_a() -> None:
    assert ModelConfig(kind="plain").shortcut is None
    assert ModelConfig(kind="residual").shortcut == "A"
    with pytest.raises(ValidationError, match="a plain net has no shortcut"):
        ModelConfig(kind="plain", shortcut="A")


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


PINNED: dict[str, dict[str, dict[str, object]]] = {
    "45bd6307": {},
    "5ab95296": {"model": {"kind": "plain", "depth": 56}},
    "ee200da3": {"model": {"depth": 110}, "train": {"warmup_lr": 0.01}},
    "226f6cb7": {"model": {"depth": 20, "shortcut": "B"}},
    "9674b6e4": {"model": {"kind": "preact", "depth": 164, "block": "bottleneck"}},
    "ce19bff7": {"model": {"norm": "none", "residual_init": "rezero"}, "train": {"lr": 0.05}},
    "6ee543e6": {"data": {"source": "cifar10", "split": "holdout"}},
    "7741be2f": {"data": {"source": "folder", "path": "images", "resize": 16, "pad": 2}, "model": {"width": 8}},
    "2336c535": {"data": {"source": "shapes"}, "train": {"steps": 400, "batch_size": 64}},
    "6fbdc547": {"train": {"precise_bn_images": 1000, "sync_bn": True, "precision": "fp32"}},
    "fbc52086": {
        "data": {"source": "imagenet", "path": "x", "cache": {"side": 480}},
        "model": {"variant": "imagenet", "depth": 34, "kind": "plain"},
        "train": {"steps": 600_000, "batch_size": 256, "microbatch": 32, "schedule": "plateau"},
    },
    "7eb818e7": {"model": {"depth": 56}, "train": {"init_from": "results/s/residual-20-01234567/seed0"}},
}


def test_signatures_are_pinned() -> None:
    """A key that is added later changes none of these; a default that is changed would, and is not allowed to."""
    found = {RunConfig.model_validate(config).signature: config for config in PINNED.values()}
    assert found == PINNED


def test_a_signature_leaves_out_what_is_at_its_default() -> None:
    """A default that is written out is the same run, and so is one that depends on other keys."""
    written = {"train": {"steps": 64_000, "milestones": [32_000, 48_000], "lr": 0.1}, "model": {"shortcut": "A"}}
    assert RunConfig.model_validate(written).signature == RunConfig().signature
    assert RunConfig(model=ModelConfig(width=16)).signature == RunConfig().signature


def test_data_are_cifar_10_where_no_source_is_named() -> None:
    config = RunConfig.model_validate({"data": {"pad": 0}})
    assert config == RunConfig.model_validate({"data": {"source": "cifar10", "pad": 0}})


@pytest.mark.parametrize(("old", "new"), RENAMED.items())
def test_an_earlier_key_is_refused_with_its_name_of_today(old: str, new: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text("data: {source: imagenet, path: x}\nmodel: {variant: imagenet}\n")
    with pytest.raises(UserError) as error:
        load(str(path), [f"{old}=1"])
    assert f"{old}: was renamed; write {new}" in str(error.value)
    section = new.split(",")[0].rsplit(".", 1)
    known: dict[str, Any] = {"executor.slurm": SECTIONS["slurm"], "data": SECTIONS["imagenet"], **SECTIONS}
    assert section[1] in known[section[0]].model_fields


def test_the_signature_is_of_what_is_measured_alone() -> None:
    base = RunConfig()
    not_in_signature = TrainConfig(log_every=7, checkpoint_steps=5, checkpoint_seconds=1.0, device="cpu")
    assert RunConfig(train=not_in_signature, seed=3).signature == base.signature
    a, b = (RunConfig(data=FolderData(source="folder", path=path)) for path in ("here", "there"))
    assert a.signature == b.signature
    for changed in (TrainConfig(lr=0.2), TrainConfig(precision="fp16"), TrainConfig(eval_every=10)):
        assert RunConfig(train=changed).signature != base.signature


def test_a_resolved_configuration_reads_back_the_same() -> None:
    config = RunConfig(
        data=ShapesData(source="shapes", split="holdout"), model=ModelConfig(kind="plain", depth=32), seed=4
    )
    assert RunConfig.model_validate(config.model_dump(mode="json")) == config


def test_a_crop_must_fit_into_the_default_sizes_too() -> None:
    with pytest.raises(ValidationError, match="a crop of 300 does not fit into 256 pixels"):
        RunConfig.model_validate({"data": {"source": "imagenet", "path": "x", "crop": 300}})
