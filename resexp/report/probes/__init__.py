"""What probes found in the nets of a study, a section each: from the records in the run folders. No torch."""

from __future__ import annotations

from resexp.report.probes.branches import branches
from resexp.report.probes.ensembles import ensembles
from resexp.report.probes.gradients import gradients
from resexp.report.probes.identity import identity
from resexp.report.probes.landscape import landscape
from resexp.report.probes.lesion import lesion
from resexp.report.probes.responses import responses
from resexp.report.probes.results import PageSection, ProbeResults
from resexp.report.probes.signals import signals
from resexp.report.probes.views import views
from resexp.report.summary import Summary
from resexp.runs.store import StudyFolder

__all__ = ["PageSection", "probe_sections"]


def probe_sections(study: StudyFolder, summary: Summary) -> tuple[list[PageSection], list[str]]:
    """The sections that a study has records for, in the order of the page, and a line for what can't be shown."""
    results = ProbeResults(study.folder, summary.records, summary.families)
    makers = (gradients, signals, responses, branches, lesion, landscape, ensembles, identity, views)
    sections = [section for make in makers if (section := make(results))]
    return sections, results.remarks
