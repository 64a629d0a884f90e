"""`resexp train` and `resexp sweep`."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from resexp.cli import completion
from resexp.cli.console import make_table, out, print_line, print_table, show_log, warn
from resexp.cli.dry_run import show
from resexp.cli.options import (
    RESULTS,
    Config,
    NoGraphs,
    Plugins,
    Results,
    Settings,
    StudyName,
    Track,
    names,
    one_study,
    overrides,
)
from resexp.cli.report import report
from resexp.display import make_display
from resexp.errors import DeviceFailedError, RunFailedError, UserError
from resexp.utils.interrupts import EXIT_FAILED, Stop
from resexp.utils.logs import log_to

if TYPE_CHECKING:
    from resexp.config import Study
    from resexp.config.study import RunSpec
    from resexp.distributed import Ranks
    from resexp.runs.store import Run
    from resexp.sweeping import Outcome

RunsPerGpu = Annotated[
    int | None, typer.Option(min=1, help="Runs per GPU at a time. Default: as many as increase the throughput.")
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the runs with their estimated time and disk, and check the data.")
]


def train(
    named: Annotated[
        list[str] | None,
        names("STUDY | RUN", "A study (as with --config), or runs to continue: STUDY:NET/SEED.", completion.trainable),
    ] = None,
    config: Config = None,
    settings: Settings = None,
    plugins: Plugins = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed. Default: the first of the study.")] = None,
    runs_per_gpu: RunsPerGpu = None,
    no_graphs: NoGraphs = False,
    dry_run: DryRun = False,
    allow_world_size_change: Annotated[
        bool, typer.Option("--allow-world-size-change", help="Continue with another number of processes (torchrun).")
    ] = False,
    results: Results = RESULTS,
) -> None:
    """Train one net, or continue runs. Ctrl-C saves and stops; the same command continues.

    Under torchrun, all processes train one run together.
    """
    stop = Stop()
    show_log(out)
    with _torchrun(stop) as ranks:
        if ranks and ranks.rank > 0:
            from resexp.training.train import train as train_run

            log_to(lambda line: None)  # rank 0 logs the same
            train_run(ranks.broadcast_object(), stop=stop, ranks=ranks)
            return
        if ranks and dry_run:
            raise UserError("train: --dry-run trains nothing; start it without torchrun")
        from resexp.runs.names import is_run_name, select_runs

        named = named or []
        if len(named) == 1 and not is_run_name(named[0], results):
            named, config = [], one_study("train", named[0], config)
        if bool(named) == (config is not None):
            raise UserError("train: give either a study, such as cifar10/resnet20, or runs to continue")
        if config is None:
            if settings or seed is not None or no_graphs or dry_run:
                raise UserError(
                    "train: --set, --seed, --no-cuda-graphs and --dry-run go with a study; a run has its configuration "
                    "in config.yaml"
                )
            every = [run for name in named for run in select_runs(name, results).runs]
            chosen = list({run.folder.resolve(): run for run in every}.values())  # each once
        else:
            flags = {"seeds": None if seed is None else [seed]}
            study, cell = _one_net(config, overrides(settings, no_graphs, flags))
            if dry_run:
                show(study, [cell], results, retry_failed=True)
                return
            from resexp.sweeping import create

            chosen = [create(study, cell, results)]
        if len(chosen) == 1:
            _train(chosen[0], stop, ranks, allow_world_size_change)
        elif ranks:
            raise UserError("train: torchrun trains one run at a time; name one, such as STUDY:NET/0")
        elif chosen:
            from resexp.sweeping import train_runs

            stop.install()
            _end(train_runs(chosen, runs_per_gpu=runs_per_gpu, stop=stop, display=make_display(out)), stop)


def _is_torchrun() -> bool:
    """Whether torchrun started this process and others."""
    return "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1"


@contextlib.contextmanager
def _torchrun(stop: Stop) -> Iterator[Ranks | None]:
    """The ranks that torchrun started; None if it started one only, or was not used."""
    if not _is_torchrun():
        yield None
        return
    from resexp.distributed import joined

    stop.install()
    with joined(stop) as ranks:
        restarts = os.environ["TORCHELASTIC_MAX_RESTARTS"] != "0"
        if ranks.rank == 0 and restarts and os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True":
            remedy = "set TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 for torchrun (PyTorch issue 135712)"
            warn(f"resexp: a restart may hang; {remedy}")
        yield ranks


def _one_net(config: str, settings: list[str]) -> tuple[Study, RunSpec]:
    """A study and its one net, with the first seed. Raises UserError if it has several."""
    from resexp.config.study import load

    study, cells = load(config, settings)
    labels = list(dict.fromkeys(cell.label for cell in cells))
    if len(labels) > 1:
        raise UserError(
            f"{config}: has {len(labels)} nets ({', '.join(labels)}); train takes one: "
            f"use `resexp sweep {config}`, with --only {labels[0]} for one of them"
        )
    return study, cells[0]


def _train(run: Run, stop: Stop, ranks: Ranks | None, allow_world_size_change: bool) -> None:
    from resexp.config.study import load_run
    from resexp.distributed import SINGLE_PROCESS
    from resexp.sweeping import why_unfinished
    from resexp.training.train import train as train_run

    if not run.config_path.exists():  # before anything is made
        raise UserError(f"{run.config_path}: not there; `resexp sweep` of its study writes it again")
    state = run.status().state
    if state in ("finished", "diverged"):
        load_run(run.config_path)  # not a copy of another run
        print_line(f"{run.folder}: already {state}; nothing to do")
        raise typer.Exit(0 if state == "finished" else EXIT_FAILED)
    stop.install()
    display = make_display(out)
    if ranks:
        ranks.broadcast_object(run)
    try:
        with display.sweep([(run, 1.0)], 0):
            status = train_run(
                run,
                stop=stop,
                on_status=lambda status: display.update([run]),
                ranks=ranks or SINGLE_PROCESS,
                allow_world_size_change=allow_world_size_change,
            )
            display.ended(run, why_unfinished(run))
    except DeviceFailedError as error:
        raise RunFailedError(f"{error}") from error
    except (UserError, OSError):
        raise
    except Exception as error:
        raise RunFailedError(f"{run.title} failed: {error} (traceback in {run.status_path})") from error
    print_line(run.folder)
    if status.state != "finished":
        raise typer.Exit(stop.exit_code if stop() else EXIT_FAILED)


def sweep(
    named: StudyName = None,
    config: Config = None,
    settings: Settings = None,
    plugins: Plugins = None,
    jobs: Annotated[int | None, typer.Option(min=1, help="Processes at a time. Default: all cores or GPUs.")] = None,
    runs_per_gpu: RunsPerGpu = None,
    no_graphs: NoGraphs = False,
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Train only nets with this label, such as plain-20,residual-20. Repeatable.",
            autocompletion=completion.labels,
        ),
    ] = None,
    executor: Annotated[str | None, typer.Option(help="local, debug, ray or slurm. Default: the study's.")] = None,
    no_wait: Annotated[bool, typer.Option("--detach", help="Submit to Slurm and return; see `resexp status`.")] = False,
    rerun: Annotated[
        list[str] | None,
        typer.Option(
            help="Delete this net's results and train it again, and no other net than those of --only. Repeatable.",
            autocompletion=completion.labels,
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Train failed runs again; otherwise they are left as they are.")
    ] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failure.")] = False,
    track: Track = None,
    dry_run: DryRun = False,
    with_report: Annotated[bool, typer.Option("--report", help="Write the report at the end.")] = False,
    results: Results = RESULTS,
) -> None:
    """Train the missing runs of a study. Finished runs are skipped, partial runs continue.

    Without a study, it trains the quickstart: synthetic shapes in ten classes, a few minutes on two cores.
    """
    from resexp.config.study import SHIPPED, load, only_labels
    from resexp.runs.store import StudyFolder

    if _is_torchrun():
        raise UserError("sweep: torchrun is for one run, such as `torchrun -m resexp train STUDY`; start it without")
    config = one_study("sweep", named, config)
    flags = {"executor.name": executor, "executor.jobs": jobs, "executor.runs_per_gpu": runs_per_gpu}
    config = str(SHIPPED / "quickstart.yaml") if config is None else config
    study, cells = load(config, overrides(settings, no_graphs, flags))
    if no_wait and study.executor.name != "slurm":
        raise UserError(f"--detach: runs of the {study.executor.name} executor end with the sweep; it is for slurm")
    rerun_cells = only_labels(cells, rerun, "--rerun") if rerun else []
    chosen = only_labels(cells, [*(only or []), *(rerun or [])]) if only or rerun else cells
    if dry_run:
        show(study, chosen, results, rerun=rerun_cells, retry_failed=retry_failed)
        if line := StudyFolder(results / study.name).strays_line({str(cell.config.folder) for cell in cells}):
            print_line(line)
        return
    if track and no_wait:
        later = f"resexp export {results / study.name} --track {track[0]}"
        raise UserError(f"--track: a sweep follows its runs, and --detach ends it; leave one out, or later: {later}")
    from resexp.sweeping import sweep as carry_out
    from resexp.tracking import check

    check(track or [])
    show_log(out)
    stop, display = Stop().install(), make_display(out)
    outcome = carry_out(
        study, cells, chosen, results,
        rerun=rerun_cells, retry_failed=retry_failed, fail_fast=fail_fast, stop=stop, display=display, wait=not no_wait,
        trackers=track or [],
    )  # fmt: skip
    if with_report and not stop() and (outcome.finished or outcome.skipped):
        report([str(outcome.folder)])
    _end(outcome, stop)


def _end(outcome: Outcome, stop: Stop) -> None:
    """Print how a sweep went, and exit accordingly."""
    from resexp.runs.store import is_study_folder

    if outcome.problems and not stop():  # what was stopped has a line already
        rows = [(run.title, problem) for run, problem in outcome.problems]
        print_table(make_table(Text("not finished", style="bold red"), ("run", "what happened"), rows))
    at_work = f", {outcome.left_to_executor} queued or at work" if outcome.left_to_executor else ""
    verb = "report" if outcome.finished or outcome.skipped else "status"
    see = f"{verb} {outcome.folder}" if is_study_folder(outcome.folder) else f"list --results {outcome.folder}"
    print_line(
        f"{outcome.folder}: {outcome.finished} trained, {outcome.skipped} finished before{at_work}, "
        f"{len(outcome.problems)} not finished, {outcome.not_started} not started; see `resexp {see}`"
    )
    if outcome.left_to_executor:
        print_line(
            f"the jobs continue in Slurm: `resexp sweep` follows them, "
            f"`scancel --name=resexp-{outcome.folder.name}` cancels them"
        )
    if outcome.problems or outcome.not_started or (stop() and outcome.left_to_executor):
        raise typer.Exit(stop.exit_code if stop() else EXIT_FAILED)
