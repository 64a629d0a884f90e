"""Ensembles of the runs of a net, and of a family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from resexp import paper
from resexp.errors import UserError
from resexp.evaluation.ensemble import Ensemble, alone, joined
from resexp.report.figure import MARKERS, NEUTRAL, Plot, styled
from resexp.report.formatting import Table
from resexp.report.probes.results import PageSection, ProbeResults
from resexp.report.stats import Net, grouped
from resexp.runs.store import Run
from resexp.utils.parallel import parallel_map

_TABLE5 = (
    "The paper's ensemble of six nets of different depth, two of them of 152 layers, has a top-5 error "
    f"of {paper.ENSEMBLE_TOP5} % (Table 5); the test server measured it, on images whose classes are not public, so it "
    "is not comparable."
)


def ensembles(results: ProbeResults) -> PageSection | None:
    """Mean test error of members and of their ensemble, by net and by family, from stored logits."""
    runs = [run for run in results.summary.records if run.finished and run.run.logits_path.exists()]
    several = [Net(tuple(alike)) for alike in grouped(runs, lambda run: run.run.label).values() if len(alike) > 1]
    shown = results.shown("ensembles", {net.family for net in several})
    nets = [net for net in several if net.family in shown]
    members = [[(run.run, (run.metrics["test_error"].values / 100).tolist()) for run in net.runs] for net in nets]
    made = dict(zip([net.label for net in nets], parallel_map(_of_net, members, 40), strict=True))
    for family in shown:
        parts = [made[net.label] for net in nets if net.family == family]
        of_nets = [ensemble for ensemble in parts if isinstance(ensemble, Ensemble)]
        if len(of_nets) > 1:
            made[f"all {family}"] = _joined(of_nets)
    results.remarks += [f"Not in an ensemble: {error}." for error in made.values() if isinstance(error, UserError)]
    found = {name: together for name, together in made.items() if isinstance(together, Ensemble)}
    if not found:
        return None
    changes = [
        f"{name} {100 * together.mean:.1f} and {100 * together.error:.1f} % ({len(together.runs)} runs)"
        for name, together in found.items()
    ]
    return PageSection(
        "Ensembles",
        f"Mean test error of runs, and test error of their ensemble: {', '.join(changes)}.",
        "Runs of one net that differ in seed, and all such runs of a family, each with its final weights; an ensemble "
        f"averages their logits{' of the centre crops. ' + _TABLE5 if results.summary.of_imagenet else '.'}",
        {"probe-ensembles": _plot(found)},
        _top5(found),
    )


def _top5(found: dict[str, Ensemble]) -> Table | None:
    """Both errors in a table, where there are classes enough for a top-5 error."""
    header = ["ensemble", "runs", "mean of the runs", "together", "mean of the runs, top-5", "together, top-5"]
    rows = []
    for name, made in found.items():
        if made.top5_mean is None or made.top5_error is None:
            return None
        errors = (made.mean, made.error, made.top5_mean, made.top5_error)
        rows.append([name, str(len(made.runs)), *(f"{100 * error:.2f}" for error in errors)])
    return header, rows


def _of_net(members: Sequence[tuple[Run, list[float]]]) -> Ensemble | UserError:
    return _joined(alone(run, recorded) for run, recorded in members)


def _joined(members: Iterable[Ensemble]) -> Ensemble | UserError:
    try:
        return joined(members)
    except UserError as error:
        return error


@styled
def _plot(found: dict[str, Ensemble]) -> Plot:
    plot = Plot("Ensembles of seeds", "test error (%)", "", (7.0, 1.6 + 0.36 * len(found)))
    looks: dict[str, dict[str, Any]] = {
        label: {"color": NEUTRAL[number], "marker": MARKERS[number], "linestyle": "none"}
        for number, label in enumerate(("mean of the members", "ensemble"))
    }
    for row, (name, made) in enumerate(found.items()):
        plot.axes.plot([100 * made.mean, 100 * made.error], [row, row], color="#808080", linewidth=2, zorder=1)
        for (label, look), error in zip(looks.items(), (made.mean, made.error), strict=True):
            plot.line([100 * error], [row], label, f"{name}: {100 * error:.2f} %", **look)
    for label, look in looks.items():
        plot.axes.plot([], [], label=label, **look)
    plot.rows([f"{name} ({len(made.runs)})" for name, made in found.items()])
    plot.legend(2)
    return plot
