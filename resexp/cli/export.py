"""``resexp export``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resexp.cli.options import PATH, RESULTS, Plugins, Results, Track, counted, names, out
from resexp.errors import UserError


def export(
    name: Annotated[
        str,
        names("RUN|STUDY", "A finished run, STUDY:NET/SEED, or its folder; with --track, a study."),
    ],
    to: Annotated[
        Path | None, typer.Option("--to", help="A new file: .pt or .safetensors.", **{**PATH, "metavar": "FILE"})
    ] = None,
    torchvision: Annotated[
        bool, typer.Option("--torchvision", help="Name the weights as torchvision.models does, for nets that it has.")
    ] = False,
    track: Track = None,
    plugins: Plugins = None,
    results: Results = RESULTS,
) -> None:
    """Write the weights of a finished run as a plain state dict, or pass the metrics of a study on to trackers.

    They are the final weights, with the BN statistics that the run was tested with. torch.load(FILE, weights_only=True)
    reads a .pt file without resexp. The net takes pixels in [0, 1], less the mean image of the training set. This mean
    and the names of the classes are in the metadata of a .safetensors file, or in a .json file next to a .pt file.
    """
    if (to is None) == (not track):
        raise UserError("export: give either --to FILE, for the weights of a run, or --track NAME, for a study")

    from resexp.runs.names import find_named, find_run

    if to:
        from resexp.evaluation.weights import export as write

        out.print(f"{to}: {write(find_run(name, results), to, torchvision=torchvision)}", soft_wrap=True)
        return
    from resexp.tracking import check, track_study

    if torchvision:
        raise UserError("export: --torchvision names the weights of a run; give --to FILE")
    check(track or [])
    runs = track_study(find_named(name, results).study, track or [])
    out.print(f"{name}: {counted(runs, 'run')} passed on to {', '.join(track or [])}", soft_wrap=True)
