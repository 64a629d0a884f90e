"""``resexp export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resexp.cli.options import PATH, RESULTS, Plugins, Results, err, out


def export(
    run: Annotated[str, typer.Argument(help="A finished run: STUDY:NET/SEED, or its folder.", metavar="RUN")],
    to: Annotated[Path, typer.Option("--to", help="A new file: .pt or .safetensors.", **{**PATH, "metavar": "FILE"})],
    torchvision: Annotated[
        bool, typer.Option("--torchvision", help="Name the weights as torchvision.models does, for nets that it has.")
    ] = False,
    plugins: Plugins = None,
    results: Results = RESULTS,
) -> None:
    """Write the weights of a finished run as a plain state dict.

    They are the final weights, with the BN statistics that the run was tested with. torch.load(FILE, weights_only=True)
    reads a .pt file without resexp. The net takes pixels in [0, 1], less the mean image of the training set. This mean
    and the names of the classes are in the metadata of a .safetensors file, or in a .json file next to a .pt file.
    """
    from resexp.runs.names import find_run
    from resexp.training.export import export as write

    name = write(find_run(run, results), to, torchvision=torchvision, say=lambda line: err.print(line, soft_wrap=True))
    out.print(f"{to}: {name}", soft_wrap=True)
