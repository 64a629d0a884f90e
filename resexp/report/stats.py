"""Numbers of a study from its run folders: runs, nets, and the verdict. Errors are in percent here."""

from __future__ import annotations

import math
import statistics
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import pandas as pd

from resexp import paper
from resexp.config import RunConfig
from resexp.errors import UserError
from resexp.store import Run, Status, StudyFolder
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
    manifest: dict[str, Any]
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

    @cached_property
    def errors(self) -> dict[str, float]:
        """The errors of METRICS that the run has; of a finished run only."""
        if not self.finished:
            return {}
        last = {name: self.metrics[name].dropna() for name in _ERRORS}
        found = {"running": self._running_error()}
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

    def _running_error(self) -> float:
        train = self.config.train
        start = train.milestones[-1] if train.milestones else train.steps * 3 // 4
        lines = self.metrics[self.metrics["event"] == "train"]
        # Each line is the mean over the steps since the line before it.
        lengths = lines["step"].diff().fillna(lines["step"])
        late = lines["step"] > start
        return float((lines["train_error"] * lengths)[late].sum() / lengths[late].sum())

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


def read(run: Run) -> RunRecord:
    """Read a run folder."""
    metrics = pd.DataFrame(run.metrics())
    metrics = metrics.reindex(columns=dict.fromkeys(["event", "step", "train_seconds", *metrics.columns, *_ERRORS]))
    metrics[list(_ERRORS)] = 100 * metrics[list(_ERRORS)].astype(float)
    return RunRecord(run, load_run(run.config_path), run.status(), run.manifest(), metrics)


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, in percent."""

    values: tuple[float, ...]

    @property
    def mean(self) -> float:
        """The mean."""
        return statistics.fmean(self.values)

    @property
    def std(self) -> float | None:
        """The standard deviation over seeds; None for one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def __str__(self) -> str:
        return f"{self.mean:.2f}" if self.std is None else f"{self.mean:.2f} ± {self.std:.2f}"


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
    def depth(self) -> int:
        """Number of weighted layers."""
        return self.runs[0].config.model.depth

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return int(self.runs[0].manifest["parameters"])

    @property
    def seconds(self) -> float:
        """Mean training time."""
        return statistics.fmean(run.seconds for run in self.runs)

    @cached_property
    def errors(self) -> dict[str, Estimate]:
        """Each error of METRICS that the net's runs have."""
        return {m: Estimate(tuple(run.errors[m] for run in self.runs)) for m in METRICS if m in self.runs[0].errors}

    @property
    def differences(self) -> list[str]:
        """Why the net can't be set beside the paper; empty where it can."""
        run = self.runs[0]
        reasons = paper.differences(run.config, run.manifest["data"]["name"])
        return reasons or ([] if self._in_paper else ["the paper has no number for it"])

    @property
    def published(self) -> paper.Published | None:
        """The paper's numbers, where the net, the data and the recipe are the paper's."""
        return None if self.differences else self._in_paper

    @property
    def _in_paper(self) -> paper.Published | None:
        return paper.CIFAR10.get((self.runs[0].config.model.kind, self.depth))

    def to_json(self) -> dict[str, Any]:
        """The net's numbers, for scripts and summary.csv."""
        row: dict[str, Any] = {"net": self.label, "family": self.family, "depth": self.depth}
        row |= {"parameters": self.parameters, "seeds": len(self.runs), "seconds": self.seconds}
        for metric in METRICS:
            estimate = self.errors.get(metric)
            row[f"{metric}_mean"] = estimate.mean if estimate else None
            row[f"{metric}_std"] = estimate.std if estimate else None
        row |= {"paper_train": None, "paper_test": None, "not_comparable": "; ".join(self.differences)}
        if self.published:
            row |= {"paper_train": self.published.train, "paper_test": self.published.test}
        return row


@dataclass(frozen=True)
class Difference:
    """A difference of two means, in points, with its 95 % interval by Welch's t test where there are seeds enough."""

    value: float
    low: float | None
    high: float | None

    @property
    def sign(self) -> int:
        """+1 or -1 where the interval leaves zero out, else 0."""
        if self.low is None or self.high is None:
            return 0
        return 1 if self.low > 0 else -1 if self.high < 0 else 0

    def __str__(self) -> str:
        points = f"{self.value:+.1f} points"
        return points if self.low is None else f"{points} [{self.low:+.1f}, {self.high:+.1f}]"


# Two-sided 95 % quantiles of Student's t by degrees of freedom; between two, the smaller (wider interval) is taken.
_T95 = {
    1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571, 6: 2.447, 7: 2.365, 8: 2.306, 9: 2.262, 10: 2.228,
    12: 2.179, 15: 2.131, 20: 2.086, 30: 2.042, 60: 2.000, 120: 1.980,
}  # fmt: skip


def difference(a: Estimate, b: Estimate) -> Difference:
    """a - b with Welch's interval; none with fewer than two seeds on a side."""
    value = a.mean - b.mean
    if a.std is None or b.std is None:
        return Difference(value, None, None)
    (m, n), (var_a, var_b) = (len(a.values), len(b.values)), (a.std**2 / len(a.values), b.std**2 / len(b.values))
    squares = var_a**2 / (m - 1) + var_b**2 / (n - 1)
    freedom = (var_a + var_b) ** 2 / squares if squares > 0 else m + n - 2
    t = _T95[max(df for df in _T95 if df <= max(freedom, 1))]
    half = t * math.sqrt(var_a + var_b)
    return Difference(value, value - half, value + half)


@dataclass(frozen=True)
class Verdict:
    """What the study shows, in words with their numbers."""

    headline: str
    sentences: list[str] = field(default_factory=list)
    plain: Difference | None = None
    """Running training error, deepest plain net minus shallowest."""
    residual: Difference | None = None
    """The same for the residual nets of those depths."""
    gap: Difference | None = None
    """Plain minus residual at the deepest depth that both have."""


def judge(nets: Sequence[Net]) -> Verdict:
    """Does training error rise with depth for plain nets by more than seed noise, and do shortcuts reverse that?

    Of the nets without variant: the deepest plain net against the shallowest, the residual nets of the same two depths,
    and plain against residual at the deepest. Each is a difference of mean running training errors with a 95 % interval
    by Welch's t test over seeds.
    """
    plain_nets = {net.depth: net.errors["running"] for net in nets if net.family == "plain"}
    residual_nets = {net.depth: net.errors["running"] for net in nets if net.family == "residual"}
    if len(plain_nets) < 2:
        return Verdict("No verdict: it takes finished plain nets of at least two depths.")
    low, high = min(plain_nets), max(plain_nets)
    plain = difference(plain_nets[high], plain_nets[low])
    sentences = [_rise("Plain", plain_nets, low, high, plain)]
    residual = gap = None
    if low in residual_nets and high in residual_nets:
        residual = difference(residual_nets[high], residual_nets[low])
        sentences.append(_rise("Residual", residual_nets, low, high, residual))
        gap = difference(plain_nets[high], residual_nets[high])
        sentences.append(f"At depth {high}, plain minus residual: {gap}.")
    return Verdict(_headline(plain, residual, gap), sentences, plain, residual, gap)


def _rise(kind: str, nets: dict[int, Estimate], low: int, high: int, change: Difference) -> str:
    a, b = nets[low], nets[high]
    seeds = f"{len(a.values)} and {len(b.values)} seeds"
    return (
        f"{kind} nets: training error {a.mean:.1f} % at depth {low}, {b.mean:.1f} % at depth {high}: {change}, {seeds}."
    )


def _headline(plain: Difference, residual: Difference | None, gap: Difference | None) -> str:
    if plain.low is None:
        direction = "rises" if plain.value > 0 else "does not rise"
        return f"One seed, descriptive only: the plain nets' training error {direction} with depth."
    if plain.sign == 0:
        return "Inconclusive: the plain nets' training error does not change with depth by more than seed noise."
    if plain.sign < 0:
        return "No degradation: the deepest plain net has a lower training error than the shallowest."
    if residual is None or residual.low is None or gap is None:
        return "Plain nets degrade with depth; for residual nets of the same depths there are not seeds enough to say."
    if residual.sign < 0:
        return "Plain nets degrade with depth; residual nets gain from it."
    if gap.sign <= 0:
        return "Plain nets degrade with depth; whether shortcuts prevent it is inconclusive."
    if residual.sign == 0:
        return "Plain nets degrade with depth; residual nets do not, within seed noise."
    share = 100 * (1 - residual.value / plain.value)
    return f"Plain nets degrade with depth; shortcuts take away {share:.0f} % of it."


@dataclass(frozen=True)
class Summary:
    """All that the page, the figures and the tables show."""

    name: str
    description: str
    records: list[RunRecord]
    strays: list[str]
    """Runs in the folder that the study does not name (any more)."""
    nets: list[Net]
    verdict: Verdict

    def to_json(self) -> dict[str, Any]:
        """The numbers, for scripts; errors in percent."""
        return {
            "study": self.name,
            "verdict": asdict(self.verdict),
            "nets": [net.to_json() for net in self.nets],
            "runs": [record.to_json() for record in self.records],
        }


def summarise(study: StudyFolder) -> Summary:
    """Read a study. Raises UserError while no run has finished."""
    records = [read(run) for run in study.runs()]
    if not any(record.finished for record in records):
        states = ", ".join(f"{n} {state}" for state, n in Counter(r.status.state for r in records).items())
        raise UserError(f"{study.folder}: no finished run to report yet ({states or 'no runs'}); see `resexp status`")
    by_label: dict[str, list[RunRecord]] = defaultdict(list)
    for record in records:
        if record.finished:
            by_label[record.run.label].append(record)
    nets = sorted((Net(tuple(runs)) for runs in by_label.values()), key=lambda net: (net.family, net.depth))
    plan = study.plan()
    strays = [str(run.folder.relative_to(study.folder)) for run in study.strays()]
    return Summary(plan["name"], plan["description"], records, strays, nets, judge(nets))
