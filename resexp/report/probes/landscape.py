"""The loss around nets."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from pydantic import Field, model_validator

from resexp.report.figure import Plot, styled
from resexp.report.probes.panels import deepest, seeds
from resexp.report.probes.results import NetResult, Number, PageSection, ProbeRecord, latest

LEVELS, TICKS = 16, (-1, -0.5, 0, 0.5, 1)
FAR = 10
"""Times the loss of guessing: where it is more than that, one colour says so."""
NEAR = 1.0
"""The rise of the loss, in nats, that the sentence and the black line are about."""
LEAST = 1e-6
"""Losses below this are drawn as this."""


class Landscape(ProbeRecord):
    """See `resexp.probes.landscape`."""

    steps: list[float] = Field(min_length=2, max_length=501)
    loss: list[list[Number]]

    @model_validator(mode="after")
    def _square(self) -> Landscape:
        if {len(self.loss), *map(len, self.loss)} != {len(self.steps)}:
            raise ValueError("the loss is not a square of as many points a side as there are steps")
        if not math.isfinite(self.own):
            raise ValueError("the net itself has no finite loss")
        return self

    @property
    def places(self) -> list[str]:
        """Points of the grid, along a side."""
        return list(map(str, self.steps))

    @property
    def own(self) -> float:
        """The loss of the net itself, in the middle."""
        return self.loss[len(self.loss) // 2][len(self.loss) // 2]

    @property
    def share_near(self) -> float:
        """The share of the grid's points that have less than NEAR more than the net itself."""
        return float(np.mean(np.array(self.loss) < self.own + NEAR))


def landscape(nets: Sequence[NetResult[Landscape]]) -> PageSection:
    """The deepest net of each family."""
    deep, shares = deepest(latest(nets)), []
    for net in deep:
        own, share = (float(net.mean(value)) for value in (lambda r: r.own, lambda r: r.share_near))
        of_net = f"(its own loss: {own:.2f}; guessing: {_guessing(net):.2f})"
        shares.append(f"{100 * share:.0f} % for {net.label} {of_net}")
    return PageSection(
        "Loss landscape",
        f"On this share of the grid the loss is less than {NEAR:g} nat above that of the net itself, {deep[0].moment}: "
        f"{', '.join(shares)} ({seeds(deep)}). This is no measure of flatness: the loss changes little around a net "
        "that guesses.",
        "Training loss on 500 images in eval mode along two random directions, in units of the weights' own norm "
        "filter by filter (Li et al. 2018); the net itself is in the middle. Black line: a nat above its own loss. "
        "Nets differ in their own loss, so each is compared with itself. Means over seeds are geometric.",
        {"probe-landscape": _plot(deep)},
    )


def _guessing(net: NetResult[Landscape]) -> float:
    """The loss of a net that gives all classes the same probability."""
    return math.log(net.runs[0].manifest.data.classes)


@styled
def _plot(nets: Sequence[NetResult[Landscape]]) -> Plot:
    logs = [net.mean(lambda r: np.log10(np.maximum(r.loss, LEAST))) for net in nets]
    bottom = min(float(np.nanmin(log)) for log in logs)
    top = max(bottom + 0.1, math.log10(FAR * max(map(_guessing, nets))))
    size = (2.0 + 2.9 * len(nets), 3.9)
    titles = [[net.label for net in nets]]
    plot = Plot(f"Loss around the nets, {nets[0].moment}", "first direction", "second direction", size, titles)
    for axes, net, log in zip(plot.panels[0], nets, logs, strict=True):
        steps, seen = net.records[0].steps, np.ma.masked_invalid(log)
        colours = axes.contourf(
            steps, steps, seen, levels=np.linspace(bottom, top, LEVELS), cmap="YlGn_r", extend="max"
        )
        colours.set_edgecolor("face")  # or SVG shows the page through the seams
        near = math.log10(10 ** log[len(log) // 2][len(log) // 2] + NEAR)
        if near < seen.max():
            axes.contour(steps, steps, seen, levels=[near], colors=["black"], linewidths=1)
        axes.plot([0], [0], "+", color="black")
        axes.set(aspect="equal", xticks=TICKS, yticks=TICKS)
        axes.grid(visible=False)
    bar = plot.figure.colorbar(colours, ax=plot.panels[0], label="loss")
    marks = [digit * 10.0**power for power in range(-6, 6) for digit in (1, 2, 5)]
    shown = [mark for mark in marks if bottom <= math.log10(mark) <= top]
    bar.set_ticks([math.log10(mark) for mark in shown], labels=[f"{mark:g}" for mark in shown])
    return plot
