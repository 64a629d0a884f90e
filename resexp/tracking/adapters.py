"""One thin adapter per tracker: open a run, log a line, close."""

from __future__ import annotations

import contextlib
import contextvars
import importlib.util
import io
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

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


class Tracker(Protocol):
    """An open run."""

    id: str
    """Opens the run again later."""

    def log(self, step: int, values: Scalars) -> None:
        """Pass a line of metrics on."""

    def close(self, final: Scalars | None) -> None:
        """No more lines for now; with the `final` numbers of a run that has ended."""


class TensorBoard:
    """``tensorboard --logdir results/STUDY/tensorboard``."""

    id = ""

    def __init__(self, run: TrackedRun) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._config = run.config
        self._writer = SummaryWriter(run.folder / "tensorboard" / run.name)

    def log(self, step: int, values: Scalars) -> None:
        """See Tracker."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, final: Scalars | None) -> None:
        """See Tracker."""
        if final is not None:
            named = {f"final/{name}": value for name, value in final.items()}
            self._writer.add_hparams(dict(self._config), named, run_name=".")  # next to the run's own curves
        self._writer.close()


class Trackio:
    """``trackio show --project STUDY``."""

    id = "name"

    def __init__(self, run: TrackedRun) -> None:
        import trackio

        self._step: int | None = None
        resume = "allow" if run.id else "never"
        with contextlib.redirect_stdout(io.StringIO()):
            self._run = contextvars.Context().run(  # init ends the run that is open in its context
                trackio.init, project=run.study, name=run.name, config=dict(run.config), resume=resume, embed=False,
                auto_log_gpu=False, auto_log_cpu=False,
            )  # fmt: skip

    def log(self, step: int, values: Scalars) -> None:
        """See Tracker."""
        self._step = step
        self._run.log(values, step)

    def close(self, final: Scalars | None) -> None:
        """See Tracker."""
        if final is not None:
            self._run.log({f"final/{name}": value for name, value in final.items()}, self._step)
        with contextlib.redirect_stdout(io.StringIO()):
            self._run.finish()


class Wandb:
    """A project with the study's name at wandb.ai, or where WANDB_BASE_URL and WANDB_MODE say."""

    def __init__(self, run: TrackedRun) -> None:
        import wandb

        self.id = run.id or uuid.uuid4().hex[:16]
        self._run = wandb.init(
            project=run.study, name=run.name, id=self.id, resume="allow", config=dict(run.config),
            dir=str(run.folder), reinit="create_new",
        )  # fmt: skip

    def log(self, step: int, values: Scalars) -> None:
        """See Tracker."""
        self._run.log(values, step=step)

    def close(self, final: Scalars | None) -> None:
        """See Tracker."""
        if final is not None:
            self._run.summary.update(final)
        self._run.finish()


class MLflow:
    """An experiment with the study's name at MLFLOW_TRACKING_URI."""

    def __init__(self, run: TrackedRun) -> None:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param

        self._metric, self._client = Metric, MlflowClient()
        if run.id:
            self.id = run.id
            return
        known = self._client.get_experiment_by_name(run.study)
        experiment = known.experiment_id if known else self._client.create_experiment(run.study)
        self.id = self._client.create_run(experiment, run_name=run.name).info.run_id
        params = [Param(name, str(value)) for name, value in run.config.items()]
        for first in range(0, len(params), 100):  # as many as a batch may have
            self._client.log_batch(self.id, params=params[first : first + 100])

    def log(self, step: int, values: Scalars) -> None:
        """See Tracker."""
        now = int(1000 * time.time())
        self._client.log_batch(self.id, [self._metric(name, value, now, step) for name, value in values.items()])

    def close(self, final: Scalars | None) -> None:
        """See Tracker. MLflow shows the last value of each metric as the run's."""
        if final is not None:
            self._client.set_terminated(self.id)


TRACKERS: dict[str, Callable[[TrackedRun], Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": Wandb,
    "mlflow": MLflow,
}
"""By the name of their package, which is that of the extra, too."""


def check(names: Sequence[str]) -> None:
    """Raise UserError unless all these trackers are known and installed."""
    for name in names:
        if name not in TRACKERS:
            raise UserError(f"--track {name}: unknown tracker; allowed: {', '.join(TRACKERS)}")
        if importlib.util.find_spec(name) is None:
            raise UserError(f"--track {name}: {name} is not installed; pip install 'resexp[{name}]'")
