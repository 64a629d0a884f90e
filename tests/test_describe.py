"""What `resexp describe` says of a net: its name, its layers, exact numbers, and the drawing."""

from __future__ import annotations

import json
import math
import os
import re
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from resexp.cli import app
from resexp.config import ModelConfig
from resexp.config.nets import parse_net
from resexp.config.study import nets_of
from resexp.errors import UserError
from resexp.layer_table import Layer, parts, short
from resexp.models import build_model
from resexp.models.summary import NetSummary, summarise_net
from resexp.utils.files import write_output

SVG = "{http://www.w3.org/2000/svg}"


def summary(name: str, *settings: str, size: int | None = None) -> NetSummary:
    net = parse_net(name, list(settings), size)
    return summarise_net(net.config, net.size, net.size, net.classes)


def layer(name: str, of: NetSummary) -> Layer:
    return next(layer for layer in of.layers if layer.name == name)


def describe(*arguments: object) -> str:
    done = CliRunner().invoke(app, ["describe", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0
    return done.stdout


# -- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "config", "size", "classes"),
    [
        ("plain-20", {"kind": "plain", "depth": 20}, 32, 10),
        ("residual-110", {"kind": "residual", "depth": 110}, 32, 10),
        ("preact-164-bottleneck", {"kind": "preact", "depth": 164, "block": "bottleneck"}, 32, 10),
        (
            "residual-20-C-norm=none-rezero",
            {"depth": 20, "shortcut": "C", "norm": "none", "residual_init": "rezero"},
            32,
            10,
        ),
        ("residual-56-zero-gamma", {"depth": 56, "residual_init": "zero-gamma"}, 32, 10),
        ("residual-20-fixup", {"depth": 20, "norm": "fixup"}, 32, 10),
        ("imagenet/residual-34-B", {"variant": "imagenet", "depth": 34, "shortcut": "B"}, 224, 1000),
        ("imagenet/residual-50-3x3", {"variant": "imagenet", "depth": 50, "stride_conv": "3x3"}, 224, 1000),
        ("vgg-16", {"kind": "vgg", "depth": 16}, 224, 1000),
        ("vgg-19-batch", {"kind": "vgg", "depth": 19, "norm": "batch"}, 224, 1000),
    ],
)
def test_a_name_says_what_differs_from_the_paper(name: str, config: dict[str, Any], size: int, classes: int) -> None:
    net = parse_net(name, [])
    assert (net.config, net.size, net.classes) == (ModelConfig(**config), size, classes)
    assert net.name == name


@pytest.mark.parametrize(
    "name",
    [
        "residual-20-residual_scale=1e-05",
        "residual-20-residual_scale=depth^-0.5",
        "residual-20-norm=none-rezero",
        "residual-29-bottleneck-3x3-norm=none",
        "preact-164-bottleneck-drop_path=1e-05",
    ],
)
def test_a_name_gives_its_net(name: str) -> None:
    assert parse_net(name, []).name == name
    assert parse_net(name, []).config != parse_net(re.sub(r"-[a-z_]+=.*", "", name), []).config


@pytest.mark.parametrize(
    ("name", "shorter"),
    [
        ("imagenet/vgg-16", "vgg-16"),
        ("cifar/residual-20-A-batch", "residual-20"),
        ("imagenet/residual-50-bottleneck", "imagenet/residual-50"),
        ("residual-29-B-bottleneck", "residual-29-bottleneck"),
    ],
)
def test_what_goes_without_saying_is_left_out_of_a_name(name: str, shorter: str) -> None:
    assert parse_net(name, []).name == shorter


def test_settings_and_the_size_apply_too() -> None:
    net = parse_net("residual-20", ["model.width=32", "model.drop_path=0.5"], 16)
    assert (net.config.width, net.size) == (32, 16)
    assert net.name == "residual-20-width=32-drop_path=0.5"


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("resnet", [], "resnet: not the name of a net; expected KIND-DEPTH or KIND-DEPTH-WORD, such as plain-20"),
        ("plain20", [], "plain20: not the name of a net"),
        ("plian-20", [], "model.kind: got 'plian'; allowed: plain, residual, preact, vgg (did you mean 'plain'?)"),
        ("imagnet/plain-18", [], "model.variant: got 'imagnet'; allowed: cifar, imagenet (did you mean 'imagenet'?)"),
        ("plain-21", [], "plain-21: model.depth: must be 6n+2; the nearest are 20 and 26, got 21"),
        ("plain-20-A", [], "plain-20-A: model.shortcut: a plain net has no shortcut"),
        (
            "preact-164-bottelneck",
            [],
            "preact-164-bottelneck: unknown word 'bottelneck'; allowed: basic, bottleneck, A, B, C, 1x1, 3x3, batch, "
            "group, layer, fixup, relu, tanh, gelu, tat, he, orthogonal, delta-orthogonal, dirac, standard, "
            "zero-gamma, rezero (did you mean 'bottleneck'?)",
        ),
        ("residual-20-A-B", [], "residual-20-A-B: A and B are both its shortcut; keep one"),
        ("plain-20", ["model.widht=8"], "--set model.widht=8: model.widht: unknown key"),
        ("plain-20", ["data.resize=16"], "--set data.resize=16: data: unknown key"),
        ("vgg-16", [], "vgg-16: halves its images five times, so they need 32 pixels, got 31"),
    ],
)
def test_a_mistake_in_a_name_is_one_line(name: str, settings: list[str], says: str) -> None:
    with pytest.raises(UserError) as error:
        parse_net(name, settings, 31)
    (line,) = error.value.args
    assert line.startswith(says) or f" {says}" in line


def test_the_nets_of_a_study_with_the_images_of_its_data(tmp_path: Path) -> None:
    nets = nets_of("cifar10/cpu-small", [])
    assert [net.name for net in nets] == [f"{k}-{d}-width=8" for k in ("plain", "residual") for d in (20, 32, 44, 56)]
    assert {(net.size, net.classes) for net in nets} == {(16, 10)}
    assert {net.size for net in nets_of("quickstart", ["data.size=24"])} == {24}
    assert {net.size for net in nets_of("quickstart", ["data.size=24"], 48)} == {48}
    study = tmp_path / "own.yaml"
    study.write_text("data: {source: folder, path: images}\nmodel: {variant: imagenet}\ngrid: {train.lr: [0.1, 0.2]}\n")
    assert [(net.name, net.size, net.classes) for net in nets_of(str(study), [])] == [
        ("imagenet/residual-18", 224, 1000)
    ]


# -- layers -----------------------------------------------------------------------------------------------------------

NAMES = [
    "plain-20", "residual-20-B", "residual-56-C", "preact-110", "preact-29-bottleneck-C", "residual-20-fixup",
    "residual-20-B-fixup", "residual-20-norm=none-rezero", "preact-20-rezero", "plain-20-norm=none",
    "imagenet/residual-50", "imagenet/residual-18-fixup", "vgg-16", "vgg-19-batch",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_every_parameter_is_counted_with_one_layer(name: str) -> None:
    net = parse_net(name, [])
    with torch.device("meta"):
        model = build_model(net.config, net.classes)
    assert summary(name).parameters == sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_of_a_net_sum_up_to_it(name: str) -> None:
    of = summary(name)
    for found in (parts(of.layers), parts(of.layers, every_block=True)):
        for count in ("parameters", "multiply_adds"):
            total = sum(part.blocks * getattr(layer, count) for part in found for layer in part.first)
            assert total == getattr(of, count)


def test_the_layers_of_residual_8() -> None:
    """By hand; every layer's parameters with its BN's two a filter."""
    assert [
        (layer.name, layer.what, layer.output, layer.parameters, layer.multiply_adds, layer.receptive_field)
        for layer in summary("residual-8").layers
    ] == [
        ("conv", "3x3 conv, 16", (16, 32, 32), 464, 442_368, 3),
        ("stages.0.0.conv1", "3x3 conv, 16", (16, 32, 32), 2_336, 2_359_296, 5),
        ("stages.0.0.conv2", "3x3 conv, 16", (16, 32, 32), 2_336, 2_359_296, 7),
        ("stages.1.0.conv1", "3x3 conv, 32, /2", (32, 16, 16), 4_672, 1_179_648, 9),
        ("stages.1.0.conv2", "3x3 conv, 32", (32, 16, 16), 9_280, 2_359_296, 13),
        ("stages.2.0.conv1", "3x3 conv, 64, /2", (64, 8, 8), 18_560, 1_179_648, 17),
        ("stages.2.0.conv2", "3x3 conv, 64", (64, 8, 8), 36_992, 2_359_296, 25),
        ("average", "average pool", (64, 1, 1), 0, 0, None),
        ("fc", "fc 10", (10, 1, 1), 650, 640, None),
    ]


@pytest.mark.parametrize(
    ("name", "pixels"),
    [
        ("residual-20", 81),
        ("residual-110", 501),
        ("imagenet/residual-18", 435),
        ("imagenet/residual-34", 899),
        ("imagenet/residual-50", 483),
        ("imagenet/residual-152", 1507),
        ("imagenet/residual-50-3x3", 483 - 2 * (4 + 8 + 16)),
        ("vgg-16", 196),
    ],
)
def test_receptive_fields(name: str, pixels: int) -> None:
    """CIFAR's: 3 + 2 * 2n + 2 * (1 + 2 (2n - 1)) + 2 * (2 + 4 (2n - 1)) = 28n - 3. Those of ResNet-50 and 152 are in
    Araujo et al. 2019 (distill.pub), with VGG-16's 212 after its last pooling; where the 3x3 convolutions halve, three
    of them see half as far."""
    assert summary(name).receptive_field == pixels


@pytest.mark.parametrize(
    "name",
    [
        "residual-8",
        "plain-14",
        "residual-14-B",
        "preact-11-bottleneck",
        "residual-11-bottleneck-3x3",
        "imagenet/plain-18",
    ],
)
def test_a_receptive_field_is_what_has_a_gradient(name: str) -> None:
    """With positive weights nothing cancels, so an output's gradient reaches just what it sees."""
    config = parse_net(name, ["model.width=1"]).config
    model = build_model(config, 10).eval().double()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.constant_(module.weight, 0.1)
    if isinstance(model.pool, nn.MaxPool2d):  # only the largest number of a maximum has a gradient
        model.pool = nn.AvgPool2d(3, stride=2, padding=1)
    outputs: dict[str, torch.Tensor] = {}
    for at, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, inputs, output, at=at: outputs.update({at: output}))
    size = 512 if config.variant == "imagenet" else 128
    image = torch.rand(1, 3, size, size, dtype=torch.double, requires_grad=True)
    model(image)
    seen = {}
    for at, output in outputs.items():
        middle = output[0, 0, output.shape[2] // 2, output.shape[3] // 2]
        (gradient,) = torch.autograd.grad(middle, image, retain_graph=True)
        rows = gradient[0, 0].sum(1).nonzero()
        seen[at] = int(rows.max() - rows.min()) + 1
    layers = summarise_net(config, size, size).layers
    assert seen == {layer.name: layer.receptive_field for layer in layers if layer.kind == "conv"}


def test_a_projection_sees_what_its_block_does() -> None:
    of = summary("imagenet/residual-50")
    shortcut = layer("stages.1.0.shortcut.0", of)
    assert (shortcut.what, shortcut.output, shortcut.receptive_field) == ("1x1 conv, 512, /2", (512, 28, 28), 35)
    assert shortcut.parameters == 256 * 512 + 2 * 512
    assert layer("stages.0.2.conv3", of).receptive_field == 35


def test_vgg_is_averaged_to_7x7_where_it_is_not_yet() -> None:
    assert "average" not in [layer.name for layer in summary("vgg-16").layers]
    assert layer("average", summary("vgg-16", size=64)).output == (512, 7, 7)
    assert layer("classifier.0", summary("vgg-16")).parameters == 7 * 7 * 512 * 4096 + 4096


def test_blocks_that_are_alike_are_one_part() -> None:
    counts = [(part.first[0].name, part.last[0].name, part.blocks) for part in parts(summary("residual-110").layers)]
    assert counts == [
        ("conv", "conv", 1),
        ("stages.0.0.conv1", "stages.0.17.conv1", 18),
        ("stages.1.0.conv1", "stages.1.0.conv1", 1),
        ("stages.1.1.conv1", "stages.1.17.conv1", 17),
        ("stages.2.0.conv1", "stages.2.0.conv1", 1),
        ("stages.2.1.conv1", "stages.2.17.conv1", 17),
        ("average", "average", 1),
        ("fc", "fc", 1),
    ]
    assert [part.blocks for part in parts(summary("vgg-19").layers)] == [1] * 24


def test_a_step_keeps_each_convolutions_output_twice() -> None:
    of = summary("plain-20")
    assert of.activations == sum(math.prod(layer.output) for layer in of.layers if layer.kind == "conv") == 188_416
    assert of.kept_bytes(128, 4) == 2 * 188_416 * 128 * 4 == 184 << 20


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (269_722, "0.27 M"), (252_887_680, "253 M"), (3_643_000_000, "3.64 G"), (17_344, "17.3 k"),
        (99_960, "0.1 M"), (999_600_000, "1 G"), (999_500_000_000, "1 T"), (1_030_000_000_000, "1.03 T"),
    ],
)  # fmt: skip
def test_counts_are_written_as_in_the_paper(count: int, text: str) -> None:
    assert short(count) == text


# -- what is printed --------------------------------------------------------------------------------------------------


def cells(table: str, begin: str) -> list[str]:
    line = next(line for line in table.splitlines() if re.match(rf"│ {re.escape(begin)} ", line))
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_one_net_is_a_table_of_its_layers_and_its_totals() -> None:
    said = describe("residual-110")
    assert "residual-110, 10 classes" in said
    assert cells(said, "stages.1.1.conv2") == [
        "stages.1.1.conv2", "3x3 conv, 32", "32 x 16 x 16", "9,280", "2,359,296", "89 to 217", ""
    ]  # fmt: skip
    assert cells(said, "stages.1.1.conv1")[-1] == "x 17"
    assert "stages.1.2.conv1" not in said
    assert cells(said, "all")[3:5] == ["1,727,962", "252,887,680"]
    assert cells(said, "residual-110") == [
        "residual-110", "32x32", "110", "1.73 M", "253 M", "1,024 MiB", "512 MiB", "501"
    ]  # fmt: skip


def test_in_full_every_block_has_its_rows() -> None:
    said = describe("residual-110", "--full")
    assert len(re.findall(r"stages\.\d\.\d+\.conv\d", said)) == 108
    assert "x 17 " not in said


def test_several_nets_are_a_row_each() -> None:
    said = describe("plain-20", "imagenet/residual-34")
    assert "stages." not in said
    assert cells(said, "plain-20")[2:5] == ["20", "0.27 M", "40.6 M"]
    assert cells(said, "imagenet/residual-34")[2:5] == ["34", "21.6 M", "3.64 G"]


def test_as_json_everything_is_said() -> None:
    (net,) = json.loads(describe("preact-20", "--set", "model.width=8", "--size", 16, "--json"))
    layers = net.pop("layers")
    assert net == {
        "net": "preact-20-width=8",
        "model": ModelConfig(kind="preact", depth=20, width=8).model_dump(),
        "size": 16,
        "classes": 10,
        "parameters": sum(layer["parameters"] for layer in layers),
        "multiply_adds": sum(layer["multiply_adds"] for layer in layers),
        "activations": 23_552,
        "activation_bytes": {"fp32": 188_416, "bf16": 94_208},
        "receptive_field": 81,
    }
    assert layers[7] == {
        "name": "stages.1.0.conv1",
        "kind": "conv",
        "what": "3x3 conv, 16, /2",
        "block": "stages.1.0",
        "on_shortcut": False,
        "output": [16, 8, 8],
        "parameters": 9 * 8 * 16 + 2 * 16,
        "multiply_adds": 9 * 8 * 16 * 8 * 8,
        "receptive_field": 17,
    }


# -- the drawing ------------------------------------------------------------------------------------------------------


def drawing(*arguments: str) -> ET.Element:
    assert "nets.svg" in describe(*arguments, "--svg", "nets.svg")
    return ET.fromstring(Path("nets.svg").read_text())


def test_a_link_or_a_pipe_is_written_to() -> None:
    Path("link.svg").symlink_to("target.svg")
    describe("plain-8", "--svg", "link.svg")
    assert Path("link.svg").readlink() == Path("target.svg")
    assert Path("target.svg").read_text().startswith("<?xml")
    os.mkfifo("pipe.svg")
    reader = os.open("pipe.svg", os.O_RDONLY | os.O_NONBLOCK)
    write_output(Path("pipe.svg"), "<svg/>")
    assert os.read(reader, 100) == b"<svg/>"
    os.close(reader)


def groups(svg: ET.Element, begin: str) -> dict[str, ET.Element]:
    return {name: group for group in svg.iter(f"{SVG}g") if (name := group.get("id", "")).startswith(begin)}


def words(svg: ET.Element) -> list[str]:
    return [text.text or "" for text in svg.iter(f"{SVG}text")]


def test_plain_and_residual_are_drawn_side_by_side() -> None:
    svg = drawing("plain-20", "residual-20")
    assert (len(groups(svg, "box-0-")), len(groups(svg, "box-1-"))) == (19 + 2, 19 + 2)
    assert words(svg).count("3x3 conv, 16") == 2 * 7
    assert words(svg).count("3x3 conv, 64, /2") == 2
    assert (len(groups(svg, "shortcut-0-")), len(groups(svg, "shortcut-1-"))) == (0, 9)
    shortcuts = groups(svg, "shortcut-").items()
    dotted = [name for name, group in shortcuts if "stroke-dasharray" in ET.tostring(group, "unicode")]
    assert dotted == ["shortcut-1-stages.1.0", "shortcut-1-stages.2.0"]


def test_in_deep_nets_blocks_that_are_alike_are_drawn_once() -> None:
    svg = drawing("preact-164-bottleneck")
    assert len(groups(svg, "box-")) == 1 + 6 * 3 + 2
    assert words(svg).count("x 17") == 3
    assert len(groups(svg, "shortcut-")) == 6
    assert len(groups(drawing("residual-44", "--full"), "box-")) == 43 + 2


def test_projections_are_named_beside_their_shortcuts() -> None:
    beside = [text for text in words(drawing("residual-20-B")) if text in ("1x1 conv", "32, /2", "64, /2")]
    assert beside == ["1x1 conv", "32, /2", "1x1 conv", "64, /2"]


def test_imagenets_nets_have_pooling_and_its_classes() -> None:
    svg = drawing("imagenet/plain-34", "vgg-19")
    assert words(svg).count("3x3 max pool, /2") == 1
    assert words(svg).count("2x2 max pool, /2") == 5
    assert words(svg).count("fc 1000") == 2
    assert words(svg).count("average pool") == 1
    assert len(groups(svg, "box-1-")) == 16 + 5 + 3
    assert "shortcut" not in words(svg)


def test_a_drawing_says_what_it_shows() -> None:
    svg = drawing("residual-110")
    assert svg.get("role") == "img"
    assert svg.findtext(f"{SVG}title") == "residual-110"
    described = svg.findtext(f"{SVG}desc") or ""
    assert described.startswith("residual-110, from the image to the classes, with a shortcut around each block: 3x3 ")
    assert "; 17 times (3x3 conv, 64; 3x3 conv, 64); average pool; fc 10." in described


def test_a_drawing_is_the_same_every_time() -> None:
    drawing("plain-8")
    first = Path("nets.svg").read_bytes()
    drawing("plain-8")
    assert Path("nets.svg").read_bytes() == first


@pytest.mark.slow
@pytest.mark.timeout(60)
def test_very_deep_nets_take_seconds() -> None:
    assert "│ residual-1202 " in describe("residual-1202")
