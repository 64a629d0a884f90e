"""Several studies in one report: what they have in common in figures, what differs between them in tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd

from resexp.errors import UserError
from resexp.report import details, page
from resexp.report.comparison import Comparison, compare
from resexp.report.figure import OnPage, family_looks
from resexp.report.formatting import NOTHING, Table, slug
from resexp.report.stats import Net, frame, grouped
from resexp.report.summary import Summary, summarise
from resexp.runs.records import json_text
from resexp.runs.store import Run, StudyFolder

LOOKS: tuple[dict[str, Any], ...] = (
    {"marker": "o"},
    {"marker": "s", "markerfacecolor": "none"},
    {"marker": "^", "linewidth": 0.8},
)
"""Markers and lines of the first, second and third study."""


@dataclass(frozen=True)
class Together:
    """Studies that are shown together."""

    studies: dict[str, Summary]
    """By the names that the report calls them."""
    comparisons: dict[str, Comparison]
    """Each of the other studies compared with the first."""

    @property
    def names(self) -> list[str]:
        """The first study and the others."""
        return list(self.studies)

    @property
    def title(self) -> str:
        """Such as ``quickstart and cpu-small``."""
        return f"{', '.join(self.names[:-1])} and {self.names[-1]}"

    @property
    def slugs(self) -> dict[str, str]:
        """The names as parts of file names, which differ on disks that ignore case, too."""
        found: dict[str, str] = {}
        for name in self.names:
            taken = slug(name) in found.values()
            found[name] = f"{slug(name)}-{len(found) + 1}" if taken else slug(name)
        return found

    @property
    def unreadable(self) -> list[str]:
        """Why runs can't be read."""
        return [message for study in self.studies.values() for message in study.unreadable]

    @property
    def headlines(self) -> list[str]:
        """The first change of each comparison, in a sentence."""
        return [found.headline(self.names[0], name) for name, found in self.comparisons.items()]

    @property
    def seen(self) -> str:
        """What the main figure shows, as its title; empty if a study has no verdict."""
        found = {name: study.verdict for name, study in self.studies.items()}
        ends = {name: verdict.interaction_depths for name, verdict in found.items() if verdict.interaction_depths}
        if len(ends) < len(found):
            return ""
        several = len(set(ends.values())) > 1
        where = {name: f" ({a} to {b} layers)" if several else "" for name, (a, b) in ends.items()}
        known = [f"{v.interaction.value:+.1f} points in {n}{where[n]}" for n, v in found.items() if v.interaction]
        return f"Rise of plain minus rise of residual nets: {', '.join(known)}"

    def nets(self) -> list[Net]:
        """The nets that are shown of all studies, each in a family of its own study."""
        return [
            _called(net, name)
            for name, study in self.studies.items()
            for net in study.nets
            if net.family in shown(study)
        ]

    def looks(self) -> dict[str, dict[str, Any]]:
        """How each family is drawn: the kind has the colour, the study has the marker and the width of the line."""
        return {
            f"{family} ({name})": {"color": family_looks([family])[family]["color"], **look}
            for look, (name, study) in zip(LOOKS, self.studies.items(), strict=False)
            for family in shown(study)
        }

    def table(self) -> tuple[Table, list[list[Net]]]:
        """The table of nets, in percent and points, and for each row the net in each study that has it."""
        first = self.names[0]
        pairs = {
            (name, pair.facts["a"]["net"]): pair for name, found in self.comparisons.items() for pair in found.pairs
        }
        of_first = {(name, pair.facts["b"]["net"]): label for (name, label), pair in pairs.items()}
        every = [(name, net) for name, study in self.studies.items() for net in study.nets]
        every.sort(key=lambda entry: (entry[1].kind, entry[1].depth))
        rows, of_rows = [], []
        for label, entries in grouped(every, lambda e: of_first.get((e[0], e[1].label), e[1].label)).items():
            nets = dict(entries)
            row = [label, *(str(nets[name].errors["running"]) if name in nets else NOTHING for name in self.studies)]
            for name in self.comparisons:
                pair = pairs.get((name, label))
                row += [cell or NOTHING for cell in pair.cells[3:]] if pair else [NOTHING, NOTHING]
            rows.append(row)
            of_rows.append([_called(net, name) for name, net in entries])
        differences = [cell for name in self.comparisons for cell in (f"{name} minus {first}", "p")]
        return (["net", *self.names, *differences], rows), of_rows

    def provenance(self) -> list[tuple[str, list[str]]]:
        """How the runs were made: each fact with its values in each study."""
        of_studies = [dict(page.provenance(study)) for study in self.studies.values()]
        facts = dict.fromkeys(fact for of in of_studies for fact in of)
        return [(fact, [of.get(fact, NOTHING) for of in of_studies]) for fact in facts]

    def to_json(self) -> dict[str, Any]:
        """The numbers, for scripts; errors and their differences are fractions."""
        first = self.names[0]
        return {
            "studies": {name: study.to_json() for name, study in self.studies.items()},
            "comparisons": [{"a": first, "b": name, **found.to_json()} for name, found in self.comparisons.items()],
        }


def together(folders: Sequence[StudyFolder]) -> Together:
    """Read the studies and compare each with the first.

    Raises UserError while no run of a study has finished, and for a number of studies that one figure can't show.
    """
    if not 2 <= len(folders) <= len(LOOKS):
        raise UserError(f"report: one figure shows two or three studies, got {len(folders)}; name fewer")
    summaries = [summarise(folder) for folder in folders]
    names = [summary.name for summary in summaries]
    if len(set(names)) < len(names):
        names = ["/".join(folder.folder.resolve().parts[-2:]) for folder in folders]
    if len(set(names)) < len(names):
        raise UserError(f"report: {', '.join(names)}: a study is named twice; name each once")
    first, *others = ([record.run for record in summary.records] for summary in summaries)
    comparisons = [compare(first, other) for other in others]
    return Together(dict(zip(names, summaries, strict=True)), dict(zip(names[1:], comparisons, strict=True)))


def shown(study: Summary) -> list[str]:
    """The families that the figures of several studies show of each."""
    return study.verdict.families or study.drawn[:2]


def _called(net: Net, study: str) -> Net:
    """The net in a family of its study, with a label that names the study."""
    label, family = f"{net.label}, {study}", f"{net.family} ({study})"
    return Net(tuple(replace(run, run=Run(run.run.folder, label), family=family) for run in net.runs))


def html(found: Together, figures: Mapping[str, OnPage], files: Mapping[str, str], reload: float | None = None) -> str:
    """The self-contained page, with these `files` inside."""
    table, nets = found.table()
    return page.rendered(
        "together.html.j2",
        figures,
        reload=reload,
        together=found,
        saved_as="-".join(found.slugs.values()),
        main="depth-running",
        numbers={name: page.numbers(study.verdict) for name, study in found.studies.items()},
        table=table,
        nets=nets,
        settings=details.settings([net for row in nets[: page.ROWS] for net in row]),
        downloads=page.embedded(files),
    )


def data(found: Together) -> dict[str, str]:
    """The numbers as files, by their names."""
    nets = [{"study": name, **net.to_json()} for name, study in found.studies.items() for net in study.nets]
    runs = [
        frame([(record.run, record) for record in study.records]).assign(study=name)
        for name, study in found.studies.items()
    ]
    return {
        "summary.csv": pd.DataFrame(nets).to_csv(index=False),
        "runs.csv": pd.concat(runs).to_csv(index=False),
        "comparison.json": json_text(found.to_json()),
    }
