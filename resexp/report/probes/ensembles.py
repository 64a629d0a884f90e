"""Ensembles of the runs of a net, and of a family."""

from __future__ import annotations

from typing import Any

from resexp.ensemble import Ensemble, ensemble
from resexp.errors import UserError
from resexp.report.plots import MARKERS, PALETTE, Plot, styled
from resexp.report.probes.material import Material, Section
from resexp.report.stats import RunRecord


def ensembles(material: Material) -> Section | None:
    """Mean test error of the members beside that of the ensemble, by net and by family, from stored logits."""
    nets: dict[str, list[RunRecord]] = {}
    for record in material.records:
        if record.finished and record.run.logits_path.exists():
            nets.setdefault(record.run.label, []).append(record)
    found = {label: made for label, runs in nets.items() if (made := _ensemble(material, runs))}
    for family in material.families:
        labels = [label for label in nets if label in found and nets[label][0].family == family]
        together = [run for label in labels for run in nets[label]]
        if len(labels) > 1 and (made := _ensemble(material, together)):
            found[f"all {family}"] = made
    if not found:
        return None
    return Section(
        "Ensembles",
        f"Mean test error of the runs, and that of their ensemble: {', '.join(map(_change, found, found.values()))}.",
        "Runs of one net that differ in seed, and all such runs of a family, each with its final weights; an ensemble "
        "averages their logits.",
        {"probe-ensembles": _plot(found)},
    )


def _ensemble(material: Material, runs: list[RunRecord]) -> Ensemble | None:
    if len(runs) < 2:
        return None
    try:
        return ensemble([record.run for record in runs])
    except UserError as error:
        material.remarks.append(f"Not in an ensemble: {error}.")
        return None


def _change(name: str, made: Ensemble) -> str:
    return f"{name} {100 * made.mean:.1f} and {100 * made.error:.1f} % ({len(made.runs)} runs)"


@styled
def _plot(found: dict[str, Ensemble]) -> Plot:
    plot = Plot("Ensembles of seeds", "test error (%)", "", (7.0, 1.6 + 0.36 * len(found)))
    for row, (name, made) in enumerate(found.items()):
        plot.axes.plot([100 * made.mean, 100 * made.error], [row, row], color="#808080", linewidth=2, zorder=1)
        for number, error in enumerate((made.mean, made.error)):
            look: dict[str, Any] = {"color": PALETTE[number], "marker": MARKERS[number], "linestyle": "none"}
            plot.axes.plot([100 * error], [row], gid=plot.tip(f"{name}: {100 * error:.2f} %"), **look)
    for number, label in enumerate(("mean of the members", "ensemble")):
        plot.axes.plot([], [], color=PALETTE[number], marker=MARKERS[number], linestyle="none", label=label)
    plot.axes.set_yticks(range(len(found)), [f"{name} ({len(made.runs)})" for name, made in found.items()])
    plot.axes.set_ylim(len(found) - 0.5, -0.5)
    plot.axes.grid(visible=False, axis="y")
    plot.figure.legend(loc="outside lower center", ncols=2)
    return plot
