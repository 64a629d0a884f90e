"""`resexp bench`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from resexp.cli.console import make_table, out, print_json, print_table
from resexp.cli.options import PATH, AsJson, NoGraphs, Plugins, Settings, numbers, overrides
from resexp.errors import UserError
from resexp.utils.files import write_atomic

OPTIONS = {"model.kind": "--kinds", "model.depth": "--depths", "train.precision": "--precisions"}
"""What sets these keys here."""


def _by_option(mistake: str) -> str:
    """A mistake in a setting, with the option that made it in place of a --set that nobody typed."""
    begun = re.match(r"--set (?:grid=\{.*?\}|train\.precision=.*?): (\S+): ", mistake)
    return f"{OPTIONS[begun[1]]}: {mistake[begun.end() :]}" if begun and begun[1] in OPTIONS else mistake


def bench(
    config: Annotated[
        str,
        typer.Option(
            "--config",
            "-c",
            help="Study whose recipe is timed. ImageNet studies use their own images, others synthetic ones.",
        ),
    ] = "cifar10/resnet20",
    settings: Settings = None,
    kinds: Annotated[
        str | None, typer.Option(help="Comma-separated: plain,residual. Default: residual; for ImageNet, the study's.")
    ] = None,
    depths: Annotated[
        str | None,
        typer.Option(help="Comma-separated. Default: 20,56,110 on a GPU, 20 on a CPU; ImageNet: the study's."),
    ] = None,
    precisions: Annotated[str, typer.Option(help="Comma-separated: auto,fp32,bf16,fp16.")] = "auto",
    runs: Annotated[
        str | None,
        typer.Option(
            help="Runs at a time, comma-separated. Default: 1,2,4,8 on a GPU, else 1 and all cores. Not for ImageNet."
        ),
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Rounds; each contender runs once per round.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.01, help="Seconds each contender runs per round.")] = 2.0,
    no_graphs: NoGraphs = False,
    plugins: Plugins = None,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile blocks with torch.compile.")] = False,
    to: Annotated[
        Path | None, typer.Option("--out", help="Folder for bench.json and bench.md. Default: no files.", **PATH)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Compare the speed of training steps with two ordinary training loops and a large matrix product.

    All contenders run in turns. On ImageNet: reading images, computing steps, and both, to find the bottleneck.
    """
    for option, values in (("kinds", kinds), ("depths", depths), ("precisions", precisions), ("runs", runs)):
        if values is not None and not all(part.strip() for part in values.split(",")):
            raise UserError(f"--{option}: expected values with commas between, got {values!r}")

    import torch

    from resexp.bench import imagenet, steps
    from resexp.config import ImageNetData
    from resexp.config.study import load
    from resexp.runs.records import json_text

    given = overrides(settings, no_graphs, {"train.compile": "true" if compiled else None})
    if streamed := isinstance(load(config)[0].data, ImageNetData):
        if runs:
            raise UserError(f"--runs: {config} is a study of ImageNet, and its runs are timed one by one; leave it out")
        if kinds or depths:
            nets = [cell.config.model for cell in load(config, given)[1]]
            kinds = kinds or ",".join(dict.fromkeys(net.kind for net in nets))
            depths = depths or ",".join(dict.fromkeys(str(net.depth) for net in nets))
            given.append(f"grid={{model.kind: [{kinds}], model.depth: [{depths}]}}")
        varied = [[f"train.precision={precision}"] for precision in precisions.split(",")]
    else:
        depths = depths or ("20,56,110" if torch.cuda.is_available() else "20")
        images = "data={source: shapes, size: 32, train_images: 50000}"
        grid = f"grid={{model.kind: [{kinds or 'residual'}], model.depth: [{depths}], train.precision: [{precisions}]}}"
        given, varied = [images, *given], [[grid]]
    try:
        configs = [cell.config for some in varied for cell in load(config, [*given, *some, "seeds=[0]"])[1]]
    except UserError as error:
        raise UserError(*map(_by_option, error.args)) from None
    many = numbers("--runs", runs) if runs else None
    if to:
        to.mkdir(parents=True, exist_ok=True)  # before minutes are spent
    benchmark = imagenet.BENCHMARK if streamed else steps.BENCHMARK
    result = benchmark.run(configs, many, rounds, seconds)
    if to:
        write_atomic(to / "bench.json", json_text(result, indent=1))
        write_atomic(to / "bench.md", benchmark.markdown(result))
    if as_json:
        print_json(result)
        return
    rows = map(benchmark.cells, result["rows"])
    print_table(make_table(result["machine"]["device"], benchmark.columns, rows, left=("loop", "what", "net")))
    for line in benchmark.remarks(result):
        out.print(line)
