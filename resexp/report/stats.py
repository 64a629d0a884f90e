"""Runs and nets as the report sees them: their errors, over seeds, in percent."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from resexp import paper
from resexp.config import RunConfig
from resexp.errors import UserError
from resexp.records import Manifest, Status
from resexp.report.estimates import Estimate
from resexp.store import Run
from resexp.study import load_run

METRICS = {
    "running": "training error, running",
    "clean": "training error, clean",
    "test": "test error, final",
    "best_test": "test error, best",
}
"""The errors of a finished run.

Running: augmented and in train mode, mean over the steps after the last milestone, as Fig. 6 is read. Clean: a separate
pass in eval mode. Final: the last weights. Best: those with the lowest validation error, with ``split: holdout`` only.
"""

_ERRORS = ("train_error", "clean_train_error", "val_error", "test_error", "best_test_error")


@dataclass(frozen=True)
class RunRecord:
    """A run as the report sees it."""

    run: Run
    config: RunConfig
    status: Status
    manifest: Manifest
    metrics: pd.DataFrame
    """metrics.jsonl with errors in percent; a column for every error, NaN where a line has none."""

    @property
    def finished(self) -> bool:
        """Whether the run counts."""
        return self.status.state == "finished"

    @property
    def variant(self) -> str:
        """What tells the net apart from others of its kind and depth, if anything does."""
        model = self.config.model
        return self.run.label.removeprefix(f"{model.kind}-{model.depth}").strip("-")

    @property
    def family(self) -> str:
        """The curve that the run belongs to: ``plain``, ``residual``, ``residual shortcutB``."""
        return f"{self.config.model.kind} {self.variant}".strip()

    @property
    def departures(self) -> list[paper.Departure]:
        """Where the run departs from the paper's data, nets and recipe; empty: it may be set beside the paper."""
        world = max(attempt.world for attempt in self.manifest.attempts)
        return paper.departures(self.config, self.manifest.data.name, world)

    @cached_property
    def errors(self) -> dict[str, float]:
        """The errors of METRICS that the run has; of a finished run only."""
        if not self.finished:
            return {}
        last = {name: self.metrics[name].dropna() for name in _ERRORS}
        running = self._running_error()
        found = {} if running is None else {"running": running}
        for metric, column in (
            ("clean", "clean_train_error"),
            ("test", "test_error"),
            ("best_test", "best_test_error"),
        ):
            if len(last[column]):
                found[metric] = float(last[column].iloc[-1])
        return found

    @property
    def seconds(self) -> float:
        """Training time, without evaluation."""
        return float(self.metrics["train_seconds"].dropna().iloc[-1])

    @property
    def complete(self) -> bool:
        """Whether every number of a finished run is there."""
        return {"running", "clean", "test"} <= self.errors.keys() and bool(self.metrics["train_seconds"].notna().any())

    def _running_error(self) -> float | None:
        train = self.config.train
        start = train.milestones[-1] if train.milestones else train.steps * 3 // 4
        lines = self.metrics[self.metrics["event"] == "train"]
        # Each line is the mean over the steps since the line before it.
        lengths = lines["step"].diff().fillna(lines["step"])
        late = (lines["step"] > start) & (lengths > 0) & lines["train_error"].notna()
        return float((lines["train_error"] * lengths)[late].sum() / lengths[late].sum()) if late.any() else None

    def to_json(self) -> dict[str, Any]:
        """The run's numbers, for scripts."""
        status = self.status
        return {
            "run": self.run.name,
            "net": self.run.label,
            "seed": self.config.seed,
            "state": status.state,
            "step": status.step,
            "steps": self.config.train.steps,
            "message": status.message,
            **self.errors,
        }


def read(run: Run) -> RunRecord | None:
    """Read a run folder; None for a run that was not begun. Raises UserError where something in it can't be used."""
    config, status, manifest = load_run(run.config_path), run.status(), run.manifest()
    if manifest is None:
        return None
    # The status is read before the metrics: what it says has ended, they hold.
    numbers = ("step", "train_seconds", *_ERRORS)
    lines = [{name: line.get(name) for name in ("event", *numbers)} for line in run.metrics()]
    metrics = pd.DataFrame(lines, columns=["event", *numbers]).astype(dict.fromkeys(numbers, float))
    metrics[list(_ERRORS)] *= 100
    record = RunRecord(run, config, status, manifest, metrics)
    if record.finished and not record.complete:
        raise UserError(f"{run.metrics_path}: the run is finished, but not all of its measurements are here")
    return record


@dataclass(frozen=True)
class Net:
    """The finished runs of one net, one a seed."""

    runs: tuple[RunRecord, ...]

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
        """``plain`` or ``residual``."""
        return self.runs[0].config.model.kind

    @property
    def variant(self) -> str:
        """What tells the net apart from others of its kind and depth, if anything does."""
        return self.runs[0].variant

    @property
    def depth(self) -> int:
        """Number of weighted layers."""
        return self.runs[0].config.model.depth

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
        return {m: Estimate(tuple(run.errors[m] for run in self.runs)) for m in having}

    @property
    def departures(self) -> list[paper.Departure]:
        """Where the net departs from the paper's data, nets and recipe."""
        return self.runs[0].departures

    @property
    def readings(self) -> list[paper.Reading]:
        """How the net reads what the paper leaves open."""
        attempts = [attempt for run in self.runs for attempt in run.manifest.attempts]
        precision = " and ".join(sorted({attempt.precision for attempt in attempts}))
        return paper.readings(self.runs[0].config, precision, {attempt.world for attempt in attempts})

    @property
    def differences(self) -> list[str]:
        """Why the net can't be set beside the paper; empty where it can."""
        reasons = [str(departure) for departure in self.departures]
        return reasons or ([] if self._in_paper else ["the paper has no number for it"])

    @property
    def published(self) -> paper.Published | None:
        """The paper's numbers, where the net, the data and the recipe are the paper's."""
        return None if self.differences else self._in_paper

    @property
    def _in_paper(self) -> paper.Published | None:
        model = self.runs[0].config.model
        return paper.CIFAR10.get((model.kind, model.block, model.depth))

    def to_json(self) -> dict[str, Any]:
        """The net's numbers, for scripts and summary.csv: low and high are the ends of the mean's 95 % interval."""
        row: dict[str, Any] = {"net": self.label, "family": self.family, "depth": self.depth}
        row |= {"parameters": self.parameters, "seeds": len(self.runs), "seconds": self.seconds}
        for metric in METRICS:
            estimate = self.errors.get(metric)
            row[f"{metric}_mean"] = estimate.mean if estimate else None
            row[f"{metric}_std"] = estimate.std if estimate else None
            row[f"{metric}_low"], row[f"{metric}_high"] = (estimate and estimate.interval) or (None, None)
        row |= {"paper_train": None, "paper_test": None, "not_comparable": "; ".join(self.differences)}
        if self.published:
            row |= {"paper_train": self.published.train, "paper_test": self.published.test}
        return row


def running_by_depth(nets: Iterable[Net], family: str) -> dict[int, Estimate]:
    """The running training error of a family by depth, the shallowest first."""
    of_family = sorted((net for net in nets if net.family == family), key=lambda net: net.depth)
    return {net.depth: net.errors["running"] for net in of_family}
