"""Two studies, nets or runs compared: how their configurations differ, and their running training errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy import stats

from resexp.config.study import load_run
from resexp.errors import UserError
from resexp.report.estimates import Difference, Estimate, difference
from resexp.report.stats import fraction, grouped, read
from resexp.runs.store import Run


@dataclass(frozen=True)
class Side:
    """One net of a comparison."""

    label: str
    runs: Sequence[Run]
    """One per seed, finished or not."""
    error: Estimate | None
    """Running training error of the finished runs; None while there are none."""

    @property
    def settings(self) -> dict[str, Any]:
        """Every value of the net's configuration by its dotted key, and its seeds."""
        config = load_run(self.runs[0].config_path).model_dump(mode="json", exclude={"seed"})
        return {**_flat(config), "seeds": [int(run.folder.name.removeprefix("seed")) for run in self.runs]}

    def to_json(self) -> dict[str, Any]:
        """The net for scripts; the error is a fraction."""
        values = self.error.values if self.error else ()
        return {
            "net": self.label,
            "finished": len(values),
            "running_train_error": fraction(self.error.mean) if self.error else None,
        }


@dataclass(frozen=True)
class Pair:
    """A net on both sides."""

    a: Side
    b: Side

    @property
    def difference(self) -> Difference | None:
        """Error of b minus error of a, in points, with Welch's interval; None unless both have finished runs."""
        return difference(self.b.error, self.a.error) if self.a.error and self.b.error else None

    @property
    def p(self) -> float | None:
        """Two-sided p of Welch's t test; None for fewer than two seeds a side, or without any spread."""
        if not (self.a.error and self.b.error) or min(len(self.a.error.values), len(self.b.error.values)) < 2:
            return None
        if not (self.a.error.std or self.b.error.std):
            return None
        p = float(stats.ttest_ind(self.b.error.values, self.a.error.values, equal_var=False).pvalue)
        return p if math.isfinite(p) else None

    def to_json(self) -> dict[str, Any]:
        """The pair for scripts; errors are fractions."""
        found = self.difference or Difference(math.nan)
        interval = {"low": fraction(found.low), "high": fraction(found.high)}
        return {
            "a": self.a.to_json(),
            "b": self.b.to_json(),
            "difference": fraction(found.value),
            **interval,
            "p": self.p,
        }


@dataclass(frozen=True)
class Setting:
    """A key of the configuration whose values differ."""

    key: str
    a: Any
    b: Any
    nets: list[str]
    """Nets that have this difference."""


@dataclass(frozen=True)
class Comparison:
    """All that differs."""

    pairs: list[Pair]
    settings: list[Setting]
    only_a: list[str]
    """Nets that b lacks."""
    only_b: list[str]

    def to_json(self) -> dict[str, Any]:
        """The comparison for scripts."""
        return {
            "configuration": [vars(setting) for setting in self.settings],
            "nets": [pair.to_json() for pair in self.pairs],
            "only_a": self.only_a,
            "only_b": self.only_b,
        }


def compare(a: Sequence[Run], b: Sequence[Run]) -> Comparison:
    """Compare runs net by net. Nets are matched by name; where each side is one net, the two are compared.

    Raises UserError where no net is on both sides.
    """
    nets_a, nets_b = grouped(a, lambda run: run.label), grouped(b, lambda run: run.label)
    if len(nets_a) == len(nets_b) == 1:
        matched = [(*nets_a, *nets_b)]
    else:
        matched = [(label, label) for label in nets_a if label in nets_b]
    if not matched:
        raise UserError(
            f"no net in common: {', '.join(nets_a) or 'none'} against {', '.join(nets_b) or 'none'}; name one net of "
            f"each, as STUDY:NET"
        )
    pairs = [Pair(_side(one, nets_a[one]), _side(other, nets_b[other])) for one, other in matched]
    taken_a, taken_b = {pair.a.label for pair in pairs}, {pair.b.label for pair in pairs}
    return Comparison(
        pairs,
        _settings(pairs),
        [label for label in nets_a if label not in taken_a],
        [label for label in nets_b if label not in taken_b],
    )


def _side(label: str, runs: Sequence[Run]) -> Side:
    records = [record for run in runs if (record := read(run, whole=False)) and record.finished]
    return Side(label, runs, Estimate(tuple(one.errors["running"] for one in records)) if records else None)


def _settings(pairs: Sequence[Pair]) -> list[Setting]:
    """The differing keys; nets that differ in the same way share an entry."""
    differing = []
    for pair in pairs:
        a, b = pair.a.settings, pair.b.settings
        keys = [key for key in dict.fromkeys((*a, *b)) if a.get(key) != b.get(key)]
        differing += [Setting(key, a.get(key), b.get(key), [pair.a.label]) for key in keys]
    alike = grouped(differing, lambda setting: f"{setting.key} {setting.a!r} {setting.b!r}").values()
    return [replace(same[0], nets=[label for setting in same for label in setting.nets]) for same in alike]


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{key}.{name}" if key else name).items()}
