"""`resexp probe`."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from resexp.cli.console import err, print_json, print_table
from resexp.cli.options import RESULTS, AsJson, Plugins, Results, Settings, names, numbers
from resexp.errors import StopRequested
from resexp.utils.interrupts import EXIT_FAILED, Stop

log = logging.getLogger(__name__)

app = typer.Typer(
    help="Measure nets: gradients, responses, lesions and more. The report shows the results.", no_args_is_help=True
)

LINE_S = 10.0
"""Seconds between two lines of a probe."""
RUNS = "Runs as STUDY:NET/SEED, nets as STUDY:NET, or folders of runs and studies."
Targets = Annotated[list[str], names("RUN_OR_STUDY...", f"{RUNS} A study file stands for untrained nets.")]
Runs = Annotated[list[str], names("RUN_OR_STUDY...", RUNS)]
Initial = Annotated[bool, typer.Option("--at-init", help="Measure the net before training, recreated from its seed.")]


def _command(name: str, what: str) -> None:
    def command(
        target: Targets, initial: Initial = False, settings: Settings = None, plugins: Plugins = None,
        as_json: AsJson = False, results: Results = RESULTS,
    ) -> None:  # fmt: skip
        from resexp.config.study import load_run
        from resexp.probes import PROBES
        from resexp.probing import targets
        from resexp.training.probing import probe

        chosen = targets(target, initial=initial, settings=settings or [], results=results)
        stop, table, records = Stop().install(), Table("run", "step", name, "time"), []
        for number, (run, untrained) in enumerate(chosen, 1):
            reason = PROBES[name].why_not(load_run(run.config_path).model)
            if reason and len(chosen) > 1:
                err.print(f"{run.name}: left out, for {reason}", soft_wrap=True)
                continue
            try:
                logged_stop = _logged(f"{name} {number}/{len(chosen)}: {run.name}", stop)
                step = probe(run, name, initial=untrained, stop=logged_stop)
            except StopRequested:
                raise typer.Exit(stop.exit_code) from None
            record = run.probes(name)[step]
            records.append({"run": run.name, "folder": str(run.folder), **record})
            table.add_row(run.name, f"{step:,}", PROBES[name].headline(record), f"{record['seconds']:.1f} s")
        _show(as_json, records, table)

    command.__doc__ = what
    app.command(name, epilog=f"Example: resexp probe {name} results/cpu-small")(command)


for _name, _what in {
    "gradients": "Norm and signal-to-noise ratio of the gradient by layer, and how those of neighbouring inputs agree.",
    "signals": "Mean and variance of each layer's output.",
    "responses": "Standard deviation of each 3x3 layer's response (Fig. 7).",
    "branches": "Size of F(x) compared with x in each residual block.",
    "lesion": "Training error without one or several blocks, and with blocks in another order.",
    "landscape": "Loss around the net, along two random directions.",
}.items():
    _command(_name, _what)


@app.command(epilog="Example: resexp probe ensemble results/table6")
def ensemble(target: Runs, as_json: AsJson = False, results: Results = RESULTS) -> None:
    """Test error of the mean logits of finished runs, and of each run."""
    from resexp.display import percent
    from resexp.evaluation.ensemble import ensemble as average
    from resexp.probing import finished_runs

    found = average(finished_runs(target, results))
    record = found.to_json()
    rows = [(member["run"], member["test_error"], member["test_top5_error"]) for member in record["members"]]
    rows.append(("mean of the runs", found.mean, found.top5_mean))
    rows.append((f"ensemble of {len(found.runs)}", found.error, found.top5_error))
    table = Table("run", "test error", *(["top-5"] if found.top5_errors else []))
    for name, *errors in rows:
        table.add_row(name, *(percent(error, 2) for error in errors if error is not None))
    table.rows[-3].end_section = True
    _show(as_json, record, table)


@app.command("ten-crop", epilog="Example: resexp probe ten-crop results/figure6 --crop 28")
def ten_crop(
    target: Runs,
    crop: Annotated[int | None, typer.Option(help="Side of crops from the unpadded image, pixels.")] = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
    results: Results = RESULTS,
) -> None:
    """Test error of finished runs over ten crops of each image: four corners, the centre, and their flips.

    By default, crops of the training size from images that are padded as in training; without padding, 7/8 of the
    image, as the paper's 224 of 256.
    """
    from resexp.evaluation.tta import TenCrop

    _views(target, results, as_json, TenCrop.name, TenCrop(crop) if crop is not None else None)


@app.command("multi-scale", epilog="Example: resexp probe multi-scale results/figure6 --sides 28,32,36")
def multi_scale(
    target: Runs,
    sides: Annotated[str | None, typer.Option(help="Shorter sides, pixels: 28,32,36. Default: 7/8, 1 and 9/8.")] = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
    results: Results = RESULTS,
) -> None:
    """Test error of finished runs, averaged over several sizes of each image."""
    from resexp.evaluation.tta import MultiScale

    chosen = None if sides is None else MultiScale(numbers("--sides", sides))
    _views(target, results, as_json, MultiScale.name, chosen)


def _views(names: list[str], results: Path, as_json: bool, mode: str, chosen: Any) -> None:
    from resexp.config.study import load_run
    from resexp.data import open_dataset
    from resexp.evaluation.tta import errors_on_views, usual
    from resexp.probing import finished_runs
    from resexp.training.probing import write_record

    runs = finished_runs(names, results)
    table, records = Table("run", "views", "single view", "several views"), []
    for number, run in enumerate(runs, 1):
        config = load_run(run.config_path)
        record = errors_on_views(run, chosen or usual(config, mode, open_dataset(config.data).size))
        log.info(f"{mode} {number}/{len(runs)}: {run.name}")
        write_record(run, {"probe": record["mode"], "step": config.train.steps, **record})
        records.append({"run": run.name, "folder": str(run.folder), **record})
        errors = [_shown(record, "single_view_test"), _shown(record, "test")]
        table.add_row(run.name, str(record["views"]), *errors)
    _show(as_json, records, table)


def _shown(record: dict[str, Any], what: str) -> str:
    from resexp.display import percent

    top5 = record.get(f"{what}_top5_error")
    return percent(record[f"{what}_error"], 2) + (f", top-5 {percent(top5, 2)}" if top5 is not None else "")


@app.command(epilog="Example: resexp probe identity cpu-small:plain-20 --depth 56")
def identity(
    runs: Annotated[list[str], names("RUN...", "Finished runs of one net, such as cpu-small:plain-20.")],
    depth: Annotated[int, typer.Option(help="Layers of the deeper net.")],
    settings: Settings = None,
    plugins: Plugins = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at a time.")] = None,
    as_json: AsJson = False,
    results: Results = RESULTS,
) -> None:
    """Deepen trained nets by identity blocks, train them further, and compare them with new nets.

    Three nets are trained by the recipe of the runs, except for --set: the deepened net; the shallower net, further by
    as many steps; a new deep net, for all of the steps. The first two begin again at the full learning rate.
    """
    from resexp.display import make_display, percent
    from resexp.probing import ARMS, finished_runs, train_continuations

    stop, donors = Stop().install(), finished_runs(runs, results)
    folder, found = train_continuations(
        donors, depth, settings or [], results, jobs=jobs, stop=stop, display=make_display(err)
    )
    if found is None:
        err.print(f"{folder}: not finished; the same command continues, `resexp status {folder}` says more")
        raise typer.Exit(stop.exit_code if stop() else EXIT_FAILED)
    titles = ("identity blocks", "identity blocks, trained further", "trained further as it is", "new")
    table = Table("clean training error of", "as it was", *titles, title=f"{folder}", title_justify="left")
    for donor in found["donors"]:
        errors = [donor["handed_error"], donor["constructed_error"]]
        errors += [donor[part]["clean_train_error"] for part in ARMS]
        table.add_row(donor["from"], *(percent(error, 2) for error in errors))
    _show(as_json, found, table)


def _logged(what: str, stop: Callable[[], bool]) -> Callable[[], bool]:
    """`stop`, for a probe to call after each piece; logs a line after the first piece, and one every LINE_S seconds."""
    pieces, began = itertools.count(1), time.monotonic()
    due = began + LINE_S

    def logged_stop() -> bool:
        nonlocal due
        piece, now = next(pieces), time.monotonic()
        if piece == 1:
            log.info(what)
        if now >= due:
            due = now + LINE_S
            log.info(f"{what}: {piece:,} pieces in {now - began:.0f} s")
        return stop()

    return logged_stop


def _show(as_json: bool, records: Any, table: Table) -> None:
    if as_json:
        print_json(records)
    else:
        print_table(table)
