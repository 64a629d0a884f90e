"""Ensembles: the mean of stored logits, against loops over images, and everything that can't be averaged."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from resexp.cli import app
from resexp.config import RunConfig
from resexp.errors import UserError
from resexp.evaluation.ensemble import ensemble
from resexp.runs.logits import Logits
from resexp.runs.records import Status
from resexp.runs.store import Run

LABELS = [0, 1, 2, 0]


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    """A finished run with these logits, as training would have left it."""

    def make(seed: int, values: list[list[float]], labels: list[int] = LABELS, fingerprint: str = "f") -> Run:
        config = RunConfig(seed=seed)
        run = Run(tmp_path / "study" / config.folder)
        run.create(config)
        stored = Logits(np.array(values, dtype=np.float32), np.array(labels), fingerprint)
        run.logits_path.write_bytes(stored.pack())
        run.metrics_path.write_text(json.dumps({"event": "test", "step": 1, "test_error": stored.error}) + "\n")
        run.write_status(Status(state="finished"))
        return run

    return make


RIGHT = [[2.0, 0.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 2.0], [2.0, 0.0, 0.0]]
WRONG_TWICE = [[0.0, 1.0, 0.0], [3.0, 0.0, 0.0], [0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]


def test_the_surer_net_outvotes_the_other(make_run: Callable[..., Run]) -> None:
    """On the first image the right net is surer, on the second the wrong one."""
    runs = [make_run(0, RIGHT), make_run(1, WRONG_TWICE)]
    found = ensemble(runs)
    assert (found.runs, found.errors, found.error) == (tuple(runs), (0.0, 0.5), 0.25)
    assert found.to_json() == {
        "members": [
            {"run": "residual-20 seed 0", "folder": str(runs[0].folder), "test_error": 0.0, "test_top5_error": None},
            {"run": "residual-20 seed 1", "folder": str(runs[1].folder), "test_error": 0.5, "test_top5_error": None},
        ],
        "mean_test_error": 0.25,
        "mean_test_top5_error": None,
        "ensemble_test_error": 0.25,
        "ensemble_test_top5_error": None,
    }


def test_the_error_of_many_is_that_of_their_mean_logits(make_run: Callable[..., Run]) -> None:
    """Image by image and class by class."""
    draw = random.Random(0)
    labels = [draw.randrange(5) for _ in range(60)]
    nets = [[[draw.gauss(2.0 * (k == label), 3) for k in range(5)] for label in labels] for _ in range(7)]
    found = ensemble([make_run(seed, net, labels) for seed, net in enumerate(nets)])
    wrong = 0
    for i, label in enumerate(labels):
        mean = [sum(net[i][k] for net in nets) / len(nets) for k in range(5)]
        wrong += mean.index(max(mean)) != label
    assert found.error == wrong / 60
    assert found.error < min(found.errors)
    assert found.mean == pytest.approx(sum(found.errors) / 7)


def test_fewer_than_two_runs_are_no_ensemble(make_run: Callable[..., Run]) -> None:
    with pytest.raises(UserError, match="needs two runs or more, got 1; name another finished run"):
        ensemble([make_run(0, RIGHT)])


def test_a_run_counts_once_by_whatever_path(make_run: Callable[..., Run]) -> None:
    run = make_run(0, RIGHT)
    with pytest.raises(UserError, match="named twice; name each run of an ensemble once"):
        ensemble([run, Run(run.folder.parent / ".." / run.folder.parent.name / run.folder.name)])


def test_a_run_that_is_not_finished_is_named_with_the_command_that_finishes_it(make_run: Callable[..., Run]) -> None:
    run, other = make_run(0, RIGHT), make_run(1, RIGHT)
    other.write_status(Status(state="interrupted"))
    with pytest.raises(UserError, match=f"interrupted, .* finish it with resexp train {other.folder}"):
        ensemble([run, other])


def test_a_run_of_an_earlier_version_has_no_logits(make_run: Callable[..., Run]) -> None:
    run, other = make_run(0, RIGHT), make_run(1, RIGHT)
    run.logits_path.unlink()
    with pytest.raises(UserError, match=r"no logits.npz, .* delete the folder and train it again"):
        ensemble([run, other])


def test_logits_on_other_images_are_not_averaged(make_run: Callable[..., Run]) -> None:
    with pytest.raises(UserError, match=r"tested on other images \(fingerprint g, and f in "):
        ensemble([make_run(0, RIGHT), make_run(1, RIGHT, fingerprint="g")])


def test_the_same_images_in_another_order_are_not_averaged(make_run: Callable[..., Run]) -> None:
    """As those of the CIFAR archive and of a folder of the same pictures, whose fingerprint is one."""
    with pytest.raises(UserError, match="in another order"):
        ensemble([make_run(0, RIGHT), make_run(1, RIGHT, labels=[2, 1, 0, 0])])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (RIGHT[:3], "logits of 3 images and 3 classes (4 and 3 in "),
        ([row[:2] for row in RIGHT], "logits of 4 images and 2 classes (4 and 3 in "),
    ],
)
def test_another_number_of_images_or_classes(
    make_run: Callable[..., Run], values: list[list[float]], says: str
) -> None:
    with pytest.raises(UserError) as error:
        ensemble(
            [
                make_run(0, RIGHT),
                make_run(1, values, labels=[label % len(values[0]) for label in LABELS][: len(values)]),
            ]
        )
    assert says in str(error.value)


def test_logits_that_are_not_those_of_the_recorded_error_are_refused(make_run: Callable[..., Run]) -> None:
    run, other = make_run(0, RIGHT), make_run(1, RIGHT)
    other.logits_path.write_bytes(make_run(2, WRONG_TWICE).logits_path.read_bytes())
    with pytest.raises(UserError, match=r"its test error is 0.5, and that of metrics.jsonl 0.0; restore the files"):
        ensemble([run, other])


def halves(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flips_a_byte(content: bytes) -> bytes:
    return content[:200] + bytes([content[200] ^ 1]) + content[201:]


def empties(content: bytes) -> bytes:
    return b""


def is_text(content: bytes) -> bytes:
    return b"hello\n"


@pytest.mark.parametrize("damage", [halves, flips_a_byte, empties, is_text])
def test_a_damaged_file_is_named(make_run: Callable[..., Run], damage: Callable[[bytes], bytes]) -> None:
    run, other = make_run(0, RIGHT), make_run(1, RIGHT)
    other.logits_path.write_bytes(damage(other.logits_path.read_bytes()))
    with pytest.raises(UserError, match=r"logits.npz: damaged \(.*\); restore it, or delete the run folder") as error:
        ensemble([run, other])
    assert str(other.folder) in str(error.value)


def test_averaging_needs_no_torch() -> None:
    program = "import sys, resexp.evaluation.ensemble; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def test_top_5_errors_stand_beside_the_others_where_there_are_classes_enough(make_run: Callable[..., Run]) -> None:
    """Against a loop that sorts each image's classes; of equal logits the first class counts as the larger."""
    draw = random.Random(1)
    labels = [draw.randrange(12) for _ in range(80)]
    nets = [[[float(draw.randrange(6) + 2 * (k == label)) for k in range(12)] for label in labels] for _ in range(3)]

    def top(net: list[list[float]], k: int) -> float:
        best = [sorted(range(12), key=lambda c, row=row: (-row[c], c))[:k] for row in net]  # type: ignore[misc]
        return sum(label not in kept for label, kept in zip(labels, best, strict=True)) / len(labels)

    runs = [make_run(seed, net, labels) for seed, net in enumerate(nets)]
    found = ensemble(runs)
    together = [[sum(values) for values in zip(*rows, strict=True)] for rows in zip(*nets, strict=True)]
    assert found.top5_errors == tuple(top(net, 5) for net in nets)
    assert found.top5_error == top(together, 5) < found.error == top(together, 1) == found.total.top_error(1)
    assert found.top5_mean == pytest.approx(sum(found.top5_errors) / 3)
    said = CliRunner().invoke(app, ["probe", "ensemble", *(str(run.folder) for run in runs)]).stdout
    assert f"{100 * found.error:.2f} %" in said
    assert f"{100 * found.top5_error:.2f} %" in said


def test_labels_without_a_class_are_no_labels(make_run: Callable[..., Run]) -> None:
    run, other = make_run(0, RIGHT), make_run(1, RIGHT)
    other.logits_path.write_bytes(Logits(np.array(RIGHT), np.array([0, 1, 2, 3]), "f").pack())
    with pytest.raises(UserError, match="labels of classes that there are no logits of"):
        ensemble([run, other])
