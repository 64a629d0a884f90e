"""`resexp describe`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from resexp.cli.console import MIB, make_table, out, print_json, print_line, print_table
from resexp.cli.options import PATH, AsJson, Config, Plugins, Settings
from resexp.errors import UserError
from resexp.layer_table import parts, short
from resexp.utils.files import write_output

if TYPE_CHECKING:
    from resexp.config.nets import NamedNet
    from resexp.models.summary import NetSummary

BATCH = 128
"""The paper's on CIFAR, for which memory is given."""

NOTE = (
    "Parameters include the BN, bias or scalars after a layer. Multiply-adds are those of convolutions and fully "
    "connected layers for one image, as the paper counts. The receptive field is the side, in pixels, that one output "
    "depends on along the longest path. Activations are about what a training step keeps for its backward pass: each "
    "convolution's output before and after BN."
)


def describe(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NET",
            help="A net, such as plain-20 or imagenet/residual-50. Words after the depth set shortcut, block and more: "
            "plain-20, preact-164-bottleneck, imagenet/residual-34-B, vgg-16.",
        ),
    ] = None,
    config: Config = None,
    settings: Settings = None,
    plugins: Plugins = None,
    size: Annotated[
        int | None,
        typer.Option(
            min=1, max=4096, help="Side of an image, pixels. Default: the study's; else 32, for ImageNet's nets 224."
        ),
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Show every block, also repeated ones.")] = False,
    svg: Annotated[Path | None, typer.Option(help="SVG file to draw the nets into.", **PATH)] = None,
    as_json: AsJson = False,
) -> None:
    """Show layers, parameters and multiply-adds of a net, or compare nets; draw them as in the paper's Fig. 3."""
    from resexp.config.nets import parse_net
    from resexp.config.study import nets_of

    if svg and svg.suffix.lower() != ".svg":
        raise UserError(f"--svg {svg}: the drawing is an SVG file; name it {svg.stem}.svg")
    if bool(names) == bool(config):
        raise UserError("describe: give either nets, such as plain-20 residual-20, or --config FILE")
    overrides = settings or []
    nets = nets_of(config, overrides, size) if config else [parse_net(name, overrides, size) for name in names or []]

    from resexp.models.summary import summarise_net  # torch takes seconds, which a mistake need not wait for

    described = [(net, summarise_net(net.config, net.size, net.size, net.classes)) for net in nets]
    if svg:
        from resexp.report.drawing import draw

        write_output(svg, draw([(net, summary.layers) for net, summary in described], full=full))
    if as_json:
        print_json([_record(net, summary) for net, summary in described])
        return
    if len(described) == 1:
        print_table(_layers(*described[0], full))
    print_table(_totals(described))
    out.print(NOTE)
    if svg:
        print_line(svg)


def _layers(net: NamedNet, summary: NetSummary, full: bool) -> Table:
    columns = ("layer", "what it is", "output", "parameters", "multiply-\nadds", "receptive\nfield", "blocks")
    table = make_table(f"{net.name}, {net.classes} classes", columns, left=columns[:2])
    table.show_footer = True
    totals = ("all", "", "", f"{summary.parameters:,}", f"{summary.multiply_adds:,}", "", "")
    for column, total in zip(table.columns, totals, strict=True):
        column.footer = total
    before = summary.layers[0].output
    for part in parts(summary.layers, every_block=full):
        if part.first[0].output[1:] != before[1:]:
            table.add_section()
        before = part.last[0].output
        for number, (first, last) in enumerate(zip(part.first, part.last, strict=True)):
            fields = dict.fromkeys(str(layer.receptive_field or "all") for layer in (first, last))
            table.add_row(
                first.name,
                first.what,
                " x ".join(map(str, first.output)),
                f"{first.parameters:,}" if first.parameters else "",
                f"{first.multiply_adds:,}" if first.multiply_adds else "",
                " to ".join(fields),
                f"x {part.blocks}" if part.blocks > 1 and number == 0 else "",
            )
    return table


def _totals(described: list[tuple[NamedNet, NetSummary]]) -> Table:
    memory = (f"activations,\nbatch {BATCH}, fp32", "bf16")
    columns = ("net", "image", "depth", "parameters", "multiply-\nadds", *memory, "receptive\nfield")
    rows = [
        (
            net.name,
            f"{net.size}x{net.size}",
            str(net.config.depth),
            short(summary.parameters),
            short(summary.multiply_adds),
            *(f"{summary.kept_bytes(BATCH, itemsize) / MIB:,.0f} MiB" for itemsize in (4, 2)),
            str(summary.receptive_field),
        )
        for net, summary in described
    ]
    return make_table("", columns, rows, left=("net",))


def _record(net: NamedNet, summary: NetSummary) -> dict[str, Any]:
    return {
        "net": net.name,
        "model": net.config.model_dump(),
        "size": net.size,
        "classes": net.classes,
        "parameters": summary.parameters,
        "multiply_adds": summary.multiply_adds,
        "activations": summary.activations,
        "activation_bytes": {"fp32": summary.kept_bytes(1, 4), "bf16": summary.kept_bytes(1, 2)},
        "receptive_field": summary.receptive_field,
        "layers": [dataclasses.asdict(layer) for layer in summary.layers],
    }
