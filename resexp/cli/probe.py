"""`resexp probe`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from resexp.cli.console import err, make_table, print_json, print_table, warn
from resexp.cli.options import RESULTS, AsJson, Plugins, Results, Settings, names, numbers
from resexp.display import make_display, percent
from resexp.errors import StopRequested
from resexp.utils.interrupts import EXIT_FAILED, Stop
from resexp.utils.logs import log

app = typer.Typer(
    help="Measure nets: gradients, responses, lesions and more. The results go to each run's folder, in place of "
    "earlier ones, and into the report.",
    no_args_is_help=True,
)

LINE_S = 10.0
"""Seconds between two lines of a probe."""
RUNS = "Runs as STUDY:NET/SEED, nets as STUDY:NET, or folders of runs and studies."
UNTRAINED = "A study that was not trained here stands for untrained nets."
Targets = Annotated[
    list[str], names("RUN_OR_STUDY...", f"{RUNS} A study that was not trained here stands for untrained nets.")
]
Runs = Annotated[list[str], names("RUN_OR_STUDY...", RUNS)]
Initial = Annotated[bool, typer.Option("--at-init", help="Measure the net before training, recreated from its seed.")]


def _command(name: str, what: str) -> None:
    """Add a command that measures runs one by one, by the probe with this name."""

    def command(
        target: Targets, initial: Initial = False, settings: Settings = None, plugins: Plugins = None,
        as_json: AsJson = False, results: Results = RESULTS,
    ) -> None:  # fmt: skip
        from resexp.config.study import load_run
        from resexp.probes import PROBES
        from resexp.probing import targets
        from resexp.training.probing import probe

        chosen = targets(target, initial=initial, settings=settings or [], results=results)
        stop, rows, records = Stop().install(), [], []
        for number, (run, untrained) in enumerate(chosen, 1):
            reason = PROBES[name].why_not(load_run(run.config_path).model)
            if reason and len(chosen) > 1:
                warn(f"{run.title}: left out, for {reason}")
                continue
            try:
                logged_stop = _logged(f"{name} {number}/{len(chosen)}: {run.title}", stop)
                step = probe(run, name, initial=untrained, stop=logged_stop)
            except StopRequested:
                raise typer.Exit(stop.exit_code) from None
            record = run.probes(name)[step]
            records.append({"run": run.title, "folder": str(run.folder), **record})
            rows.append((run.title, f"{step:,}", PROBES[name].headline(record), f"{record['seconds']:.1f} s"))
        _show(as_json, records, make_table("", ("run", "step", name, "time"), rows))

    app.command(name, help=what, epilog=f"Example: resexp probe {name} results/cpu-small")(command)


for _name, _what in {
    "gradients": "Gradient norm and signal-to-noise ratio by layer; agreement of neighbouring inputs' gradients.",
    "signals": "Mean and variance of each layer's output.",
    "responses": "Standard deviation of each 3x3 layer's response (Fig. 7).",
    "branches": "Size of F(x) compared with x in each residual block.",
    "lesion": "Training error, of 1,000 images, without one or several blocks, and with blocks in another order.",
    "landscape": "Loss around the net, along two random directions.",
}.items():
    _command(_name, _what)


@app.command(epilog="Example: resexp probe ensemble results/table6")
def ensemble(target: Runs, as_json: AsJson = False, results: Results = RESULTS) -> None:
    """Test error of the mean logits of finished runs, and of each run."""
    from resexp.evaluation.ensemble import ensemble as average
    from resexp.probing import finished_runs

    found = average(finished_runs(target, results))
    record = found.to_json()
    errors = [(member["run"], member["test_error"], member["test_top5_error"]) for member in record["members"]]
    errors.append(("mean of the runs", found.mean, found.top5_mean))
    errors.append((f"ensemble of {len(found.runs)}", found.error, found.top5_error))
    columns = ("run", "test error", "top-5") if found.top5_errors else ("run", "test error")
    rows = [(name, percent(error, 2), percent(top5, 2))[: len(columns)] for name, error, top5 in errors]
    table = make_table("", columns, rows)
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

    By default a crop has the training size and is taken from the padded image. Without padding it is 7/8 of the image,
    as the paper's 224 of 256.
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
    rows, records = [], []
    for number, run in enumerate(runs, 1):
        config = load_run(run.config_path)
        record = errors_on_views(run, chosen or usual(config, mode, open_dataset(config.data).size))
        log.info(f"{mode} {number}/{len(runs)}: {run.title}")
        write_record(run, {"probe": record["mode"], "step": config.train.steps, **record})
        records.append({"run": run.title, "folder": str(run.folder), **record})
        rows.append((run.title, str(record["views"]), _shown(record, "single_view_test"), _shown(record, "test")))
    _show(as_json, records, make_table("", ("run", "views", "single view", "several views"), rows))


def _shown(record: dict[str, Any], what: str) -> str:
    top5 = record.get(f"{what}_top5_error")
    return percent(record[f"{what}_error"], 2) + (f", top-5 {percent(top5, 2)}" if top5 is not None else "")


@app.command(epilog="Example: resexp probe identity cpu-small:plain-20 --depth 56")
def identity(
    runs: Annotated[list[str], names("RUN...", "Finished runs of one net, such as cpu-small:plain-20.")],
    depth: Annotated[int, typer.Option(help="Layers of the deeper net.")],
    settings: Settings = None,
    plugins: Plugins = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at a time. Default: all cores or GPUs.")] = None,
    as_json: AsJson = False,
    results: Results = RESULTS,
) -> None:
    """Deepen trained nets by identity blocks, train them further, and compare them with new nets.

    Three nets are trained per run, by its recipe except for --set: the deepened net and the shallower net for
    train.steps more, from the full learning rate; a new deep net for the steps of the run and these together.
    """
    from resexp.probing import ARMS, finished_runs, train_continuations

    stop, donors = Stop().install(), finished_runs(runs, results)
    folder, found = train_continuations(
        donors, depth, settings or [], results, jobs=jobs, stop=stop, display=make_display(err)
    )
    if found is None:
        warn(f"{folder}: not finished; the same command continues, `resexp status {folder}` says more")
        raise typer.Exit(stop.exit_code if stop() else EXIT_FAILED)
    titles = ("identity blocks", "identity blocks, trained further", "trained further as it is", "new")
    rows = []
    for donor in found["donors"]:
        errors = [donor["handed_error"], donor["constructed_error"]]
        errors += [donor[part]["clean_train_error"] for part in ARMS]
        rows.append((donor["from"], *(percent(error, 2) for error in errors)))
    _show(as_json, found, make_table(f"{folder}", ("clean training error of", "as it was", *titles), rows))


def _logged(what: str, stop: Callable[[], bool]) -> Callable[[], bool]:
    """`stop`, for a probe to call after each piece; logs a line after the first piece, and one every LINE_S seconds."""
    pieces, began = 0, time.monotonic()
    due = began + LINE_S

    def logged_stop() -> bool:
        nonlocal pieces, due
        pieces, now = pieces + 1, time.monotonic()
        if pieces == 1:
            log.info(what)
        if now >= due:
            due = now + LINE_S
            log.info(f"{what}: {pieces:,} pieces in {now - began:.0f} s")
        return stop()

    return logged_stop


def _show(as_json: bool, records: Any, table: Table) -> None:
    if as_json:
        print_json(records)
    else:
        print_table(table)
