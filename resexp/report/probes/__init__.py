"""What probes found in the nets of a study, a section each: from the records in the run folders. No torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from resexp.report.probes.ensembles import ensembles
from resexp.report.probes.gradients import Gradients, gradients
from resexp.report.probes.identity import identity
from resexp.report.probes.landscape import Landscape, landscape
from resexp.report.probes.lesion import Lesion, lesion
from resexp.report.probes.outputs import Branches, Responses, Signals, branches, responses, signals
from resexp.report.probes.results import PageSection, ProbeResults
from resexp.report.probes.views import views
from resexp.report.summary import Summary
from resexp.runs.store import StudyFolder

__all__ = ["PageSection", "probe_sections"]

_OF_NETS: dict[str, tuple[type[Any], Callable[[Any], PageSection]]] = {
    "gradients": (Gradients, gradients),
    "signals": (Signals, signals),
    "responses": (Responses, responses),
    "branches": (Branches, branches),
    "lesion": (Lesion, lesion),
    "landscape": (Landscape, landscape),
}
"""For each probe of a net, its record and what makes a section of the nets that have one."""


def probe_sections(study: StudyFolder, summary: Summary) -> tuple[list[PageSection], list[str]]:
    """The sections that a study has records for, in the order of the page, and a line for what can't be shown."""
    results = ProbeResults(study.folder, summary)
    sections = [make(nets) for name, (kind, make) in _OF_NETS.items() if (nets := results.of(name, kind))]
    sections += [section for make in (ensembles, identity, views) if (section := make(results))]
    return sections, results.remarks
