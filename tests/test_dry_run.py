"""`--dry-run`: what a sweep will take, as far as earlier runs tell, and whether its data are here."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from resexp.cli import app
from resexp.runs.earlier import size
from resexp.runs.store import Run, StudyFolder

Write = Callable[..., Path]


def call(*words: object) -> str:
    done = CliRunner().invoke(app, list(map(str, words)))
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def trained(write_study: Write) -> Run:
    """A run of residual-8 whose 12 steps took 60 seconds, as its manifest says."""
    call("sweep", write_study(), "--executor", "debug")
    (run,) = StudyFolder(Path("results/tiny")).runs()
    manifest = run.manifest()
    assert manifest is not None
    manifest.attempts[0].started = "2026-01-01T00:00:00+00:00"
    manifest.attempts[0].ended = "2026-01-01T00:01:00+00:00"
    run.write_manifest(manifest)
    return run


def test_without_earlier_runs_nothing_is_known(write_study: Write) -> None:
    shown = call("sweep", write_study(seeds=[0, 1]), "--dry-run")
    assert shown.count("unknown") == 3
    assert "time and disk: unknown, for no run of these nets has finished here" in shown


def test_time_and_disk_are_those_of_earlier_runs_of_the_net(trained: Run, write_study: Write) -> None:
    """60 s for 12 steps are 5 s each: 1,000 steps take 1:23:20, and three seeds on two processes half of 4:10:00."""
    study = write_study(seeds=[1, 2, 3], train={"steps": 1000}, grid={"model.depth": [8, 14]}, executor={"jobs": 2})
    lines = call("sweep", study, "--set", "name=longer", "--dry-run").splitlines()
    assert sum("1:23:20" in line and "residual-8 " in line for line in lines) == 3
    assert sum("unknown" in line and "residual-14 " in line for line in lines) == 3
    assert (
        f"time: 4:10:00 for 3 runs, as earlier ones took on {platform.machine()} cpu; "
        "about 2:05:00 in all with 2 at a time; unknown for 3 runs"
    ) in lines
    (disk,) = (line for line in lines if line.startswith("disk: "))
    assert disk.startswith(f"disk: {3 * size(trained.folder) / 2**20:,.1f} MiB for 3 runs; ")


def test_steps_that_are_done_are_not_counted_again(trained: Run, write_study: Write) -> None:
    assert "time" not in "".join(call("sweep", "tiny.yaml", "--dry-run").splitlines()[5:])
    status = trained.status()
    assert (status.step, status.steps) == (12, 12)
    half = write_study("half.yaml", train={"steps": 24}, seeds=[5])
    call("sweep", half, "--set", "name=half", "--jobs", 1)
    (run,) = StudyFolder(Path("results/half")).runs()
    status = run.status()
    status.state, status.step = "interrupted", 20
    run.write_status(status)
    assert " 0:00:20 " in call("sweep", half, "--set", "name=half", "--dry-run")


@pytest.mark.parametrize(
    "change",
    [["model.width=3"], ["train.batch_size=16"], ["data.size=12"], ["train.precision=bf16"]],
)
def test_another_net_batch_or_image_is_no_estimate(trained: Run, change: list[str]) -> None:
    assert "time and disk: unknown" in call("sweep", "tiny.yaml", "--set", change[0], "--dry-run")


def test_a_damaged_run_and_one_of_another_machine_are_no_estimate(trained: Run) -> None:
    record = json.loads(trained.manifest_path.read_text())
    changes = {"device": "other cpu"}, {"ended": "2025-12-31T23:00:00+00:00"}, {"started": "2026-01-01T00:00:00"}
    others = [json.dumps({**record, "attempts": [record["attempts"][0] | change]}) for change in changes]
    for text in ("{", *others):
        trained.manifest_path.write_text(text)
        assert "time and disk: unknown" in call("sweep", "tiny.yaml", "--set", "seeds=[7]", "--dry-run")


def test_runs_on_other_images_are_named(trained: Run) -> None:
    manifest = trained.manifest()
    assert manifest is not None
    manifest.data.fingerprint = "0" * 64  # as if the images of a folder had been others
    trained.write_manifest(manifest)
    status = trained.status()
    status.state, status.step = "interrupted", 6
    trained.write_status(status)
    last = call("sweep", "tiny.yaml", "--dry-run").splitlines()[-1]
    assert last.startswith("residual-8: ")
    assert last.endswith("; training would stop there")
    assert "residual-8: " not in call("sweep", "tiny.yaml", "--dry-run", "--rerun", "residual-8")


@pytest.mark.parametrize("verb", ["sweep", "train"])
def test_data_that_are_not_here_are_one_line_below_the_table(verb: str) -> None:
    lines = call(verb, "cifar10/resnet20", "--dry-run").splitlines()
    assert sum("residual-20" in line for line in lines) == 1
    assert lines[-1].startswith("data: ")
    assert "CIFAR-10 is not here; run `resexp data fetch cifar10`" in lines[-1]
    assert lines[-1].endswith("; training would stop there")
    assert not Path("results").exists()


def test_what_is_begun_anew_has_its_time_and_what_is_skipped_has_none(trained: Run) -> None:
    again = call("sweep", "tiny.yaml", "--rerun", "residual-8", "--dry-run")
    assert "1:00" in again
    assert "pending" in again
    status = trained.status()
    status.state, status.step = "failed", 6
    trained.write_status(status)
    assert "unknown" not in call("sweep", "tiny.yaml", "--dry-run")
    assert "unknown" in call("sweep", "tiny.yaml", "--dry-run", "--retry-failed")
