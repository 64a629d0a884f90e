"""Weights that leave resexp: what is in the file, who can read it, and what is refused."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision

from resexp import __version__
from resexp.config import ModelConfig, RunConfig
from resexp.config.nets import parse_net
from resexp.config.study import load, load_run
from resexp.data import open_dataset
from resexp.errors import UserError
from resexp.evaluation.weights import export, for_torchvision
from resexp.models import build_model
from resexp.runs import checkpoint, weights_file
from resexp.runs.records import Status
from resexp.runs.store import Run
from resexp.training.train import train

Cli = Callable[..., subprocess.CompletedProcess[str]]
READS = "import sys, torch; w = torch.load(sys.argv[1], weights_only=True); print(type(w).__name__, *w)"


@pytest.fixture
def trained(write_study: Callable[..., Path], tmp_path: Path) -> Run:
    _, [cell, *_] = load(str(write_study(train={"steps": 1, "precise_bn_images": 64})), [])
    run = Run(tmp_path / cell.config.folder)
    run.create(cell.config)
    train(run)
    return run


def finished(folder: Path, classes: int = 10, **model: Any) -> tuple[Run, torch.nn.Module]:
    """A run folder as training leaves it, with random weights."""
    torch.manual_seed(0)
    data = {"source": "shapes", "size": 32, "train_images": 100, "test_images": 100}
    config = RunConfig.model_validate({"data": data, "model": model, "train": {"steps": 1}})
    run, net = Run(folder / config.folder), build_model(config.model, classes)
    for buffer in net.buffers():  # statistics as after training
        if buffer.is_floating_point():
            buffer.uniform_(0.5, 2)
    run.create(config)
    trainer = {
        "step": 1, "model": net.state_dict(), "optimizer": {}, "scaler": {}, "warming_up": False, "running_error": 0.0,
        "seconds": 0.0,
    }  # fmt: skip
    state = {
        "signature": config.signature, "seed": 0, "trainer": trainer, "evaluated": 1, "tested": True, "best": None,
        "window": [], "metrics_bytes": 0,
    }  # fmt: skip
    run.checkpoint_path.write_bytes(checkpoint.pack(state))
    run.write_status(Status(state="finished"))
    return run, net.eval()


def test_torch_alone_reads_the_weights_that_were_tested(trained: Run, here: Cli, tmp_path: Path) -> None:
    to = tmp_path / "weights.pt"
    done = here("export", trained.folder, "--to", to)
    assert done.returncode == 0, done.stderr
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    alone = subprocess.run(
        [sys.executable, "-I", "-c", READS, str(to)], capture_output=True, text=True, env=environment, cwd="/"
    )
    expected = checkpoint.last_weights(trained)[1]
    assert alone.stdout.split() == ["dict", *expected], alone.stderr
    weights = torch.load(to, weights_only=True)
    assert all(torch.equal(weights[name], value) for name, value in expected.items())
    assert all(value.is_contiguous() for value in weights.values())


def test_safetensors_hold_the_same(trained: Run, tmp_path: Path) -> None:
    reader = pytest.importorskip("safetensors.torch")
    export(trained, tmp_path / "weights.safetensors")
    export(trained, tmp_path / "weights.pt")
    weights, expected = reader.load_file(tmp_path / "weights.safetensors"), torch.load(tmp_path / "weights.pt")
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


DESCRIBED = """
import json, pathlib, sys
import numpy as np
path = pathlib.Path(sys.argv[1])
if path.suffix == ".pt":
    text = path.with_suffix(".json").read_text()
else:
    from safetensors import safe_open
    text = safe_open(path, "pt").metadata()["resexp"]
about = json.loads(text)
np.save(sys.argv[2], np.array(about.pop("mean"), np.float32))
print(json.dumps(about))
"""
"""What another program does, without resexp."""


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_the_description_tells_what_the_net_takes_and_means(trained: Run, suffix: str, tmp_path: Path) -> None:
    if suffix == ".safetensors":
        pytest.importorskip("safetensors")
    to, mean = tmp_path / f"weights{suffix}", tmp_path / "mean.npy"
    assert export(trained, to) == "residual-8-width=2"
    alone = subprocess.run([sys.executable, "-I", "-c", DESCRIBED, to, mean], capture_output=True, text=True, cwd="/")
    config = load_run(trained.config_path)
    dataset = open_dataset(config.data)
    about = json.loads(alone.stdout)
    assert about == {
        "resexp": __version__,
        "net": "residual-8-width=2",
        "classes": dataset.classes,
        "size": [8, 8],
        "data": {"source": "shapes", "size": 8, "train_images": 200, "test_images": 100, "pad": 1},
        "signature": config.signature,
        "step": 1,
        "test_error": trained.metrics()[-1]["test_error"],
    }
    exact = dataset.train()[0].astype(np.float64).mean(0) / 255
    assert np.array_equal(np.load(mean), exact.astype(np.float32))
    described = weights_file.read(to).description
    assert described is not None
    assert np.array_equal(described.mean_image, np.load(mean))


def test_torchvisions_name_is_in_the_description(tmp_path: Path) -> None:
    run, _ = finished(tmp_path, variant="imagenet", depth=18, shortcut="B")
    assert export(run, tmp_path / "w.pt", torchvision=True) == "resnet18"
    described = weights_file.read(tmp_path / "w.pt").description
    assert described is not None
    assert (described.torchvision, described.net) == ("resnet18", "imagenet/residual-18-B")
    assert parse_net(described.net, []).config == load_run(run.config_path).model


def test_weights_leave_without_their_images(trained: Run, here: Cli, tmp_path: Path) -> None:
    """With a line that tells what is missing."""
    manifest = trained.manifest()
    assert manifest is not None
    manifest.data.fingerprint = "0" * 16
    trained.write_manifest(manifest)
    done = here("export", trained.folder, "--to", tmp_path / "w.pt")
    assert done.returncode == 0
    assert "its mean and classes are unknown, for its images are not here: " in done.stderr
    assert "begun on other data (fingerprint 0000000000000000, now " in done.stderr
    described = weights_file.read(tmp_path / "w.pt").description
    assert described is not None
    assert (described.mean, described.classes, described.net) == (None, [], "residual-8-width=2")


def test_without_safetensors_it_says_what_to_install(trained: Run, resexp: Cli, tmp_path: Path) -> None:
    broken = tmp_path / "path" / "safetensors"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise ImportError")
    path = os.pathsep.join([str(broken.parent), os.environ["PYTHONPATH"]])
    done = resexp("export", trained.folder, "--to", "w.safetensors", PYTHONPATH=path)
    assert done.returncode == 2
    assert done.stderr == (
        "resexp: w.safetensors: needs safetensors: pip install 'resexp[export]'; or name a .pt file\n"
    )
    assert not Path("w.safetensors").exists()


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("resnet34", {"depth": 34, "shortcut": "B", "residual_init": "zero-gamma"}),
        ("resnet101", {"depth": 101, "stride_conv": "3x3", "shortcut": "B"}),
    ],
)
def test_torchvisions_nets_take_the_weights_and_give_the_same_logits(
    name: str, model: dict[str, Any], tmp_path: Path
) -> None:
    run, ours = finished(tmp_path, variant="imagenet", **model)
    assert export(run, tmp_path / "w.pt", torchvision=True) == name
    theirs = getattr(torchvision.models, name)(weights=None, num_classes=10).eval()
    theirs.load_state_dict(torch.load(tmp_path / "w.pt", weights_only=True), strict=True)
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        expected, got = ours(x), theirs(x)
    assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("depth", [16, 19])
def test_vgg_gives_torchvisions_names_and_shapes(depth: int) -> None:
    """Dropout here keeps the state of its random numbers in the net; that is no weight."""
    with torch.device("meta"):
        ours = for_torchvision(build_model(ModelConfig(kind="vgg", depth=depth), 10).state_dict())
        theirs = getattr(torchvision.models, f"vgg{depth}")(num_classes=10).state_dict()
    assert {name: value.shape for name, value in ours.items()} == {name: v.shape for name, v in theirs.items()}


@pytest.mark.parametrize(
    ("model", "odd"),
    [
        ({"depth": 18, "shortcut": "A"}, "model.shortcut: A"),
        ({"depth": 18, "shortcut": "C"}, "model.shortcut: C"),
        ({"depth": 18, "shortcut": "B", "width": 4}, "model.width: 4"),
        ({"depth": 18, "shortcut": "B", "drop_path": 0.5}, "model.drop_path: 0.5"),
        ({"depth": 18, "shortcut": "B", "norm": "fixup"}, "model.norm: fixup"),
        ({"depth": 18, "shortcut": "B", "residual_init": "rezero"}, "model.residual_init: rezero"),
        ({"depth": 50, "stride_conv": "1x1", "shortcut": "B"}, "model.stride_conv: 1x1"),
        ({"depth": 18, "kind": "plain"}, "model.kind: plain, model.shortcut: None"),
        ({"depth": 18, "shortcut": "B", "activation": "gelu"}, "model.activation: gelu"),
        ({"depth": 18, "shortcut": "B", "residual_scale": 0.5}, "model.residual_scale: 0.5"),
        ({"depth": 16, "kind": "vgg", "activation": "gelu"}, "model.activation: gelu"),
    ],
)
def test_a_net_that_torchvision_lacks_is_refused(model: dict[str, Any], odd: str, tmp_path: Path) -> None:
    """Also where its names and shapes would fit: with the stride elsewhere it would compute something else."""
    recipe = {"data": {"source": "shapes", "size": 32}, "model": {"variant": "imagenet", **model}}
    config = RunConfig.model_validate(recipe)
    run = Run(tmp_path / config.folder)
    run.create(config)
    run.write_status(Status(state="finished"))
    with pytest.raises(UserError) as refused:
        export(run, tmp_path / "w.pt", torchvision=True)
    assert str(refused.value) == f"{run.folder}: torchvision has no net with {odd}; leave --torchvision out"


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_folder_that_is_missing_is_named(trained: Run, suffix: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as refused:
        export(trained, tmp_path / f"no/such/a{suffix}")
    assert refused.value.filename == str(tmp_path / "no/such")


def test_what_is_no_finished_run_is_refused(here: Cli, write_study: Callable[..., Path], tmp_path: Path) -> None:
    config = load(str(write_study()), [])[1][0].config
    run = Run(tmp_path / config.folder)
    run.create(config)
    study = tmp_path / "study"
    study.mkdir()
    (study / "study.json").write_text("{}")
    kept = tmp_path / "kept.pt"
    kept.write_text("mine")
    (tmp_path / "other.json").write_text("mine")
    for folder, to, why in [
        (tmp_path / "nowhere", "w.pt", "neither a run folder (config.yaml) nor a study folder"),
        (study, "w.pt", "0 runs; name one, such as STUDY:NET/SEED"),
        (run.folder, "w.pt", "pending, and only a finished run is exported"),
        (run.folder, kept, "exists already, and is left as it is; name another file"),
        (run.folder, tmp_path / "other.pt", "other.json: exists already, and is left as it is; name another file"),
        (run.folder, "w.onnx", "unknown suffix '.onnx'; allowed: .pt, .safetensors"),
    ]:
        done = here("export", folder, "--to", to)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert why in done.stderr
    assert kept.read_text() == "mine"
    run.write_status(Status(state="finished"))
    done = here("export", run.folder, "--to", "w.pt")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "no checkpoint.pt, so there are no weights" in done.stderr
