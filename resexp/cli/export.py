"""``resexp export``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from resexp.cli.options import PATH, Plugins, RESULTS, Results, out


class NamesOf(StrEnum):
    """Whose names the weights get."""

    resexp = "resexp"
    torchvision = "torchvision"


def export(
    run: Annotated[str, typer.Argument(help="A finished run: STUDY:NET/SEED, or its folder.", metavar="RUN")],
    to: Annotated[Path, typer.Option("--to", help="A new file: .pt or .safetensors.", **{**PATH, "metavar": "FILE"})],
    plugins: Plugins = None,
    names: Annotated[NamesOf, typer.Option(help="Naming of the weights.")] = NamesOf.resexp,
    results: Results = RESULTS,
) -> None:
    """Write the weights of a finished run as a plain state dict.

    They are the final weights, with the BN statistics that the run was tested with. torch.load(FILE, weights_only=True)
    reads a .pt file without resexp. The net takes pixels in [0, 1], less the mean image of the training set.
    """
    from resexp.runs.names import find_run
    from resexp.training.export import export as write

    out.print(f"{to}: {write(find_run(run, results), to, names.value)}", soft_wrap=True)
