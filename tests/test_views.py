"""Tests on several views of each image: against loops over images and crops, and against another library's resizing."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from resexp.config import ModelConfig, RunConfig
from resexp.data.loader import BatchPlan, augment, normalise
from resexp.device.concurrent import run_to_completion
from resexp.errors import UserError
from resexp.evaluation.tta import (
    Classifier,
    Mode,
    MultiScale,
    SingleView,
    TenCrop,
    errors_on_views,
    rescaled,
    resident,
    usual,
)
from resexp.models import build_model
from resexp.runs.logits import Logits
from resexp.runs.store import Run
from resexp.training.train import train
from tests import test_training
from tests.test_training import after, halves

Cli = Callable[..., subprocess.CompletedProcess[str]]
Write = Callable[..., Path]

make_run = test_training.make_run


def evaluate_views(
    model: nn.Module, images: Tensor, mean: Tensor, labels: Tensor, mode: Mode, batch: int = 500
) -> tuple[Logits, int]:
    classifier = Classifier(model, mean, contextlib.nullcontext())
    return run_to_completion(resident(classifier, images, labels.numpy(), mode, batch))


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return build_model(ModelConfig(depth=8, width=2)).eval()


def some_images(count: int = 7, height: int = 16, width: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    """Images, the mean, and labels."""
    torch.manual_seed(1)
    images = torch.randint(0, 256, (count, height, width, 3), dtype=torch.uint8)
    return images, torch.rand(height, width, 3), torch.randint(0, 10, (count,))


def test_ten_crops_are_four_corners_the_centre_and_their_flips() -> None:
    """Pixel by pixel, of images that are wider than high."""
    images = torch.randn(2, 3, 12, 16)
    crops = torch.stack(list(TenCrop(8).views(images)))
    assert crops.shape == (10, 2, 3, 8, 8)
    for view, (top, left) in enumerate([(0, 0), (0, 8), (4, 0), (4, 8), (2, 4)]):
        for y in range(8):
            for x in range(8):
                assert torch.equal(crops[view, :, :, y, x], images[:, :, top + y, left + x])
                assert torch.equal(crops[view + 5, :, :, y, 7 - x], images[:, :, top + y, left + x])


@pytest.mark.parametrize(
    ("height", "width", "side", "size"),
    [(16, 16, 8, (8, 8)), (16, 16, 40, (40, 40)), (12, 16, 24, (24, 32)), (20, 12, 8, (12, 8)), (12, 12, 12, (12, 12))],
)
def test_images_are_rescaled_as_pillow_does_it(height: int, width: int, side: int, size: tuple[int, int]) -> None:
    """Smaller (antialiased), larger, and not at all; 20x12 at 8 would be 13.3 pixels high."""
    images = torch.randn(2, 3, height, width)
    ours = rescaled(images, side)
    assert ours.shape[2:] == size
    for image, scaled in zip(images.flatten(0, 1), ours.flatten(0, 1), strict=True):
        theirs = Image.fromarray(image.numpy()).resize((size[1], size[0]), Image.Resampling.BILINEAR)
        assert np.allclose(scaled.numpy(), np.asarray(theirs), atol=1e-5)


def test_ten_crops_of_the_padded_image_are_crops_of_training() -> None:
    """Zeros around the image, as `augment` puts them there: each view is what a random crop with its offset gives."""
    images, mean, _ = some_images(count=2)
    views = list(TenCrop(16, pad=2).views(normalise(images, mean)))
    offsets = [(0, 0), (0, 4), (4, 0), (4, 4), (2, 2)]
    for number, (view, (dy, dx), flip) in enumerate(zip(views, offsets * 2, [0] * 5 + [1] * 5, strict=True)):
        plan = BatchPlan(*(torch.full((2,), value) for value in (0, dy, dx, flip)))._replace(image=torch.arange(2))
        assert torch.equal(view, augment(images, mean, plan, pad=2)), number


def averaged_by_loops(net: nn.Module, views_of: Callable[[Tensor], list[Tensor]], images: Tensor) -> Tensor:
    """One image and one view at a time: the probabilities, added up."""
    rows = []
    for image in images:
        views = views_of(image)
        total = torch.zeros(10)
        for view in views:
            powers = net(view[None])[0].exp()
            total += powers / powers.sum() / len(views)
        rows.append(total)
    return torch.stack(rows).detach()


def crops_by_hand(image: Tensor) -> list[Tensor]:
    """Of 13 of 16 pixels: a side that the nets halve to 7 and to 4; torchvision rounds the centre's 1.5 to even."""
    corners = [(0, 0), (0, 3), (3, 0), (3, 3), (2, 2)]
    crops = [image[:, y : y + 13, x : x + 13] for y, x in corners]
    return crops + [torch.stack([crop[:, :, 12 - x] for x in range(13)], dim=2) for crop in crops]


def scales_by_hand(image: Tensor) -> list[Tensor]:
    views = []
    for side in (8, 16, 24):
        resize = [Image.fromarray(c.numpy()).resize((side, side), Image.Resampling.BILINEAR) for c in image]
        views.append(torch.stack([torch.from_numpy(np.array(channel)) for channel in resize]))
    return views


@pytest.mark.parametrize(
    ("mode", "by_hand", "views"),
    [
        (TenCrop(13), crops_by_hand, 10),
        (MultiScale((8, 16, 24)), scales_by_hand, 3),
        (SingleView(), lambda x: [x], 1),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("batch", [3, 100])
def test_probabilities_are_averaged_over_the_views(
    net: nn.Module, mode: Mode, by_hand: Callable[[Tensor], list[Tensor]], views: int, batch: int
) -> None:
    """In batches that leave a remainder, or in one; larger views go through the net in parts."""
    images, mean, labels = some_images()
    scores, count = evaluate_views(net, images, mean, labels, mode, batch)
    expected = averaged_by_loops(net, by_hand, normalise(images, mean))
    assert torch.allclose(torch.from_numpy(scores.values).float(), expected, atol=1e-5)
    wrong = sum(row.index(max(row)) != label for row, label in zip(expected.tolist(), labels.tolist(), strict=True))
    assert (scores.error, count) == (wrong / 7, views)


def test_the_views_are_not_all_alike(net: nn.Module) -> None:
    """Or the tests above could not fail."""
    images, mean, labels = some_images()
    single, crops, scales = (
        evaluate_views(net, images, mean, labels, mode)[0].values
        for mode in (SingleView(), TenCrop(12), MultiScale((8, 16, 24)))
    )
    assert abs(single - crops).max() > 0.01
    assert abs(single - scales).max() > 0.01


def test_of_larger_views_fewer_go_through_the_net_at_a_time(net: nn.Module) -> None:
    """No more pixels than those of a batch of images as they are, unless a single view has more."""
    images, mean, labels = some_images(count=8)
    passes: list[int] = []
    net.register_forward_pre_hook(lambda module, inputs: passes.append(inputs[0][:, 0].numel()))
    evaluate_views(net, images, mean, labels, MultiScale((8, 32, 64)), batch=8)
    assert passes == [8 * 8 * 8, *[2 * 32 * 32] * 4, *[64 * 64] * 8]


def test_one_view_has_no_ties_that_the_logits_have_not() -> None:
    """Of two logits that differ in the last bit of a float32, the second is larger; their float32 softmax is one."""
    low = torch.tensor(0.01)
    logits = torch.stack([low, torch.nextafter(low, torch.tensor(1.0)), *[low - 5] * 8])
    assert logits.softmax(0)[0] == logits.softmax(0)[1]

    class Sure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return logits.expand(len(x), -1)

    images, mean, _ = some_images()
    assert evaluate_views(Sure(), images, mean, torch.ones(7, dtype=torch.int64), SingleView())[0].error == 0


@pytest.mark.parametrize(
    ("mode", "says"),
    [
        (TenCrop(224), r"a crop of 224 pixels from images of 20x16; name 4 to 16, such as 14 \(the paper's 224 of 256"),
        (TenCrop(17), "name 4 to 16"),
        (TenCrop(21, pad=2), "name 4 to 16"),
        (TenCrop(0), "name 4 to 16"),
        (MultiScale((16, 18)), "sides 16, 18; name different multiples of 4, such as 16"),
        (MultiScale((16, 16)), "name different multiples"),
        (MultiScale((-4,)), "name different multiples"),
        (MultiScale(()), "sides none; "),
    ],
    ids=str,
)
def test_views_that_the_nets_or_the_images_do_not_allow_are_refused(net: nn.Module, mode: Mode, says: str) -> None:
    images, mean, labels = some_images(height=16, width=20)
    with pytest.raises(UserError, match=says):
        evaluate_views(net, images, mean, labels, mode)


def test_views_too_small_for_the_net_are_refused_before_training(write_study: Write, here: Cli) -> None:
    """Scales of images of 32 pixels begin at 28, and VGG halves its images five times."""
    vgg = {"data": {"source": "shapes", "size": 32}, "model": {"kind": "vgg", "depth": 16, "width": 1}}
    done = here("sweep", write_study(**vgg, probes={"tta": ["multi-scale"]}))
    assert done.returncode == 2
    assert "probes.tta: multi-scale has a view of 28 pixels, and the net needs 32; leave it out" in done.stderr
    assert not list(Path("results").glob("*/*/seed*"))


# -- on a finished run ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_single_view_is_the_runs_own_test(make_run: Callable[..., Run], precision: str) -> None:
    """With the final weights, not with the best ones, and with the mean of the images that were trained on."""
    for lr in (0.02, 0.3, 0.05, 0.2):  # errors of 100 images are equal by chance on one CPU or another
        run = make_run(
            f"lr{lr}",
            data={"split": "holdout"},
            train={"batch_size": 16, "eval_every": 1, "lr": lr, "precision": precision},
        )
        train(run)
        last = run.metrics()[-1]
        if last["test_error"] != last["best_test_error"]:
            break
    assert last["test_error"] != last["best_test_error"], "no run tells the final weights from the best ones"
    before = {path: path.read_bytes() for path in run.folder.iterdir() if path.is_file()}
    found = errors_on_views(run, TenCrop(4))
    assert found == {
        "mode": "ten-crop",
        "crop": 4,
        "pad": 0,
        "views": 10,
        "test_error": found["test_error"],
        "single_view_test_error": last["test_error"],
    }
    assert found["test_error"] != last["test_error"]
    scales = errors_on_views(run, MultiScale((8, 12)))
    assert json.loads(json.dumps(scales)) == {
        "mode": "multi-scale",
        "sides": [8, 12],
        "views": 2,
        "test_error": scales["test_error"],
        "single_view_test_error": last["test_error"],
    }
    assert errors_on_views(run, MultiScale((8,)))["test_error"] == last["test_error"]
    assert {path: path.read_bytes() for path in run.folder.iterdir() if path.is_file()} == before


def test_the_test_set_of_a_run_that_is_not_finished_is_not_read(make_run: Callable[..., Run]) -> None:
    run = make_run()
    with pytest.raises(UserError, match="pending, and only a finished run is tested"):
        errors_on_views(run, TenCrop(4))
    train(run, stop=after(5))
    with pytest.raises(UserError, match=f"interrupted, .* finish it with resexp train {run.folder}"):
        errors_on_views(run, TenCrop(4))


def removes(run: Run) -> None:
    run.checkpoint_path.unlink()


@pytest.mark.parametrize(("damage", "says"), [(halves, "checkpoint.pt is damaged"), (removes, "no checkpoint.pt")])
def test_weights_of_an_earlier_step_do_not_stand_in_for_the_final_ones(
    make_run: Callable[..., Run], damage: Callable[[Run], Any], says: str
) -> None:
    run = make_run(train={"checkpoint_steps": 1})
    train(run)
    damage(run)
    assert run.previous_checkpoint_path.exists()
    with pytest.raises(UserError, match=f"{says}, so there are no weights; train it"):
        errors_on_views(run, TenCrop(4))


def test_other_test_images_than_the_runs_are_refused(make_run: Callable[..., Run]) -> None:
    run = make_run()
    train(run)
    manifest = run.manifest()
    assert manifest is not None
    run.write_manifest(
        manifest.model_copy(update={"data": manifest.data.model_copy(update={"fingerprint": "another"})})
    )
    with pytest.raises(UserError, match=r"begun on other data \(fingerprint another, now \w+\); bring the old data"):
        errors_on_views(run, TenCrop(4))


def test_the_papers_views_are_the_defaults() -> None:
    assert dataclasses.astuple(TenCrop()) == (224, 0)
    assert dataclasses.astuple(MultiScale()) == ((224, 256, 384, 480, 640),)


@pytest.mark.parametrize(
    ("name", "data", "size", "mode"),
    [
        ("ten-crop", {"source": "cifar10"}, (32, 32), TenCrop(32, pad=4)),
        ("ten-crop", {"source": "cifar10", "resize": 16, "pad": 2}, (16, 16), TenCrop(16, pad=2)),
        ("ten-crop", {"source": "cifar10", "resize": 16, "pad": 0}, (16, 16), TenCrop(14)),
        ("multi-scale", {"source": "cifar10", "resize": 16, "pad": 2}, (16, 16), MultiScale((12, 16, 20))),
        ("multi-scale", {"source": "cifar10"}, (32, 32), MultiScale((28, 32, 36))),
        ("multi-scale", {"source": "cifar10", "resize": 4, "pad": 0}, (4, 4), MultiScale((4, 8))),
        ("ten-crop", {"source": "imagenet", "path": "."}, (256, 256), TenCrop(224)),
    ],
)
def test_views_of_small_images_have_the_size_of_training(
    name: str, data: dict[str, Any], size: tuple[int, int], mode: Mode
) -> None:
    """7/8 of 16 pixels is 14; where training crops padded images, so does the test."""
    variant = {"variant": "imagenet", "depth": 18} if data["source"] == "imagenet" else {"depth": 8}
    config = RunConfig.model_validate({"data": data, "model": variant, "seed": 0})
    assert usual(config, name, size) == mode
