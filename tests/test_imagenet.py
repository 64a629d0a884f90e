"""ImageNet from end to end, on a few small JPEG files: studies, batches, light, views, and several processes."""

from __future__ import annotations

import contextlib
import json
import shlex
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from resexp.config import ImageNetData, ModelConfig, RunConfig
from resexp.config.study import SHIPPED, load
from resexp.data import ImageNet, open_dataset
from resexp.data.imagenet.example import make_example
from resexp.data.imagenet.loader import plan
from resexp.data.imagenet.statistics import statistics
from resexp.data.imagenet.streaming import StreamingInput
from resexp.device.concurrent import run_to_completion
from resexp.device.hardware import Hardware
from resexp.evaluation.tta import Classifier, MultiScale, SingleView, TenCrop, streamed
from resexp.models import build_model
from resexp.runs.store import Run
from resexp.training.train import train
from tests.conftest import command, working_in
from tests.test_distributed import close, torchrun
from tests.test_training import CPU, after, assert_same, measured, weights

CLASSES, TRAIN, VAL = 3, 14, 5
"""Of the images that all tests share."""
BATCH = 16
"""Does not divide the 42 images of an epoch."""


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("imagenet") / "images"
    make_example(root, CLASSES, TRAIN, VAL, 0)
    return root


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """Whatever a test does: what reads images ends with it."""
    yield
    assert not reading()


def reading() -> list[str]:
    """The threads that read images."""
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("images-")]


def config(tree: Path, **data: Any) -> RunConfig:
    sections = {
        "data": {
            "source": "imagenet", "path": str(tree), "crop": 32, "resize_range": [36, 60], "val_resize": 130, **data,
        },
        "model": {"variant": "imagenet", "depth": 18, "width": 2},
        "train": {
            "steps": 12, "batch_size": BATCH, "lr": 0.02, "log_every": 4, "eval_every": 6, "device": "cpu",
        },
        "probes": {"tta": ["ten-crop", "multi-scale"]},
    }  # fmt: skip
    return RunConfig.model_validate(sections)


def images_of(config: RunConfig) -> ImageNet:
    dataset = open_dataset(config.data)
    assert isinstance(dataset, ImageNet)
    return dataset


@contextlib.contextmanager
def fed(config: RunConfig) -> Iterator[StreamingInput]:
    with contextlib.closing(StreamingInput(config, images_of(config), Hardware(CPU, "fp32"))) as pipeline:
        yield pipeline


def batches(config: RunConfig, steps: range) -> list[tuple[Tensor, Tensor]]:
    """What a trainer sees that begins at the first of these steps."""
    found = []
    with fed(config) as pipeline:
        for step in steps:
            pipeline.prepare(step)
            x, y = pipeline.batch(torch.tensor([step]))
            found.append((x.clone(), y.clone()))
    return found


# -- studies ----------------------------------------------------------------------------------------------------------


def test_the_studies_of_the_paper_have_its_recipe() -> None:
    """Section 3.4; and the nets of Table 3."""
    figure4, table2, table3 = (load(f"imagenet/{name}")[1] for name in ("figure4", "table2", "table3"))
    assert [cell.label for cell in figure4] == ["plain-18", "plain-34", "residual-18", "residual-34"]
    for cell in figure4:
        recipe, data = cell.config.train, cell.config.data
        assert isinstance(data, ImageNetData)
        assert (recipe.steps, recipe.batch_size, recipe.lr, recipe.gamma) == (600_000, 256, 0.1, 0.1)
        assert (recipe.momentum, recipe.weight_decay, recipe.schedule) == (0.9, 1e-4, "plateau")
        assert (data.crop, data.resize_range, data.flip, data.pca_lighting, data.mean) == (
            224,
            (256, 480),
            True,
            True,
            "pixel",
        )
        assert cell.config.model.shortcut == (None if cell.config.model.kind == "plain" else "A")
    folders = {cell.config.folder for cell in figure4}
    assert folders <= {cell.config.folder for cell in table2}
    assert {cell.label: cell.config.model.shortcut for cell in table3} == {
        "vgg-16": None, "plain-34": None, "residual-34-A": "A", "residual-34-B": "B",
        "residual-34-C": "C", "residual-50": "B", "residual-101": "B", "residual-152": "B",
    }  # fmt: skip
    assert {cell.config.folder for cell in table3 if cell.label in ("plain-34", "residual-34-A")} <= folders


def test_ninety_epochs_are_450450_steps() -> None:
    _, (cell,) = load("imagenet/resnet50")
    recipe = cell.config.train
    assert (cell.label, recipe.microbatch) == ("residual-50", None)
    assert [step * 256 / 1_281_167 for step in (*recipe.milestones, recipe.steps)] == pytest.approx(
        [30, 60, 90], abs=0.02
    )


def test_what_the_study_of_fig4_offers_instead_loads() -> None:
    said = (SHIPPED / "imagenet/figure4.yaml").read_text().partition("the paper's: 90 epochs")[2]
    words = shlex.split(next(line for line in said.splitlines() if "--set" in line).lstrip("# "))
    assert words[::2] == ["--set"] * 3
    for cell in load("imagenet/figure4", words[1::2])[1]:
        assert (cell.config.train.milestones, cell.config.train.steps) == ((150_150, 300_300), 450_450)


# -- a study from end to end ------------------------------------------------------------------------------------------

SMALL = [
    "model.width=2", "data.crop=32", "data.resize_range=[36, 60]", "data.val_resize=36", "train.steps=40",
    "train.milestones=[30]", "train.batch_size=8", "train.eval_every=20", "train.log_every=10", "train.lr=0.02",
    "train.checkpoint_steps=5", "train.device=cpu",
]  # fmt: skip
"""The study that `make imagenet-smoke` trains, smaller still."""


def settings(tree: Path) -> list[str]:
    return [f"data.path={tree}", *SMALL]


def smoke(tree: Path, kind: str, folder: Path) -> Run:
    """A run of that study that is to be trained."""
    _, cells = load("imagenet/smoke", settings(tree))
    (config,) = (cell.config for cell in cells if cell.config.model.kind == kind)
    run = Run(folder / config.folder)
    run.create(config)
    return run


@pytest.fixture(scope="module")
def study(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its residual net trained here, without a break; its plain net stopped here, and continued by a sweep."""
    with working_in(tmp_path_factory.mktemp("smoke")) as folder:
        train(smoke(tree, "residual", folder / "results/smoke"))
        assert train(smoke(tree, "plain", folder / "results/smoke"), stop=after(7)).state == "interrupted"
        words = command("sweep", "--config", "imagenet/smoke", *(w for s in settings(tree) for w in ("--set", s)))
        done = subprocess.run(words, capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
    return folder / "results/smoke"


def test_a_study_is_trained_interrupted_resumed_and_reported(
    study: Path, here: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    runs = [Run(path.parent) for path in sorted(study.glob("*/seed0/config.yaml"))]
    assert [run.status().state for run in runs] == ["finished"] * 2
    assert [len(run.manifest().attempts) for run in runs if run.manifest()] == [2, 1]
    for run in runs:
        for mode, views in (("ten-crop", 10), ("multi-scale", 5)):
            found = json.loads((run.folder / f"probes/{mode}-40.json").read_text())
            assert found["views"] == views
            assert 0 <= found["test_error"] <= 1
            (test,) = (record for record in run.metrics() if record["event"] == "test")
            # In one pass with others, or alone: the same but for rounding.
            assert found["single_view_test_error"] == pytest.approx(test["test_error"], abs=1 / (CLASSES * VAL))
        assert [record["step"] for record in run.metrics() if record["event"] == "eval"] == [20, 40]
    done = here("report", study)
    assert done.returncode == 0, done.stderr
    summary = (study / "report/summary.md").read_text()
    assert "plain" in summary
    assert "residual" in summary


def test_a_run_that_is_stopped_again_and_again_ends_as_if_it_had_not_been(
    study: Path, tree: Path, tmp_path: Path
) -> None:
    """In the middle of an epoch, beyond its end, after an evaluation: an epoch is 5 steps of 8 images, and 2 images."""
    (whole,) = (Run(path.parent) for path in study.glob("residual-*/seed0/config.yaml"))
    run = smoke(tree, "residual", tmp_path)
    for calls in (3, 4, 11, 9):
        assert train(run, stop=after(calls)).state == "interrupted"
        assert not reading()
    assert train(run).state == "finished"
    assert_same(whole, run)
    for name in ("ten-crop-40.json", "multi-scale-40.json"):
        ours, theirs = (json.loads((r.folder / "probes" / name).read_text()) for r in (run, whole))
        assert {**ours, "seconds": 0} == {**theirs, "seconds": 0}


def test_a_stop_while_a_batch_is_awaited_loses_no_step(
    study: Path, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The steps since the last line were done, so their losses belong to the next line."""
    (whole,) = (Run(path.parent) for path in study.glob("residual-*/seed0/config.yaml"))
    run, prepare, stopped = smoke(tree, "residual", tmp_path), StreamingInput.prepare, [False]

    def slow(self: StreamingInput, step: int) -> None:
        if step == 8 and not stopped[0]:
            stopped[0] = True
            self.loader.waiting()  # as once a second while the disk does not answer
        prepare(self, step)

    monkeypatch.setattr(StreamingInput, "prepare", slow)
    assert train(run, stop=lambda: stopped[0]).state == "interrupted"
    assert run.status().step == 8
    assert train(run).state == "finished"
    assert_same(whole, run)


# -- batches ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("first", [1, 2, 5])
def test_batches_are_a_function_of_seed_and_step(tree: Path, first: int) -> None:
    """From the middle of an epoch, from the batch that goes over its end, and from a later one; whatever threads."""
    whole = batches(config(tree, workers=1), range(8))
    later = batches(config(tree, workers=3), range(first, 8))
    for (x, y), (same_x, same_y) in zip(later, whole[first:], strict=True):
        assert torch.equal(x, same_x)
        assert torch.equal(y, same_y)
    other = batches(config(tree).model_copy(update={"seed": 1}), range(1))
    assert not torch.equal(other[0][0], whole[0][0])


@pytest.mark.parametrize("colour", [True, False])
@pytest.mark.parametrize("mean", ["pixel", "channel"])
def test_a_batch_is_what_is_said_image_by_image(tree: Path, colour: bool, mean: str) -> None:
    """Crops of the plan's images, less the mean, with light: Σ α_i λ_i p_i (Krizhevsky et al. 2012, section 4.1)."""
    run = config(tree, pca_lighting=colour, mean=mean)
    dataset, found = images_of(run), statistics(images_of(run))
    subtracted = found.pixel_mean if mean == "pixel" else np.zeros((32, 32, 3)) + found.channel_mean
    seen: list[int] = []
    for step, (x, y) in enumerate(batches(run, range(4))):
        for place in range(BATCH):
            epoch, within = divmod(step * BATCH + place, CLASSES * TRAIN)
            drawn = plan(run.seed, epoch, CLASSES * TRAIN, dataset.config)
            image, view = int(drawn.image[within]), drawn.view(within)
            pixels = dataset.pixels("train", image, view.side)
            expected = view.crop(pixels, 32) / 255 - subtracted
            for component in range(3 * colour):
                amount = drawn.lighting[within, component] * found.eigenvalues[component]
                expected += amount * found.components[:, component]
            assert np.allclose(x[place].permute(1, 2, 0).numpy(), expected, atol=1e-5)
            assert y[place] == dataset.labels("train")[image]
            seen.append(image)
    assert sorted(seen[: CLASSES * TRAIN]) == list(range(CLASSES * TRAIN))


def test_light_has_the_spread_that_is_asked_for(tree: Path) -> None:
    """Over many images each component's amount has standard deviation 0.1."""
    amounts = plan(0, 0, 20_000, images_of(config(tree)).config).lighting
    assert amounts.mean(0) == pytest.approx(np.zeros(3), abs=0.003)
    assert amounts.std(0) == pytest.approx(np.full(3, 0.1), abs=0.003)


# -- views ------------------------------------------------------------------------------------------------------------


def resized(channels: np.ndarray[Any, Any], height: int, width: int) -> np.ndarray[Any, Any]:
    """Floats (H, W, 3) in another size, by Pillow."""
    planes = [Image.fromarray(channels[:, :, c].astype(np.float32)) for c in range(3)]
    return np.stack([plane.resize((width, height), Image.Resampling.BILINEAR) for plane in planes], axis=2)


def ten_crop_by_hand(image: np.ndarray[Any, Any], mean: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """Of the centre square, resized to 130 pixels a side."""
    side = min(image.shape[:2])
    top, left = ((length - side + 1) // 2 for length in image.shape[:2])
    square = resized(image[top : top + side, left : left + side], 130, 130)
    for y, x in ((0, 0), (0, 98), (98, 0), (98, 98), (49, 49)):
        yield square[y : y + 32, x : x + 32] - mean
        yield square[y : y + 32, x : x + 32][:, ::-1] - mean


def multi_scale_by_hand(image: np.ndarray[Any, Any], mean: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """Of the whole image, its longer side to the nearest multiple of 4; the mean as large as the image."""
    for side in (28, 64):
        scale = side / min(image.shape[:2])
        height, width = (
            side if length == min(image.shape[:2]) else round(length * scale / 4) * 4 for length in image.shape[:2]
        )
        yield resized(image, height, width) - resized(mean, height, width)


def single_view_by_hand(image: np.ndarray[Any, Any], mean: np.ndarray[Any, Any]) -> Iterator[np.ndarray[Any, Any]]:
    """The crop in the centre, of 32 pixels where the shorter side has 130."""
    side = round(32 * min(image.shape[:2]) / 130)
    top, left = ((length - side + 1) // 2 for length in image.shape[:2])
    yield resized(image[top : top + side, left : left + side], 32, 32) - mean


@pytest.mark.parametrize(
    ("mode", "by_hand"),
    [(TenCrop(32), ten_crop_by_hand), (MultiScale((28, 64)), multi_scale_by_hand), (SingleView(), single_view_by_hand)],
    ids=lambda value: getattr(value, "name", None),
)
def test_views_against_a_loop_over_images(tree: Path, mode: Any, by_hand: Callable[..., Any]) -> None:
    """Pillow decodes and resizes, one view at a time; probabilities are averaged. In batches that leave a remainder."""
    run = config(tree)
    dataset, mean = images_of(run), statistics(images_of(run)).pixel_mean
    torch.manual_seed(0)
    net: nn.Module = build_model(ModelConfig(variant="imagenet", depth=18, width=8), CLASSES).eval()
    labels = torch.from_numpy(dataset.test_labels)
    with fed(run) as pipeline:
        classifier = Classifier(net, pipeline.mean, contextlib.nullcontext())
        scores, count = run_to_completion(streamed(classifier, pipeline, labels.numpy(), mode, batch=4))
    rows = []
    for index in range(CLASSES * VAL):
        image = np.asarray(Image.open(dataset.file("val", index)).convert("RGB")) / 255
        views = list(by_hand(image, mean))
        with torch.inference_mode():
            logits = [net(torch.from_numpy(view.astype(np.float32)).permute(2, 0, 1)[None])[0] for view in views]
        rows.append(torch.stack(logits).softmax(1).mean(0))
    expected = torch.stack(rows)
    assert count == len(views)
    assert torch.allclose(torch.from_numpy(scores.values).float(), expected, atol=0.01)
    spread = (expected.max(0).values - expected.min(0).values).max()
    assert spread > 0.05, "images that all look alike to the net would be told apart by nothing"
    assert scores.error == pytest.approx((expected.argmax(1) != labels).float().mean().item(), abs=1.01 / len(labels))


def test_probes_and_the_clean_error_see_some_of_all_classes(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("resexp.data.imagenet.streaming.SAMPLE", 12)
    run = config(tree)
    few = run.model_copy(update={"data": run.data.model_copy(update={"train_eval_images": 20})})
    with fed(few) as pipeline:
        clean = pipeline.eval_index("train")
        images, labels, index = pipeline.sample()
        seen = torch.cat([part for part, _ in pipeline.eval_batches("train", [clean])])
    assert len(clean) == 20
    assert set(images_of(few).labels("train")[clean]) == set(range(CLASSES)) == set(labels.tolist())
    assert (len(images), len(index)) == (12, 12)
    assert all((seen == image).flatten(1).all(1).any() for image in images)


# -- several processes ------------------------------------------------------------------------------------------------


@pytest.mark.torchrun
def test_two_processes_train_the_weights_that_one_trains(tree: Path, tmp_path: Path) -> None:
    """Each reads its part of every batch; with microbatches BN takes the same statistics, too."""
    settings = config(tree)
    settings = settings.with_train(microbatch=8)
    both, one = (Run(tmp_path / name / settings.folder) for name in ("both", "one"))
    for run in (both, one):
        run.create(settings)
    done = subprocess.run(torchrun("tests.together", both.folder), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    train(one)
    assert both.status().state == "finished"
    ours, theirs = weights(both), weights(one)
    assert all(close(ours[key], theirs[key]) for key in theirs)
    for record, expected in zip(measured(both), measured(one), strict=True):
        assert all(close(record[key], value) for key, value in expected.items() if key != "event")
