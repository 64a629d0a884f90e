"""Each tracker's own calls: open a run, log a line, close it. Packages are imported when a run is opened."""

from __future__ import annotations

import contextlib
import contextvars
import importlib.util
import io
import shutil
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from resexp.errors import UserError

Scalars = dict[str, float]
"""Numbers by name; errors are fractions in [0, 1]."""


@dataclass(frozen=True)
class TrackedRun:
    """A run as trackers see it."""

    study: str
    name: str
    """Such as ``plain-20-seed0``; one per study."""
    config: dict[str, str | int | float | bool]
    """The configuration by dotted key."""
    folder: Path
    """The study's folder, for trackers that write files."""
    id: str
    """The tracker's own name of the run, from when it was first opened; empty before."""


@dataclass(frozen=True)
class Tracker:
    """An open run."""

    id: str
    """Opens the run again later."""
    log: Callable[[int, Scalars], None]
    """Passes the numbers of a step on."""
    close: Callable[[Scalars | None], None]
    """Ends the run for now; with the final numbers of a run that has ended."""


def tensorboard(run: TrackedRun) -> Tracker:
    """``tensorboard --logdir results/STUDY/tensorboard``."""
    from torch.utils.tensorboard import SummaryWriter

    folder = run.folder / "tensorboard" / run.name
    if not run.id:
        shutil.rmtree(folder, ignore_errors=True)  # of a run that was deleted
    writer = SummaryWriter(folder)

    def log(step: int, values: Scalars) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    def close(final: Scalars | None) -> None:
        if final is not None:
            named = {f"final/{name}": value for name, value in final.items()}
            writer.add_hparams(dict(run.config), named, run_name=".")  # next to the run's own curves
        writer.close()

    return Tracker("folder", log, close)


def trackio(run: TrackedRun) -> Tracker:
    """``trackio show --project STUDY``."""
    import trackio

    last: list[int | None] = [None]
    with contextlib.redirect_stdout(io.StringIO()):
        opened = contextvars.Context().run(  # init ends the run that is open in its context
            trackio.init, project=run.study, name=run.name, config=dict(run.config),
            resume="allow" if run.id else "never", embed=False, auto_log_gpu=False, auto_log_cpu=False,
        )  # fmt: skip

    def log(step: int, values: Scalars) -> None:
        last[:] = [step]
        opened.log(values, step)

    def close(final: Scalars | None) -> None:
        if final is not None:
            opened.log({f"final/{name}": value for name, value in final.items()}, last[0])
        with contextlib.redirect_stdout(io.StringIO()):
            opened.finish()

    return Tracker("name", log, close)


def wandb(run: TrackedRun) -> Tracker:
    """A project with the study's name at wandb.ai, or where WANDB_BASE_URL and WANDB_MODE say."""
    import wandb

    key = run.id or uuid.uuid4().hex[:16]
    opened = wandb.init(
        project=run.study, name=run.name, id=key, resume="allow", config=dict(run.config), dir=str(run.folder),
        reinit="create_new",
    )  # fmt: skip

    def close(final: Scalars | None) -> None:
        if final is not None:
            opened.summary.update(final)
        opened.finish()

    return Tracker(key, lambda step, values: opened.log(values, step=step), close)


def mlflow(run: TrackedRun) -> Tracker:
    """An experiment with the study's name at MLFLOW_TRACKING_URI. MLflow shows the last value of each metric as the
    run's."""
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param

    client, key = MlflowClient(), run.id
    if not key:
        known = client.get_experiment_by_name(run.study)
        experiment = known.experiment_id if known else client.create_experiment(run.study)
        key = client.create_run(experiment, run_name=run.name).info.run_id
        params = [Param(name, str(value)) for name, value in run.config.items()]
        for first in range(0, len(params), 100):  # as many as a batch may have
            client.log_batch(key, params=params[first : first + 100])

    def log(step: int, values: Scalars) -> None:
        now = int(1000 * time.time())
        client.log_batch(key, [Metric(name, value, now, step) for name, value in values.items()])

    def close(final: Scalars | None) -> None:
        if final is not None:
            client.set_terminated(key)

    return Tracker(key, log, close)


TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": tensorboard, "trackio": trackio, "wandb": wandb, "mlflow": mlflow,
}  # fmt: skip
"""By the name of their package, which is that of the extra, too."""


def check(names: Sequence[str]) -> None:
    """Raise UserError unless all these trackers are known and installed."""
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--track {name}: unknown tracker; allowed: {', '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--track {name}: {name} is not installed; pip install 'resexp[{name}]'")
