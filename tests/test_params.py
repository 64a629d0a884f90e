"""model.params: the width that a number of parameters leads to, in the configuration, the label and the report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from resexp.config import ModelConfig, RunConfig
from resexp.config.nets import parse_net
from resexp.config.params import count
from resexp.config.study import load, load_run, nets_of
from resexp.errors import UserError
from resexp.models.summary import summarise_net
from resexp.report.summary import summarise as report_of
from resexp.runs.store import Run, StudyFolder
from tests.test_report import add_family, study

__all__ = ["study"]

Make = Callable[..., StudyFolder]
KINDS = ("plain", "residual", "preact")


NETS = [
    *({"kind": kind, "block": block} for kind in KINDS for block in ("basic", "bottleneck")),
    *({"kind": kind, "shortcut": shortcut} for kind in KINDS[1:] for shortcut in "BC"),
    *({"kind": kind, "shortcut": shortcut, "block": "bottleneck"} for kind in KINDS[1:] for shortcut in "ABC"),
    *({"kind": kind, "norm": norm} for kind in KINDS for norm in ("group", "layer", "none")),
    *({"norm": norm, "shortcut": "C", "residual_init": "rezero"} for norm in ("batch", "none")),
    *({"norm": "fixup", "shortcut": shortcut} for shortcut in "AB"),
    *({"kind": kind, "variant": "imagenet", "depth": depth} for kind in KINDS for depth in (18, 50)),
    *({"kind": "vgg", "norm": norm} for norm in ("none", "batch", "layer")),
]


@pytest.mark.parametrize("net", NETS, ids=str)
def test_counts_are_those_of_the_nets(net: dict[str, Any]) -> None:
    smallest = {"depth": 11 if net.get("block") == "bottleneck" else 8} if net.get("kind") != "vgg" else {}
    model = ModelConfig.model_validate({**smallest, **net})
    for width, classes in ((1, 10), (6, 37)):
        assert (
            count(model, width, classes)
            == summarise_net(model.model_copy(update={"width": width}), 32, 32, classes).parameters
        )


@pytest.mark.parametrize(
    ("model", "params", "width"),
    [
        ({"depth": 20}, "270k", 16),  # the paper's 0.27, 0.46, 0.66, 0.85 and 1.7 M (Table 6)
        ({"depth": 32}, "0.46M", 16),
        ({"depth": 44}, 660_000, 16),
        ({"depth": 56}, "0.85M", 16),
        ({"depth": 110}, "1.7M", 16),
        ({"depth": 56}, "270k", 9),
        ({"depth": 50, "variant": "imagenet"}, "25.6M", 64),
        ({"kind": "vgg"}, "138M", 64),
    ],
)
def test_the_width_that_comes_nearest_is_taken(model: dict[str, Any], params: str | int, width: int) -> None:
    """No other width comes nearer."""
    data = {"source": "imagenet", "path": "x"} if "variant" in model or "kind" in model else {"source": "cifar10"}
    run = RunConfig.model_validate({"data": data, "model": {**model, "params": params}})
    assert run.model.width == width
    classes = 1000 if data["source"] == "imagenet" else 10
    distance = {w: abs(count(run.model, w, classes) - (run.model.params or 0)) for w in range(1, 100)}
    assert min(distance, key=lambda w: distance[w]) == width
    given = RunConfig.model_validate({"data": data, "model": {**model, "width": width}})
    assert (run.signature, run.folder) == (given.signature, given.folder)


def test_the_classes_of_the_images_count() -> None:
    """At width 8 a hundred classes take 2,970 parameters more than ten."""
    data = {"source": "cifar100"}
    ten, hundred = (
        RunConfig.model_validate({"data": d, "model": {"depth": 8, "params": 19_500}}).model.width
        for d in ({"source": "cifar10"}, data)
    )
    assert (ten, hundred) == (8, 7)


def test_a_sweep_over_depth_and_kind(tmp_path: Path) -> None:
    """Labels name kind and depth; the configuration of a run holds the width and what it comes from."""
    path = tmp_path / "iso.yaml"
    path.write_text("model: {params: 270k}\ngrid: {model.kind: [plain, residual], model.depth: [20, 56]}\n")
    cells = load(str(path))[1]
    assert {cell.label: cell.config.model.width for cell in cells} == {
        "plain-20": 16, "plain-56": 9, "residual-20": 16, "residual-56": 9,
    }  # fmt: skip
    assert [net.name for net in nets_of(str(path), [])] == [
        "plain-20", "plain-56-width=9", "residual-20", "residual-56-width=9",
    ]  # fmt: skip
    assert load(str(path), ["grid={model.params: [270k, 1M]}"])[1][1].label == "residual-20-params=1M"
    assert parse_net("residual-56-params=270k", []).name == "residual-56-width=9"
    run = Run(tmp_path / cells[1].config.folder)
    run.create(cells[1].config)
    assert load_run(run.config_path) == cells[1].config
    assert "width: 9\n  params: 270000\n" in run.config_path.read_text()


def test_nets_of_as_many_parameters_are_one_family(study: Make) -> None:
    """Their widths differ with their depth."""
    folder = study({})
    errors = {(kind, depth): [9.0, 10.0] for kind in ("plain", "residual") for depth in (8, 14)}
    add_family(folder, "iso", errors, model={"params": 6_500})  # type: ignore[arg-type]
    summary = report_of(folder)
    assert {net.runs[0].config.model.width for net in summary.nets} == {3, 5}
    assert summary.verdict.families == ["plain iso", "residual iso"]


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ({"params": 10}, r"no width of residual-20 comes near 10 \(width 1 has 1,207\); set width"),
        ({"params": 2_500}, r"comes near 2,500 \(width 1 has 1,207, width 2 has 4,492\); set width"),
        ({"params": "900000M"}, r"comes near 900,000,000,000 \(width 1024 has 1,\d+,\d+,\d+\); set width"),
        ({"params": "270k", "width": 8}, r"width 8 and params 270,000 \(width 16\) are both given; leave one out"),
        ({"params": "many"}, "model.params: expected a number of parameters, such as 270k or 1.7M, got 'many'"),
        ({"params": "270 k"}, "model.params: expected a number of parameters, such as 270k or 1.7M, got '270 k'"),
        ({"params": 0}, "model.params: should be greater than or equal to 1, got 0"),
        ({"params": 1.5}, "model.params: should be a valid integer, got 1.5"),
    ],
)
def test_a_mistake_is_one_line(model: dict[str, object], says: str, tmp_path: Path) -> None:
    path = tmp_path / "s.yaml"
    path.write_text(yaml.safe_dump({"model": model}))
    with pytest.raises(UserError, match=says) as error:
        load(str(path))
    assert len(error.value.args) == 1
    assert error.value.args[0].startswith(f"{path}:")


def test_a_width_of_another_file_is_left_out_with_null(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("model: {depth: 56, width: 8}\n")
    path = tmp_path / "s.yaml"
    path.write_text("extends: base.yaml\nmodel: {params: 270k, width: null}\n")
    assert load(str(path))[1][0].config.model.width == 9
    with pytest.raises(UserError, match="both given"):
        load(str(path), ["model.width=8"])
    assert load(str(path), ["model.width=9"])[1][0].config.model.width == 9
    assert load(str(path), ["model.width=8", "model.params=null"])[1][0].config.model.width == 8
