"""`resexp evaluate`: what a net takes for what, from stored logits, from weights, and on images of a person's own."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from resexp.config import RunConfig
from resexp.config.study import load, load_run
from resexp.data import Dataset, open_dataset
from resexp.data.imagenet.example import make_example
from resexp.data.images import resized
from resexp.data.labelled import find_labels
from resexp.errors import UserError
from resexp.evaluation.confusion import Confusion, stored_result
from resexp.evaluation.weights import confusion_of_run, evaluate_weights, export
from resexp.runs.logits import Logits
from resexp.runs.store import Run
from resexp.training.train import train
from tests.conftest import working_in, write_tiny
from tests.odd_images import flatten
from tests.test_export import finished

Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Write = Callable[..., Path]


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory: pytest.TempPathFactory) -> Run:
    with working_in(tmp_path_factory.mktemp("trained")) as folder:
        _, [cell] = load(str(write_tiny(folder / "tiny.yaml", train={"steps": 40})))
        run = Run(folder / cell.config.folder)
        run.create(cell.config)
        assert train(run).state == "finished"
    return run


@pytest.fixture
def trained(trained_once: Run, tmp_path: Path) -> Run:
    folder = trained_once.folder
    return Run(Path(shutil.copytree(folder, tmp_path / folder.parent.name / folder.name)))


def images_of(run: Run) -> Dataset:
    dataset = open_dataset(load_run(run.config_path).data)
    assert isinstance(dataset, Dataset)
    return dataset


def write_images(root: Path, dataset: Dataset, split: str = "test", classes: slice = slice(None)) -> Path:
    """The images of a split in folders with the names of their classes."""
    images, labels = dataset.test() if split == "test" else dataset.train()
    for number, (image, label) in enumerate(zip(images, labels.tolist(), strict=True)):
        if dataset.classes[label] in dataset.classes[classes]:
            folder = root / dataset.classes[label]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image).save(folder / f"{number:04}.png")
    return root


def close(one: Confusion, other: Confusion) -> bool:
    """The same images, in any order, with the same predictions and logits but for rounding."""
    return (
        np.array_equal(one.matrix, other.matrix)
        and one.classes == other.classes
        and math.isclose(one.loss, other.loss, rel_tol=1e-5)
    )


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_the_numbers_of_six_images_by_hand() -> None:
    """Three classes; of equal logits, the first class counts."""
    values = np.array([[2, 1, 0], [0, 0, 0], [0, 3, 0], [1, 0, 5], [9, 0, 0], [0, 1, 0]], np.float32)
    result = Confusion(Logits(values, np.array([0, 1, 1, 2, 2, 1]), ""), ["a", "b", "c"])
    assert result.matrix.tolist() == [[1, 0, 0], [1, 2, 0], [1, 0, 1]]
    found = result.to_json()
    assert (found["images"], found["error"], found["top5_error"]) == (6, 2 / 6, None)
    assert found["classes"] == [
        {"class": "a", "images": 1, "error": 0.0},
        {"class": "b", "images": 3, "error": 1 / 3},
        {"class": "c", "images": 2, "error": 1 / 2},
    ]
    expected = torch.nn.functional.cross_entropy(torch.from_numpy(values).double(), torch.tensor([0, 1, 1, 2, 2, 1]))
    assert found["loss"] == pytest.approx(float(expected), rel=1e-12)
    assert result.to_csv() == ("class,a,b,c,images,error\na,1,0,0,1,0.0\nb,1,2,0,3,0.3333333333333333\nc,1,0,1,2,0.5\n")


def test_a_class_without_images_has_no_error_and_large_logits_a_finite_loss() -> None:
    result = Confusion(Logits(np.array([[1e4, 0.0], [0.0, 1e4]]), np.array([0, 0]), ""), ["a", "b, c"])
    assert result.per_class()[1] == {"class": "b, c", "images": 0, "error": None}
    assert result.loss == 5000.0
    assert list(csv.reader(io.StringIO(result.to_csv())))[2] == ["b, c", "0", "0", "0", ""]


def test_of_more_than_ten_classes_the_top5_error_is_counted() -> None:
    values = np.tile(np.arange(12.0), (12, 1))
    result = Confusion(Logits(values, np.arange(12), ""), [f"c{label}" for label in range(12)])
    assert (result.to_json()["error"], result.to_json()["top5_error"]) == (11 / 12, 7 / 12)


# -- runs -------------------------------------------------------------------------------------------------------------


def test_a_runs_numbers_are_those_of_its_metrics_and_need_no_torch(trained: Run, here: Cli, tmp_path: Path) -> None:
    trained.checkpoint_path.unlink()
    trained.previous_checkpoint_path.unlink()
    script = (
        "import sys\n"
        "from resexp.cli import app\n"
        "try:\n    app(sys.argv[1:])\n"
        "except SystemExit:\n    pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    words = ["evaluate", trained.folder, "--json", "--csv", tmp_path / "confusion.csv"]
    done = subprocess.run([sys.executable, "-c", script, *map(str, words)], capture_output=True, text=True)
    *decoding, torch_loaded = done.stderr.splitlines()
    assert ("decoding shapes" in "".join(decoding), torch_loaded) == (True, "False")
    found, recorded = json.loads(done.stdout), trained.metrics()[-1]
    assert found["error"] == recorded["test_error"] > 0
    assert found["loss"] == pytest.approx(recorded["test_loss"], rel=1e-5)
    matrix = np.array(found["confusion"])
    assert matrix.sum(1).tolist() == [of["images"] for of in found["classes"]] == [10] * 10
    assert [of["error"] for of in found["classes"]] == pytest.approx(1 - matrix.diagonal() / 10)
    assert [of["class"] for of in found["classes"]] == images_of(trained).classes
    rows = list(csv.reader((tmp_path / "confusion.csv").read_text().splitlines()))
    assert [row[0] for row in rows[1:]] == rows[0][1:-2] == images_of(trained).classes
    assert np.array_equal(np.array([row[1:-2] for row in rows[1:]], int), matrix)


def test_the_terminal_shows_the_matrix_of_few_classes(trained: Run, here: Cli) -> None:
    said = here("evaluate", trained.folder).stdout
    result = stored_result(trained)
    assert result is not None
    row = next(line for line in said.splitlines() if "│ bars" in line)
    shown = [cell.strip() for cell in row.strip("│").split("│")]
    counts = result.matrix[0].tolist()
    assert shown == ["bars", "10", f"{10 * (10 - counts[0]):.2f} %", *(str(count) if count else "" for count in counts)]
    assert f"error {100 * result.logits.error:.2f} %, loss {result.loss:.4f}, 100 images" in said


def test_without_logits_or_images_a_run_is_evaluated_as_far_as_it_goes(trained: Run, here: Cli) -> None:
    stored = stored_result(trained)
    assert stored is not None
    trained.logits_path.rename("kept.npz")
    again = json.loads(here("evaluate", trained.folder, "--json").stdout)
    assert again["confusion"] == stored.matrix.tolist()
    assert again["loss"] == pytest.approx(stored.loss, rel=1e-5)
    trained.checkpoint_path.rename("checkpoint.pt")
    assert here("evaluate", trained.folder).stderr == (
        f"resexp: {trained.folder}: no checkpoint.pt, so there are no weights; train it again with resexp sweep STUDY "
        f"--rerun residual-8\n"
    )
    Path("checkpoint.pt").rename(trained.checkpoint_path)
    Path("kept.npz").rename(trained.logits_path)
    text = trained.config_path.read_text()
    trained.config_path.write_text(re.sub(r"source: shapes\n(  .*\n)+", "source: cifar10\n", text))
    done = here("evaluate", trained.folder, "--json")
    assert "its classes are shown by their numbers, for its images are not here" in done.stderr
    assert [of["class"] for of in json.loads(done.stdout)["classes"]] == [str(label) for label in range(10)]
    assert "shown by their numbers" not in here("evaluate", trained.folder, "--data", "nowhere").stderr


# -- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_exported_weights_are_tested_as_the_run_was(trained: Run, suffix: str, here: Cli, tmp_path: Path) -> None:
    """On the same shapes, drawn again; in a process of its own, once."""
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    export(trained, to := tmp_path / f"w{suffix}")
    stored, result = stored_result(trained), evaluate_weights(to, None, None)
    assert stored is not None
    assert close(result, stored)
    if suffix == ".pt":
        assert json.loads(here("evaluate", to, "--json").stdout) == {
            "subject": str(to), "data": None, **result.to_json()
        }  # fmt: skip


@pytest.mark.parametrize(("packed", "within"), [("", ""), ("", "some/val"), ("zip", "test"), ("gztar", "some/val")])
def test_images_of_ones_own_are_matched_by_the_names_of_their_classes(
    trained: Run, packed: str, within: str, tmp_path: Path
) -> None:
    """Also where the order of the classes is another, for some are missing; training images next to them count not."""
    export(trained, to := tmp_path / "w.pt")
    dataset = images_of(trained)
    root = tmp_path / "set"
    write_images(root / within, dataset, classes=slice(3, None))
    if within:
        write_images(root / Path(within).parent / "train", dataset, "train")
    data = Path(shutil.make_archive(str(tmp_path / "packed"), packed, root)) if packed else root
    result, stored = evaluate_weights(to, None, data), stored_result(trained)
    assert stored is not None
    assert result.matrix[:3].sum() == 0
    assert np.array_equal(result.matrix[3:], stored.matrix[3:])
    chosen = stored.logits.labels >= 3
    kept = Confusion(Logits(stored.logits.values[chosen], stored.logits.labels[chosen], ""), stored.classes)
    assert close(result, kept)


def test_images_of_another_size_are_resized_as_training_images_are(trained: Run, tmp_path: Path) -> None:
    export(trained, to := tmp_path / "w.pt")
    wide, fitting = (write_images(tmp_path / name, images_of(trained)) for name in ("wide", "fitting"))
    for path in wide.rglob("*.png"):
        with Image.open(path) as image:
            larger = image.resize((20, 12), Image.Resampling.BICUBIC)
        larger.save(path)
        Image.fromarray(resized(np.asarray(larger), 8)).save(fitting / path.relative_to(wide))
    assert close(evaluate_weights(to, None, wide), evaluate_weights(to, None, fitting))


def test_a_run_takes_other_images_and_a_line_counts_what_is_left_out(trained: Run, here: Cli, tmp_path: Path) -> None:
    data = write_images(tmp_path / "set", images_of(trained), classes=slice(1))
    shutil.copytree(data / "bars", data / "zebras")
    done = here("evaluate", trained.folder, "--data", data, "--json")
    assert done.stderr == f"{data}: 10 images in no class of the net's left out: zebras\n"
    stored = stored_result(trained)
    assert stored is not None
    assert json.loads(done.stdout)["confusion"][0] == stored.matrix[0].tolist()


@pytest.mark.parametrize(
    ("names", "taken", "line"),
    [
        ("bus/1 car/1 train/1 val/1", {"bus/1": 0, "car/1": 1, "train/1": 2, "val/1": 3}, ""),
        ("test/train/1 train/train/2 train/car/3", {"test/train/1": 2}, ""),
        ("set/val/bus/1 set/val/val/1 set/train/val/2", {"set/val/bus/1": 0, "set/val/val/1": 3}, ""),
        ("bus/training/1 bus/test/2", {"bus/test/2": 0}, ""),
        ("eval/train/bus/1 eval/test/bus/2", {"eval/test/bus/2": 0}, ""),
        ("test/bus/1 valid/bus/2", {"test/bus/1": 0}, "1 image in valid left out; the test images are those in test"),
        ("train/bus/1 test/2 valid/bus/3", {"valid/bus/3": 0}, ""),
    ],
)
def test_a_class_may_be_called_as_a_split_and_one_folder_holds_the_test_images(
    names: str, taken: dict[str, int], line: str, logged: list[str], tmp_path: Path
) -> None:
    for name in names.split():
        (path := tmp_path / "set" / f"{name}.png").parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = find_labels(tmp_path / "set", ["bus", "car", "train", "val"])
    assert found == {f"{name}.png": label for name, label in taken.items()}
    assert logged == ([f"{tmp_path}/set: {line}"] if line else [])


def test_bare_weights_take_the_mean_from_the_training_images(trained: Run, tmp_path: Path) -> None:
    """Of a file that nothing describes, with its net's name and a whole set."""
    export(trained, to := tmp_path / "w.pt")
    to.with_suffix(".json").unlink()
    with pytest.raises(UserError, match="nothing tells its net; name it with --net, such as --net residual-20-B"):
        evaluate_weights(to, None, None)
    with pytest.raises(UserError, match=r"w\.pt: name the images to test it on with --data FOLDER"):
        evaluate_weights(to, "residual-8-width=2", None)
    for split in ("train", "test"):
        write_images(tmp_path / "set" / split, images_of(trained), split)
    stored = stored_result(trained)
    assert stored is not None
    assert close(evaluate_weights(to, "residual-8-width=2", tmp_path / "set"), stored)


def test_weights_under_torchvisions_names_give_the_same(tmp_path: Path) -> None:
    run, _ = finished(tmp_path, variant="imagenet", depth=18, shortcut="B", width=64)
    export(run, ours := tmp_path / "ours.pt")
    export(run, theirs := tmp_path / "theirs.pt", torchvision=True)
    assert close(evaluate_weights(ours, None, None), evaluate_weights(theirs, None, None))


@pytest.mark.parametrize("flat", [False, True])
def test_streamed_images_are_cropped_as_in_the_run(flat: bool, tmp_path: Path) -> None:
    """Of any size, and weights that are tested on the validation folder alone, sorted or with a devkit's labels."""
    make_example(tmp_path / "set", 3, 10, 6, 0)
    if flat:
        flatten(tmp_path / "set")
    data = {
        "source": "imagefolder",
        "path": str(tmp_path / "set"),
        "crop": 32,
        "resize_range": [36, 48],
        "val_resize": 40,
    }
    config = RunConfig.model_validate(
        {"data": data, "model": {"depth": 8, "width": 4}, "train": {"steps": 4, "batch_size": 10, "device": "cpu"}}
    )
    run = Run(tmp_path / config.folder)
    run.create(config)
    assert train(run).state == "finished"
    stored = stored_result(run)
    assert stored is not None
    export(run, to := tmp_path / "w.pt")
    assert close(evaluate_weights(to, None, tmp_path / "set/val"), stored)
    assert close(evaluate_weights(to, None, tmp_path / "set"), stored)
    with pytest.raises(UserError, match="name the images to test it on with --data"):
        evaluate_weights(to, None, None)
    (tmp_path / "set").rename(tmp_path / "moved")
    with pytest.raises(UserError, match="the mean of its training images is unknown; put the images and their cache"):
        confusion_of_run(run, tmp_path / "moved/val")


def test_what_does_not_fit_gets_a_line(trained: Run, here: Cli, tmp_path: Path) -> None:
    export(trained, good := tmp_path / "w.pt")
    weights = torch.load(good, weights_only=True)

    def file(name: str, content: Any) -> Path:
        path = tmp_path / f"{name}.pt"
        torch.save(content, path)
        return path

    dataset = images_of(trained)
    data, net = write_images(tmp_path / "set", dataset), "residual-8-width=2"
    for split in ("train", "test"):
        write_images(tmp_path / "three" / split, dataset, split, slice(3))
    (tmp_path / "text.pt").write_text("no weights")
    (tmp_path / "empty").mkdir()
    shutil.copytree(data / "bars", tmp_path / "others/zebra")
    broken = write_images(tmp_path / "broken", dataset)
    (broken / "bars/0000.png").write_bytes(b"\x89PNG no more")
    first = {name: value for name, value in weights.items() if name != "fc.bias"}
    for words, line in [
        ((tmp_path / "nowhere.pt",), "nowhere.pt: No such file or directory"),
        ((tmp_path / "empty",), "empty: neither a run folder (config.yaml) nor a study folder"),
        ((trained.folder, "--net", net), "--net: a run knows its net; leave it out"),
    ]:
        done = here("evaluate", *words)
        assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
        assert line in done.stderr
    done = here("evaluate", good, "--csv", tmp_path / "nowhere/c.csv")
    assert (done.returncode, done.stderr) == (
        2,
        f"resexp: {tmp_path}/nowhere: No such file or directory; check the path\n",
    )
    assert f"{len(dataset.test_labels)} images" in done.stdout  # what took long is shown
    three = tmp_path / "three"
    for path, name, images, line in [
        (tmp_path / "text.pt", net, None, "text.pt: not a file of weights ("),
        (file("list", [1]), net, None, "list.pt: not a file of weights (no dictionary of tensors by name)"),
        (good, "plain-8", None, "w.pt: holds residual-8-width=2, not plain-8; leave --net out"),
        (good, "nonsense", None, "nonsense: not the name of a net"),
        (file("less", first), net, three, "less.pt: lacks fc.bias; name weights of the same net"),
        (file("more", {**weights, "x": torch.zeros(1)}), net, three, "more.pt: has, but the net lacks, x; "),
        (file("wide", weights), "residual-8-width=4", three, "wide.pt: conv.weight has the shape 2x3x3x3, and in the"),
        (file("ten", weights), net, three, "ten.pt: weights for 10 classes, and here are 3; name weights for"),
        (
            file("scalar", {**weights, "fc.weight": torch.zeros(())}),
            net,
            three,
            "scalar.pt: fc.weight has the shape scalar, ",
        ),
        (good, None, tmp_path / "nowhere", "nowhere: no such folder or archive"),
        (good, None, tmp_path / "empty", "empty: no test images in folders with the names of the net's classes"),
        (good, None, tmp_path / "others", "(bars, circle, crescent and 7 more); they are in zebra"),
        (good, None, broken, "broken: bars/0000.png can't be read ("),
    ]:
        with pytest.raises(UserError, match=re.escape(line)) as refused:
            evaluate_weights(path, name, images)
        assert len(refused.value.args) == 1


def test_an_unfinished_run_and_changed_logits_are_refused(trained: Run, write_study: Write, tmp_path: Path) -> None:
    config = load(str(write_study("other.yaml", train={"steps": 7})))[1][0].config
    begun = Run(tmp_path / config.folder)
    begun.create(config)
    with pytest.raises(UserError, match="pending, and only a finished run is evaluated; finish it with resexp train"):
        stored_result(begun)
    labels = images_of(trained).test_labels
    trained.logits_path.write_bytes(Logits(np.eye(10, dtype=np.float32)[labels], labels, "").pack())
    with pytest.raises(
        UserError, match=r"its test error is 0\.0, and that of metrics\.jsonl 0\.\d+; restore the files"
    ):
        stored_result(trained)
