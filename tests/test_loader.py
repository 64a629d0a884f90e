"""The stream of training batches: a pure function of (seed, epoch, position), and augmentation as it is defined."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from resexp.data.loader import Plan, Stream, augment, normalise


def columns(plan: Plan) -> list[list[int]]:
    return [column.int().tolist() for column in plan]


def test_every_epoch_is_a_permutation_of_the_images_and_each_another_one() -> None:
    index = np.arange(5, 30)
    stream = Stream(index, seed=0, pad=4, flip=True)
    first, second = stream.epoch(0).image.tolist(), stream.epoch(1).image.tolist()
    assert sorted(first) == sorted(second) == index.tolist()
    assert first != second


def test_the_stream_depends_on_seed_and_position_only() -> None:
    def batches(seed: int, steps: list[int]) -> list[list[list[int]]]:
        stream = Stream(np.arange(50), seed, pad=4, flip=True)
        return [columns(stream.batch(step, 16)) for step in steps]

    in_order = batches(0, list(range(12)))
    assert batches(0, [11, 3, 7]) == [in_order[11], in_order[3], in_order[7]]
    assert batches(1, [0]) != [in_order[0]]


@pytest.mark.parametrize("size", [1, 16, 25, 60])
def test_batches_follow_each_other_without_gap_across_epochs(size: int) -> None:
    stream = Stream(np.arange(25), seed=0, pad=4, flip=True)
    whole = [i for epoch in range(9) for i in stream.epoch(epoch).image.tolist()]
    stream = Stream(np.arange(25), seed=0, pad=4, flip=True)
    batches = [stream.batch(step, size).image.tolist() for step in range(9 * 25 // size)]
    assert all(len(batch) == size for batch in batches)
    assert [i for batch in batches for i in batch] == whole[: sum(map(len, batches))]


def test_crops_and_flips_take_all_their_values() -> None:
    plan = Stream(np.arange(2000), seed=0, pad=4, flip=True).epoch(0)
    assert set(plan.dy.tolist()) == set(plan.dx.tolist()) == set(range(9))
    assert 0.45 < plan.flip.float().mean() < 0.55
    still = Stream(np.arange(2000), seed=0, pad=0, flip=False).epoch(0)
    assert not still.dy.any()
    assert not still.flip.any()


def test_augmentation_is_subtract_mean_pad_with_zeros_crop_flip() -> None:
    rng = np.random.default_rng(0)
    images = torch.from_numpy(rng.integers(0, 256, (7, 12, 8, 3), dtype=np.uint8))
    mean = torch.from_numpy(rng.random((12, 8, 3), dtype=np.float32))
    pad = 2
    plan = Stream(np.arange(7), seed=0, pad=pad, flip=True).batch(0, 20)
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
