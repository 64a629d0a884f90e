"""Records of probes, checked and put together by net, and what a section of the page is made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, WrapValidator

from resexp.errors import UserError
from resexp.report.figure import Plot
from resexp.report.formatting import Table
from resexp.report.plots import MAX_BARRED
from resexp.report.stats import Net, RunRecord
from resexp.report.summary import Summary
from resexp.utils.text import listed
from resexp.utils.untrusted import first_mistake

Number = Annotated[float, WrapValidator(lambda value, finite: float("nan") if value is None else finite(value))]
"""What a probe measured; JSON's null if it was not a number."""
MAX_LAYERS = 20_000
"""More than the deepest net has."""
INITIAL, TRAINED = "at initialisation", "trained"


@dataclass(frozen=True)
class PageSection:
    """A section of the page."""

    title: str
    headline: str
    """One sentence on what is seen, with its numbers."""
    caption: str
    """What is drawn, and how it was measured."""
    plots: dict[str, Plot] = field(default_factory=dict)
    """By the names of their files."""
    table: Table | None = None
    finding: str = ""
    """What takes the verdict's place, if the study was made for this probe."""
    lead: str = ""
    """What stands below the verdict, if the study was made to find it."""


class RecordPart(BaseModel):
    """A part of a record: numbers are finite, and text names a layer, a block or a net."""

    model_config = ConfigDict(allow_inf_nan=False, str_max_length=200)


class ProbeRecord(RecordPart):
    """What a probe measured in one run; keys that are not shown are ignored."""

    @property
    def places(self) -> list[str]:
        """What the numbers belong to, such as layers; the same for each seed of a net."""
        return []


class LayerRecord(RecordPart):
    """What a probe measured at one layer."""

    layer: str


RecordT = TypeVar("RecordT", bound=ProbeRecord)
LayerT = TypeVar("LayerT", bound=LayerRecord)


class Layerwise(ProbeRecord, Generic[LayerT]):
    """What a probe measured in one run at each layer."""

    layers: list[LayerT] = Field(min_length=1, max_length=MAX_LAYERS)

    @property
    def places(self) -> list[str]:
        """Layers."""
        return [layer.layer for layer in self.layers]

    def each(self, number: str) -> list[float]:
        """A number at each layer, by the name of its field."""
        return [getattr(layer, number) for layer in self.layers]


LayerwiseT = TypeVar("LayerwiseT", bound=Layerwise[Any])


@dataclass(frozen=True)
class NetResult(Net, Generic[RecordT]):
    """What a probe measured in a net at one moment of its training."""

    records: list[RecordT]
    """One for each of the runs."""
    moment: str
    """INITIAL or TRAINED."""

    def mean(self, values: Callable[[RecordT], Any]) -> NDArray[np.float64]:
        """The mean over seeds of one number, or of one at each place."""
        mean: NDArray[np.float64] = np.mean([values(record) for record in self.records], axis=0, dtype=float)
        return mean

    def geometric(self, values: Callable[[RecordT], Any]) -> NDArray[np.float64]:
        """The geometric mean over seeds, for what spans decades; NaN where a number is not positive and finite."""
        measured = np.array([values(record) for record in self.records], dtype=float)
        measured[~np.isfinite(measured) | (measured <= 0)] = np.nan
        mean: NDArray[np.float64] = np.exp(np.log(measured).mean(axis=0))
        return mean


@dataclass
class ProbeResults:
    """The records of the probes of a study."""

    folder: Path
    """The study's."""
    summary: Summary
    """What the report shows of the training."""
    remarks: list[str] = field(default_factory=list)
    """A line for each thing that can't be shown as it should be."""

    def of(self, name: str, kind: type[RecordT]) -> list[NetResult[RecordT]]:
        """What the probe `name` measured in each net at first and, over seeds, at the last step of each run.

        Results at initialisation come first, then by family, the shallowest net first. Only the first MAX_BARRED
        families are taken. A record that can't be used is left out. Both get a remark.
        """
        taken: dict[tuple[str, str], list[tuple[RunRecord, RecordT]]] = {}
        for run in self.summary.records:
            try:
                records = run.run.probes(name)
            except UserError as error:
                self.remarks.append(f"Not shown: {error}.")
                continue
            for step in records.keys() & {0, max(records, default=0)}:
                path, key = run.run.probe_path(name, step), (TRAINED if step else INITIAL, run.run.label)
                record = self.checked(path, records[step], kind)
                if record and key in taken and record.places != taken[key][0][1].places:
                    self.remarks.append(f"Not shown: {path}: it is not of the net that the other seeds have.")
                elif record:
                    taken.setdefault(key, []).append((run, record))
                if step not in (0, run.config.train.steps):
                    self.remarks.append(f"{run.run.title}: {name} at step {step:,} of {run.config.train.steps:,}.")
        nets = [
            NetResult(tuple(run for run, _ in seeds), [record for _, record in seeds], moment)
            for (moment, _), seeds in taken.items()
        ]
        shown = self.shown(name, {net.family for net in nets})
        kept = [net for net in nets if net.family in shown]
        return sorted(kept, key=lambda net: (net.moment == TRAINED, shown.index(net.family), net.depth))

    def shown(self, name: str, having: Collection[str]) -> list[str]:
        """The first MAX_BARRED families among `having`; the others get a remark."""
        families = [family for family in self.summary.families if family in having]
        if families[MAX_BARRED:]:
            self.remarks.append(
                f"{name}: there is room for {MAX_BARRED} families; not shown: {listed(families[MAX_BARRED:])}."
            )
        return families[:MAX_BARRED]

    def checked(self, path: Path, content: object, kind: type[RecordT]) -> RecordT | None:
        """Validate a record. Returns None and adds a remark if it is invalid."""
        try:
            return kind.model_validate(content)
        except ValidationError as error:
            self.remarks.append(f"Not shown: {path}: {first_mistake(error)}.")
            return None


def latest(nets: Sequence[NetResult[RecordT]]) -> list[NetResult[RecordT]]:
    """Those of trained nets, or else those at initialisation, given what `ProbeResults.of` found."""
    return [net for net in nets if net.moment == nets[-1].moment]
