"""Runs and nets as the report sees them: their errors, over seeds, in percent."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from resexp import paper
from resexp.config import RunConfig
from resexp.config.plugins import PluginRef
from resexp.config.study import load_run
from resexp.config.train import PowerOfDepth
from resexp.errors import UserError
from resexp.report.estimates import Estimate
from resexp.runs.records import REPORT_READER, Attempt, Manifest, Status, running_error
from resexp.runs.store import Run, StudyFolder

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

COLUMNS = {
    "running": "running_train_error",
    "clean": "clean_train_error",
    "test": "test_error",
    "test_top5": "test_top5_error",
    "best_test": "best_test_error",
}
"""The errors of a finished run, by their names in metrics.jsonl.

Running: augmented and in train mode, mean over the steps after the last milestone, as Fig. 6 is read. Clean: a separate
pass in eval mode. Final: the last weights; top-5 where there are classes enough. Best: those with the lowest validation
error, with ``split: holdout`` only.
"""
METRICS = {
    "running": "training error, running",
    "clean": "training error, clean",
    "test": "test error, final",
    "test_top5": "test error, final, top-5",
    "best_test": "test error, best",
}
"""The same errors as people read them."""
_CURVES = ("train_error", "clean_train_error", "val_error", "test_error")
_END = 4096
"""Bytes at the end of metrics.jsonl, in which its last lines lie."""

ItemT = TypeVar("ItemT")
KeyT = TypeVar("KeyT", bound=Hashable)


def grouped(items: Iterable[ItemT], key: Callable[[ItemT], KeyT]) -> dict[KeyT, list[ItemT]]:
    """The items by their keys, both in the order in which they come first."""
    groups: dict[KeyT, list[ItemT]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def fraction(percent: float | None) -> float | None:
    """Convert a percentage to a fraction; None stays None."""
    return None if percent is None else percent / 100


def in_fractions(found: DataclassInstance) -> dict[str, Any]:
    """A verdict or a difference for scripts, with fractions in place of points."""
    points = {"value", "low", "high", "margin"}
    return asdict(found, dict_factory=lambda items: {k: fraction(v) if k in points else v for k, v in items})


@dataclass(frozen=True)
class Series:
    """An error over the steps of a run."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]
    """In percent."""


@dataclass(frozen=True)
class RunRecord:
    """A run as the report sees it."""

    run: Run
    config: RunConfig
    status: Status
    manifest: Manifest
    metrics: dict[str, Series]
    """Error curves from metrics.jsonl; without `has_curves`, only the last lines."""
    has_curves: bool
    errors: dict[str, float]
    """The errors of METRICS that the run has; of a finished run only."""
    seconds: float
    """Training time, without evaluation; NaN until it is known."""
    warmup_end: float | None = None
    """The logged step by which the warm-up of a finished run had ended; infinite if it never had, None without one."""
    family: str = ""
    """The curve that the run belongs to: ``plain``, ``residual``, ``residual B``; see `families`."""

    @property
    def finished(self) -> bool:
        """Whether the run counts."""
        return self.status.state == "finished"

    @property
    def identity(self) -> Hashable:
        """A key that is equal for two records of the same run.

        A run that was trained twice, with other results, is two.
        """
        return self.run.folder.parent.name, self.config.seed, *self.errors.items()

    def to_json(self) -> dict[str, Any]:
        """The run's numbers, for scripts: errors are fractions, by the names that metrics.jsonl has."""
        status = self.status
        return {
            "run": self.run.title,
            "net": self.run.label,
            "seed": self.config.seed,
            "state": status.state,
            "step": status.step,
            "steps": self.config.train.steps,
            "message": status.message,
            **{COLUMNS[metric]: error / 100 for metric, error in self.errors.items()},
        }


def read(run: Run, curves: bool = True) -> RunRecord | None:
    """Read a run folder; None for a run that was not begun. Raises UserError if something in it can't be used.

    Of a finished run without `curves`, only the end of the measurements is read: what the run came to.
    """
    manifest = run.manifest()
    if manifest is None or not run.config_path.exists():
        return None
    config, status = load_run(run.config_path), run.status()
    # The status is read before the metrics: what it says has ended, they hold.
    finished = status.state == "finished"
    lines = run.metrics(REPORT_READER, last=_END) if finished and not curves else []
    if not any("running_train_error" in line for line in lines):
        lines, curves = run.metrics(REPORT_READER), True
    end = {name: value for line in lines for name, value in line.items() if value is not None}
    if "running_train_error" not in end:  # old runs lack it
        end["running_train_error"] = running_error(lines, config.train.final_from)
    errors = {metric: 100 * end[column] for metric, column in COLUMNS.items() if end.get(column) is not None}
    seconds = end.get("train_seconds", math.nan)
    if finished and not ({"running", "clean", "test"} <= errors.keys() and math.isfinite(seconds)):
        raise UserError(f"{run.metrics_path}: the run is finished, but not all of its measurements are here")
    warmup_end = _warmup_end(run, config) if finished and config.train.warmup_lr else None
    errors = errors if finished else {}
    series = {name: _series(lines, name) for name in _CURVES}
    has_curves = curves and len(series["train_error"].steps) > 0
    return RunRecord(run, config, status, manifest, series, has_curves, errors, seconds, warmup_end)


def _warmup_end(run: Run, config: RunConfig) -> float:
    rates = ((line["step"], line.get("lr")) for line in run.metrics())
    return next((step for step, rate in rates if rate not in (None, config.train.warmup_lr)), math.inf)


def _series(lines: Sequence[dict[str, Any]], name: str) -> Series:
    pairs = [(line["step"], line[name]) for line in lines if line.get(name) is not None]
    steps, values = np.array(pairs, dtype=float).reshape(-1, 2).T
    return Series(steps, 100 * values)


def runs_table(study: StudyFolder) -> pd.DataFrame:
    """All runs that the study names, begun or not; see `frame`."""
    return frame([(run, read(run, curves=False)) for run in study.runs()])


def frame(rows: Sequence[tuple[Run, RunRecord | None]]) -> pd.DataFrame:
    """One row per run: its net, seed and state, its errors as fractions in [0, 1], `train_seconds`, and every key of
    its configuration, such as ``train.lr``. A run that was not begun has only a net, a seed, a state and a folder."""
    return pd.json_normalize([_row(run, record) for run, record in rows])


def _row(run: Run, record: RunRecord | None) -> dict[str, Any]:
    folder = "/".join(run.folder.parts[-2:])
    if record is None:
        return {"net": run.label, "seed": run.seed, "state": run.status().state, "folder": folder}
    config = record.config.model_dump(mode="json", exclude={"seed", "probes"})
    more = {"train_seconds": record.seconds, "parameters": record.manifest.parameters, "folder": folder}
    sections = {"data": record.config.data, "model": record.config.model, "train": record.config.train}
    named = {  # next to a column for each option
        f"{name}.{key}": str(value)
        for name, section in sections.items()
        for key, value in section
        if isinstance(value, PluginRef | PowerOfDepth)
    }
    return {**record.to_json(), **more, **config, **named}


@dataclass(frozen=True)
class Net:
    """Runs of one net that differ in seed."""

    runs: tuple[RunRecord, ...]

    @property
    def config(self) -> RunConfig:
        """The configuration of the first run."""
        return self.runs[0].config

    @property
    def label(self) -> str:
        """Such as ``plain-20``."""
        return self.runs[0].run.label

    @property
    def family(self) -> str:
        """The curve that the net belongs to."""
        return self.runs[0].family

    @property
    def kind(self) -> str:
        """``plain``, ``residual``, ``preact`` or ``vgg``."""
        return self.config.model.kind

    @property
    def depth(self) -> int:
        """Number of weighted layers."""
        return self.config.model.depth

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return self.runs[0].manifest.parameters

    @property
    def seconds(self) -> float:
        """Mean training time."""
        return statistics.fmean(run.seconds for run in self.runs)

    @cached_property
    def errors(self) -> dict[str, Estimate]:
        """Each error of METRICS that the net's runs have."""
        having = [m for m in METRICS if all(m in run.errors for run in self.runs)]
        runs = tuple(run.identity for run in self.runs)
        return {m: Estimate(tuple(run.errors[m] for run in self.runs), runs) for m in having}

    @property
    def guesses(self) -> bool:
        """Whether its running training error is within a point of that of guessing among as many classes."""
        classes = self.runs[0].manifest.data.classes
        return "running" in self.errors and abs(self.errors["running"].mean - 100 * (1 - 1 / classes)) < 1

    @property
    def attempts(self) -> list[Attempt]:
        """All attempts at its runs."""
        return [attempt for run in self.runs for attempt in run.manifest.attempts]

    @property
    def precision(self) -> str:
        """What its runs computed in; more than one after a change of machine."""
        return " and ".join(sorted({attempt.precision for attempt in self.attempts}))

    @property
    def probes(self) -> set[str]:
        """The names of the probes that were taken."""
        return {path.stem.rpartition("-")[0] for run in self.runs for path in run.run.probe_folder.glob("*.json")}

    @cached_property
    def settings(self) -> Mapping[str, str]:
        """By dotted key, the measured fields that differ from the defaults, except kind and depth; and the images and
        the precision."""
        config = self.config
        sections = {"data": config.data, "model": config.model, "train": config.train}
        fields = {f"{name}.{key}": str(v) for name, section in sections.items() for key, v in section.changed().items()}
        for key in ("model.kind", "model.depth"):
            fields.pop(key, None)
        if config.model.params:  # the width follows from it, and from the depth
            fields["model.width"] = f"of {config.model.params:,} parameters"
        if config.model.norm == "fixup":  # a norm that plain nets can't have: theirs is none
            fields |= {"model.norm": "none", "model.residual_init": "fixup"}
        fields["images"] = " and ".join(sorted({run.manifest.data.fingerprint for run in self.runs}))
        fields["train.precision"] = self.precision
        return fields

    @cached_property
    def departures(self) -> list[paper.Departure]:
        """Departures from the paper's data, nets and recipe; without any, the net may be compared with the paper."""
        world = max(attempt.world for attempt in self.attempts)
        return paper.departures(self.config, self.runs[0].manifest.data.name, world)

    @property
    def readings(self) -> list[paper.Reading]:
        """How the net reads what the paper leaves open."""
        data = self.runs[0].manifest.data
        images = f"{data.train_images:,} of {data.name}"
        worlds = {attempt.world for attempt in self.attempts}
        return paper.readings(self.config, self.precision, worlds, self.probes, images)

    @cached_property
    def not_comparable(self) -> list[str]:
        """Why the net can't be compared with the paper; empty if it can."""
        reasons = [str(departure) for departure in self.departures]
        return reasons or ([] if self.published and self.published.has_errors else ["the paper has no number for it"])

    @cached_property
    def published(self) -> paper.Published | None:
        """The paper's numbers, where the net, the data and the recipe are the paper's."""
        return None if self.departures else paper.published(self.config.model)

    def to_json(self) -> dict[str, Any]:
        """The net's numbers, for scripts and summary.csv: errors are fractions; low and high are the ends of
        `Estimate.interval`."""
        row: dict[str, Any] = {"net": self.label, "family": self.family, "depth": self.depth}
        row |= {"parameters": self.parameters, "seeds": len(self.runs), "seconds": self.seconds}
        for metric in METRICS:
            error = self.errors.get(metric)
            numbers = (error.mean, error.std, *(error.interval or (None, None))) if error else [None] * 4
            named = zip(("mean", "std", "low", "high"), numbers, strict=True)
            row |= {f"{metric}_{name}": fraction(number) for name, number in named}
        row |= {f"paper_{error}": fraction(getattr(self.published, error, None)) for error in ("train", "test")}
        return row | {"not_comparable": "; ".join(self.not_comparable)}


def nets_of(records: Iterable[RunRecord]) -> list[Net]:
    """The runs by their nets, both in the order in which they come first."""
    return [Net(tuple(runs)) for runs in grouped(records, lambda record: record.run.folder.parent).values()]
