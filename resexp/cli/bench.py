"""``resexp bench``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from resexp.cli.options import AsJson, Eager, Settings, all_settings, err, out
from resexp.errors import UserError


def bench(
    config: Annotated[
        str, typer.Option("--config", "-c", help="Study whose recipe is timed, on drawn images of CIFAR-10's size.")
    ] = "cifar10/resnet20",
    settings: Settings = None,
    kinds: Annotated[str, typer.Option(help="Comma-separated: plain,residual.")] = "residual",
    depths: Annotated[str | None, typer.Option(help="Comma-separated; default: 20,56,110 on a GPU, else 20.")] = None,
    precisions: Annotated[str, typer.Option(help="Comma-separated: auto,fp32,bf16,fp16.")] = "auto",
    packs: Annotated[
        str | None, typer.Option(help="Runs at once, comma-separated; default: 1,2,4,8 on a GPU, else 1 and all cores.")
    ] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Every contestant works once a round.")] = 5,
    seconds: Annotated[float, typer.Option(min=0.01, help="Of work, a contestant and round.")] = 2.0,
    eager: Eager = False,
    compiled: Annotated[bool, typer.Option("--compile", help="Compile blocks with torch.compile.")] = False,
    to: Annotated[Path | None, typer.Option("--out", help="Folder for bench.json and bench.md.")] = None,
    as_json: AsJson = False,
) -> None:
    """Time training steps beside the loops people write and beside what the device can do, in turns."""
    import torch

    from resexp.bench import bench as time_steps
    from resexp.bench import table
    from resexp.files import write_atomic
    from resexp.study import load

    depths = depths or ("20,56,110" if torch.cuda.is_available() else "20")
    grid = f"grid={{model.kind: [{kinds}], model.depth: [{depths}], train.precision: [{precisions}]}}"
    images = "data={source: shapes, size: 32, train_images: 50000}"
    fusing = ["train.compile=true"] if compiled else []
    _, cells = load(config, [images, *all_settings(settings, eager, *fusing), grid, "seeds=[0]"])
    if to:
        to.mkdir(parents=True, exist_ok=True)  # before minutes are spent
    result = time_steps(
        [cell.config for cell in cells],
        packs=_numbers("--packs", packs) if packs else None,
        rounds=rounds,
        seconds=seconds,
        say=lambda line: err.print(line, soft_wrap=True),
    )
    if to:
        write_atomic(to / "bench.json", json.dumps(result, indent=1))
        write_atomic(to / "bench.md", table.markdown(result))
    if as_json:
        print(json.dumps(result, indent=1))
        return
    shown = Table(title=result["machine"]["device"], title_justify="left")
    for name in table.COLUMNS:
        shown.add_column(name, no_wrap=True, justify="left" if name in ("loop", "net") else "right")
    for row in result["rows"]:
        shown.add_row(*table.cells(row))
    out.print(shown)
    out.print(table.NOTE)


def _numbers(option: str, text: str) -> list[int]:
    try:
        numbers = [int(part) for part in text.split(",")]
        if min(numbers) < 1:
            raise ValueError
    except ValueError:
        raise UserError(f"{option}: expected positive whole numbers with commas between, got {text!r}") from None
    return numbers
