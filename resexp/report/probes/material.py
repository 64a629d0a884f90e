"""Records of probes, checked and put together by net, and what a section of the page is made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError, WrapValidator

from resexp.errors import UserError
from resexp.report.figure import Plot
from resexp.report.formatting import listed
from resexp.report.plots import FEW
from resexp.report.stats import RunRecord

Number = Annotated[float, WrapValidator(lambda value, finite: float("nan") if value is None else finite(value))]
"""What a probe found; JSON's null where it was not a number."""
MAX_LAYERS = 20_000
"""More than the deepest net has."""
INITIAL, TRAINED = "at initialisation", "trained"


@dataclass(frozen=True)
class Section:
    """A section of the page."""

    title: str
    headline: str
    """One sentence on what is seen, with its numbers."""
    caption: str
    """What is drawn, and how it was measured."""
    plots: dict[str, Plot] = field(default_factory=dict)
    """By the names of their files."""
    table: tuple[list[str], list[list[str]]] | None = None
    """Header and rows."""


class Part(BaseModel):
    """A part of what a probe found: numbers are finite, and text names a layer, a block or a net."""

    model_config = ConfigDict(allow_inf_nan=False, str_max_length=200)


class Record(Part):
    """What a probe found in one run; keys that are not shown are kept out of the way."""

    @property
    def places(self) -> list[str]:
        """What the numbers belong to, such as layers; the same for each seed of a net."""
        return []


RecordT = TypeVar("RecordT", bound=Record)


@dataclass(frozen=True)
class Found(Generic[RecordT]):
    """What a probe found in a net at one moment of its training."""

    run: RunRecord
    """The first of the runs."""
    seeds: list[RecordT]

    @property
    def label(self) -> str:
        """Such as ``plain-20``."""
        return self.run.run.label

    @property
    def family(self) -> str:
        """The curve that the net belongs to."""
        return self.run.family

    @property
    def depth(self) -> int:
        """Number of weighted layers."""
        return self.run.config.model.depth

    def mean(self, values: Callable[[RecordT], Any]) -> NDArray[np.float64]:
        """The mean over seeds of one number, or of one at each place."""
        mean: NDArray[np.float64] = np.mean([values(record) for record in self.seeds], axis=0, dtype=float)
        return mean

    def geometric(self, values: Callable[[RecordT], Any]) -> NDArray[np.float64]:
        """The geometric mean over seeds, for what spans decades; NaN where a number is not positive and finite."""
        found = np.array([values(record) for record in self.seeds], dtype=float)
        found[~np.isfinite(found) | (found <= 0)] = np.nan
        mean: NDArray[np.float64] = np.exp(np.log(found).mean(axis=0))
        return mean


Moments = dict[str, list[Found[RecordT]]]
"""What was found INITIAL and TRAINED, as far as it was looked for, the shallowest net of each family first."""


@dataclass
class Material:
    """All that sections are made from."""

    folder: Path
    """The study's."""
    records: Sequence[RunRecord]
    """The runs that were begun."""
    families: Sequence[str]
    """Those of the verdict first."""
    remarks: list[str] = field(default_factory=list)
    """A line for each thing that can't be shown as it should be."""

    @cached_property
    def probed(self) -> list[RunRecord]:
        """The runs that some probe was taken of."""
        return [record for record in self.records if record.run.probe_folder.is_dir()]

    def found(self, name: str, kind: type[RecordT]) -> Moments[RecordT]:
        """What the probe `name` found in each net at first and, over seeds, at the last step of each run that has one.

        Of more than FEW families the first are taken; a record that can't be used is left out. Both get a remark.
        """
        moments: dict[str, dict[str, Found[RecordT]]] = {INITIAL: {}, TRAINED: {}}
        for run in self.probed:
            for step, record in self._of_run(run, name, kind).items():
                nets = moments[TRAINED if step else INITIAL]
                net = nets.setdefault(run.run.label, Found(run, []))
                if net.seeds and record.places != net.seeds[0].places:
                    self._leave_out(run.run.probe_path(name, step), "it is not of the net that the other seeds have")
                else:
                    net.seeds.append(record)
        having = {net.family for nets in moments.values() for net in nets.values()}
        order = {family: number for number, family in enumerate(self.shown(name, having))}
        kept = {
            moment: sorted(
                (net for net in nets.values() if net.family in order), key=lambda net: (order[net.family], net.depth)
            )
            for moment, nets in moments.items()
        }
        return {moment: nets for moment, nets in kept.items() if nets}

    def shown(self, name: str, having: Collection[str]) -> list[str]:
        """The first FEW families among `having`; the others get a remark."""
        families = [family for family in self.families if family in having]
        if families[FEW:]:
            self.remarks.append(f"{name}: there is room for {FEW} families; not shown: {listed(families[FEW:])}.")
        return families[:FEW]

    def latest(self, name: str, kind: type[RecordT]) -> tuple[str, list[Found[RecordT]]]:
        """What was found TRAINED, or else INITIAL, and which of them it is."""
        return list({INITIAL: [], **self.found(name, kind)}.items())[-1]

    def checked(self, path: Path, found: object, kind: type[RecordT]) -> RecordT | None:
        """A record, or None and a remark where it is none of its kind."""
        try:
            return kind.model_validate(found)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"]))
            self._leave_out(path, f"{where + ': ' if where else ''}{first['msg']}")
            return None

    def _of_run(self, run: RunRecord, name: str, kind: type[RecordT]) -> dict[int, RecordT]:
        """The records of a run at step 0 and at its last step, as far as there are any."""
        try:
            taken = run.run.probes(name)
        except UserError as error:
            self.remarks.append(f"Not shown: {error}.")
            return {}
        records = {}
        for step in taken.keys() & {0, max(taken, default=0)}:
            record = self.checked(run.run.probe_path(name, step), taken[step], kind)
            if record is not None:
                records[step] = record
            if step not in (0, run.config.train.steps):
                self.remarks.append(f"{run.run.name}: {name} at step {step:,} of {run.config.train.steps:,}.")
        return records

    def _leave_out(self, path: Path, why: str) -> None:
        self.remarks.append(f"Not shown: {path}: {why}.")
