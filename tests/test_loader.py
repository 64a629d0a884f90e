"""The stream of training batches: a pure function of (seed, epoch, position), and augmentation as it is defined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from resexp.config import Cifar10Data
from resexp.data.loader import Batches, BatchPlan, augment, normalise, pixel_mean, plan_epoch

CPU = torch.device("cpu")


def batches(images: int, size: int, *, seed: int = 0, **data: Any) -> Callable[[int], BatchPlan]:
    """The plan of a batch by its number, out of so many images."""
    stream = Batches(np.arange(images), Cifar10Data(**data), seed, size, CPU)

    def plan(step: int) -> BatchPlan:
        stream.prepare(step)
        return stream.plan(torch.tensor([step]))

    return plan


def columns(plan: BatchPlan) -> list[list[int]]:
    return [column.tolist() for column in plan]


def test_every_epoch_is_a_permutation_of_the_images_and_each_another_one() -> None:
    index = np.arange(5, 30)
    first, second = (plan_epoch(index, 0, epoch, 4, True)[0].tolist() for epoch in (0, 1))
    assert sorted(first) == sorted(second) == index.tolist()
    assert first != second


def test_a_batch_depends_on_seed_and_position_only() -> None:
    in_order = [columns(plan) for plan in map(batches(50, 16), range(12))]
    assert [columns(batches(50, 16)(step)) for step in (11, 3, 7)] == [in_order[11], in_order[3], in_order[7]]
    assert columns(batches(50, 16, seed=1)(0)) != in_order[0]


@pytest.mark.parametrize("size", [2, 16, 25, 26, 60])
def test_batches_follow_each_other_without_gap_across_epochs(size: int) -> None:
    whole = np.concatenate([plan_epoch(np.arange(25), 0, epoch, 4, True) for epoch in range(60)], axis=1)
    plans = [np.array(columns(plan)) for plan in map(batches(25, size), range(59 * 25 // size))]
    assert all(plan.shape == (4, size) for plan in plans)
    assert np.array_equal(np.concatenate(plans, axis=1), whole[:, : size * len(plans)])


def test_crops_and_flips_take_all_their_values() -> None:
    plan = batches(2000, 2000)(0)
    assert set(plan.dy.tolist()) == set(plan.dx.tolist()) == set(range(9))
    assert 0.45 < plan.flip.float().mean() < 0.55
    still = batches(2000, 2000, pad=0, flip=False)(0)
    assert not still.dy.any()
    assert not still.flip.any()


def test_the_mean_is_that_of_the_images_trained_on() -> None:
    images = torch.randint(0, 256, (5000, 4, 8, 3), dtype=torch.uint8)
    index = torch.arange(0, 5000, 2)
    assert torch.allclose(pixel_mean(images, index), images[::2].double().mean(0).float() / 255, atol=1e-7)


def test_augmentation_is_subtract_mean_pad_with_zeros_crop_flip() -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (7, 12, 8, 3), dtype=np.uint8))
    mean = torch.from_numpy(rng.random((12, 8, 3), dtype=np.float32))
    pad = 2
    plan = batches(7, 20, pad=pad)(0)
    batch = augment(images, mean, plan, pad)
    assert batch.shape == (20, 3, 12, 8)
    assert batch.is_contiguous(memory_format=torch.channels_last)
    for i in range(20):  # the slow way, one image at a time
        padded = np.zeros((12 + 2 * pad, 8 + 2 * pad, 3), dtype=np.float32)
        padded[pad:-pad, pad:-pad] = (images[plan.image[i]].float() / 255 - mean).numpy()
        dy, dx = int(plan.dy[i]), int(plan.dx[i])
        crop = padded[dy : dy + 12, dx : dx + 8]
        if plan.flip[i]:
            crop = crop[:, ::-1]
        assert np.array_equal(batch[i].numpy(), crop.transpose(2, 0, 1))


def test_evaluation_subtracts_the_mean_and_nothing_else() -> None:
    images = torch.randint(0, 256, (3, 4, 4, 3), dtype=torch.uint8)
    mean = torch.rand(4, 4, 3)
    assert torch.equal(normalise(images, mean), (images.float() / 255 - mean).permute(0, 3, 1, 2))
