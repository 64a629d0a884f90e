"""Ensembles of the runs of a net, and of a family."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from resexp import paper
from resexp.errors import UserError
from resexp.evaluation.ensemble import Ensemble, alone, joined
from resexp.report.figure import MARKERS, OTHERS, Plot, styled
from resexp.report.probes.material import Material, Section
from resexp.report.stats import RunRecord
from resexp.runs.store import Run
from resexp.utils.parallel import parallel_map

_TABLE5 = (
    "The paper's ensemble of six nets of different depth, two of them of 152 layers, has a top-5 error "
    f"of {paper.ENSEMBLE_TOP5} % (Table 5); the test server measured it, on images whose classes are not public, so it "
    "is not comparable."
)


def ensembles(material: Material) -> Section | None:
    """Mean test error of members and of their ensemble, by net and by family, from stored logits."""
    nets: dict[str, list[RunRecord]] = {}
    for record in material.records:
        if record.finished and record.run.logits_path.exists():
            nets.setdefault(record.run.label, []).append(record)
    family_of = {label: runs[0].family for label, runs in nets.items() if len(runs) > 1}
    shown = material.shown("ensembles", set(family_of.values()))
    labels = [label for label, family in family_of.items() if family in shown]
    members = [
        [(run.run, (run.metrics["test_error"].values / 100).tolist()) for run in nets[label]] for label in labels
    ]
    made = dict(zip(labels, parallel_map(_of_net, members, 10), strict=True))
    for family in shown:
        of_nets = [net for label in labels if family_of[label] == family and isinstance(net := made[label], Ensemble)]
        if len(of_nets) > 1:
            made[f"all {family}"] = _joined(of_nets)
    material.remarks += [f"Not in an ensemble: {error}." for error in made.values() if isinstance(error, UserError)]
    found = {name: together for name, together in made.items() if isinstance(together, Ensemble)}
    if not found:
        return None
    imagenet = any(run.config.data.source in ("imagenet", "imagefolder") for run in material.records)
    return Section(
        "Ensembles",
        f"Mean test error of runs, and test error of their ensemble: {', '.join(map(_change, found, found.values()))}.",
        "Runs of one net that differ in seed, and all such runs of a family, each with its final weights; an ensemble "
        f"averages their logits{' of the centre crops. ' + _TABLE5 if imagenet else '.'}",
        {"probe-ensembles": _plot(found)},
        _top5(found),
    )


def _top5(found: dict[str, Ensemble]) -> tuple[list[str], list[list[str]]] | None:
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


def _change(name: str, made: Ensemble) -> str:
    return f"{name} {100 * made.mean:.1f} and {100 * made.error:.1f} % ({len(made.runs)} runs)"


@styled
def _plot(found: dict[str, Ensemble]) -> Plot:
    plot = Plot("Ensembles of seeds", "test error (%)", "", (7.0, 1.6 + 0.36 * len(found)))
    looks: dict[str, dict[str, Any]] = {
        label: {"color": OTHERS[number], "marker": MARKERS[number], "linestyle": "none"}
        for number, label in enumerate(("mean of the members", "ensemble"))
    }
    for row, (name, made) in enumerate(found.items()):
        plot.axes.plot([100 * made.mean, 100 * made.error], [row, row], color="#808080", linewidth=2, zorder=1)
        for (label, look), error in zip(looks.items(), (made.mean, made.error), strict=True):
            plot.axes.plot([100 * error], [row], gid=plot.mark(label, f"{name}: {100 * error:.2f} %"), **look)
    for label, look in looks.items():
        plot.axes.plot([], [], label=label, **look)
    plot.axes.set_yticks(range(len(found)), [f"{name} ({len(made.runs)})" for name, made in found.items()])
    plot.axes.set_ylim(len(found) - 0.5, -0.5)
    plot.axes.grid(visible=False, axis="y")
    plot.legend(2)
    return plot
