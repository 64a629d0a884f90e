"""`resexp evaluate` and `resexp export`: what is done with trained weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from resexp.cli.console import make_table, print_json, print_line, print_table
from resexp.cli.options import PATH, RESULTS, AsJson, Plugins, Results, Track, names
from resexp.display import percent
from resexp.errors import UserError
from resexp.utils.files import write_output
from resexp.utils.paths import expanded
from resexp.utils.text import counted

if TYPE_CHECKING:
    from resexp.evaluation.confusion import Confusion

FILE: Any = {**PATH, "metavar": "FILE"}
MOST_CLASSES = 20
"""Classes whose confusion matrix is shown in the terminal."""


def evaluate(
    subject: Annotated[
        str, names("RUN|WEIGHTS", "A finished run: STUDY:NET/SEED, or its folder; or a file of weights.")
    ],
    data: Annotated[
        Path | None,
        typer.Option(help="Folder or archive of test images, in folders with the names of the classes.", **PATH),
    ] = None,
    net: Annotated[
        str | None, typer.Option(metavar="NET", help="Name of the net, such as residual-20-B, where a file lacks it.")
    ] = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
    results: Results = RESULTS,
    to_csv: Annotated[
        Path | None, typer.Option("--csv", help="Write the confusion matrix to this file.", **FILE)
    ] = None,
) -> None:
    """Show the test error of a run or a file of weights, the error of each class, and the confusion matrix.

    By default, the stored outputs of a run on its test images are used. With --data, its net is run on other images.
    """
    from resexp.evaluation.confusion import stored_result
    from resexp.runs.names import find_run

    path = expanded(subject)
    weights = path.suffix in (".pt", ".safetensors")
    run = None if weights else find_run(subject, results)
    if run and net:
        raise UserError("--net: a run knows its net; leave it out")
    result = None
    if run and data:
        run.check_finished("is evaluated")
    elif run:
        result = stored_result(run)
    if result is None:
        # torch takes seconds, which logits need not wait for
        from resexp.evaluation.weights import confusion_of_run, evaluate_weights

        result = confusion_of_run(run, data) if run else evaluate_weights(path, net, data)
    if as_json:
        print_json({"subject": f"{subject}", "data": f"{data}" if data else None, **result.to_json()})
    else:
        _show(f"{subject}", result)
    if to_csv:  # last: an error costs nothing that took minutes
        write_output(to_csv, result.to_csv())


def _show(title: str, result: Confusion) -> None:
    found, classes = result.to_json(), result.per_class()
    few = len(classes) <= MOST_CLASSES
    columns = ["class", "images", "error"]
    rows = [[of["class"], f"{of['images']:,}", percent(of["error"], 2)] for of in classes]
    if few:
        columns += result.classes
        for row, counts in zip(rows, result.matrix.tolist(), strict=True):
            row += [f"{count:,}" if count else "" for count in counts]
    print_table(make_table(title, columns, rows, left=("class",)))
    if few:
        print_line("rows: true classes; columns: predicted classes")
    top5 = "" if found["top5_error"] is None else f", top-5 error {percent(found['top5_error'], 2)}"
    print_line(f"error {percent(found['error'], 2)}{top5}, loss {found['loss']:.4f}, {found['images']:,} images")


def export(
    name: Annotated[str, names("RUN|STUDY", "A finished run, STUDY:NET/SEED, or its folder; with --track, a study.")],
    to: Annotated[Path | None, typer.Option("--to", help="A new file: .pt or .safetensors.", **FILE)] = None,
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

    from resexp.runs.names import find_run, select_runs

    if to:
        from resexp.evaluation.weights import export as write

        print_line(f"{to}: {write(find_run(name, results), to, torchvision=torchvision)}")
        return
    from resexp.tracking import check, track_study

    if torchvision:
        raise UserError("export: --torchvision names the weights of a run; give --to FILE")
    check(track or [])
    runs = track_study(select_runs(name, results).study, track or [])
    print_line(f"{name}: {counted(runs, 'run')} passed on to {', '.join(track or [])}")
