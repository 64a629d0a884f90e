"""How the agreement of neighbours' gradients falls with depth, compared with the laws of Balduzzi et al. 2017.

At initialisation, the correlation between the gradients at two inputs goes as 2^-L in plain nets of L layers and as
L^-0.5 in residual nets with BN (arXiv 1702.08591, theorems 1 and 3).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import optimize

from resexp.report.estimates import CONFIDENCE, Difference, t_critical
from resexp.report.figure import Plot, family_looks, styled
from resexp.report.formatting import digits
from resexp.report.plots import depth_axis
from resexp.report.stats import grouped
from resexp.utils.text import listed

Points = Sequence[tuple[int, float]]
"""Depth and agreement, for each seed of each net."""


@dataclass(frozen=True)
class Law:
    """How the agreement goes with depth, up to a factor."""

    theory: float
    """The exponent of Balduzzi et al."""
    published: str
    """Their law."""
    words: str
    """With a place for the exponent."""
    shape: Callable[[Any, int, float], Any]
    """From depths, the shallowest of them and the exponent; 1 at the shallowest."""


LAWS = {
    "plain": Law(-1.0, "2^-L", "2^({} L)", lambda depth, first, exponent: 2.0 ** (exponent * (depth - first))),
    "residual": Law(-0.5, "L^-0.5", "L^({})", lambda depth, first, exponent: (depth / first) ** exponent),
}


@dataclass(frozen=True)
class Fit:
    """A law fitted to nets of one kind that differ in depth."""

    law: Law
    exponent: Difference
    curve: Callable[[NDArray[np.float64], float], NDArray[np.float64]]
    """The agreement by depth for an exponent."""

    def __str__(self) -> str:
        exponent = f"{self.exponent.value:.2f} [{self.exponent.low:.2f}, {self.exponent.high:.2f}]"
        return self.law.words.format(exponent)


def fit(family: str, points: Points) -> Fit | None:
    """The law of the family's kind by least squares, with the interval of its exponent by Student's t.

    The noise of an agreement does not depend on its size, so agreements are fitted rather than their logarithms. None
    for fewer than three depths, and where the shallowest net's agreement does not differ from zero.
    """
    law = LAWS.get(family.partition(" ")[0])
    known = [(depth, agreement) for depth, agreement in points if math.isfinite(agreement)]
    if law is None or len({depth for depth, _ in known}) < 3:
        return None
    depths, agreements = (np.array(values, dtype=float) for values in zip(*known, strict=True))
    first = int(depths.min())
    start = float(agreements[depths == first].mean())

    def curve(depth: Any, scale: float, exponent: float) -> Any:
        return scale * law.shape(depth, first, exponent)

    with np.errstate(all="ignore"), warnings.catch_warnings():  # what is not finite is checked below
        warnings.simplefilter("ignore", optimize.OptimizeWarning)
        try:
            (scale, exponent), covariance = optimize.curve_fit(curve, depths, agreements, p0=(start, law.theory / 4))
        except RuntimeError:  # it does not converge
            return None
    of_scale, of_exponent = t_critical(len(known) - 2, CONFIDENCE) * np.sqrt(np.diag(covariance))
    if not (math.isfinite(of_exponent) and scale > of_scale):
        return None
    interval = Difference(float(exponent), float(exponent - of_exponent), float(exponent + of_exponent))
    return Fit(law, interval, lambda depth, exponent: curve(depth, float(scale), exponent))


def sentence(laws: Mapping[str, Fit], distance: float) -> str:
    """The fitted laws of families and the theory."""
    exponents = listed([f"{law} in {family} nets (theory: {law.law.published})" for family, law in laws.items()])
    noise = f"With noise of {100 * distance:g} %"
    return f"{noise} the cosine falls with depth L as {exponents}; the theory is for distant inputs."


@styled
def against_depth(families: Mapping[str, Points], laws: Mapping[str, Fit], distance: float) -> Plot:
    """Agreement against depth for each family, with its law as it is fitted and as theory has it."""
    title = f"Agreement of gradients with {100 * distance:g} % of noise"
    plot = Plot(title, "depth (layers)", "cosine", (8.0, 4.6))
    for family, look in family_looks(families).items():
        by_depth = grouped(families[family], lambda point: point[0])
        means = {depth: float(np.mean([agreement for _, agreement in by_depth[depth]])) for depth in sorted(by_depth)}
        tip = ", ".join(f"{digits(mean)} at depth {depth}" for depth, mean in means.items())
        fitted = laws.get(family)
        line = "none" if fitted else "-"
        plot.line(list(means), list(means.values()), family, f"{family}: {tip}", label=family, linestyle=line, **look)
        if fitted:
            x = np.linspace(min(means), max(means), 100)
            for exponent, width, label in (
                (fitted.exponent.value, 1.5, f"{family}, fitted: {fitted}"),
                (fitted.law.theory, 0.6, f"{family}, theory: {fitted.law.published}"),
            ):
                plot.line(x, fitted.curve(x, exponent), label, label, label=label, linewidth=width, color=look["color"])
    plot.legend(2, "small")
    depth_axis(plot, sorted({depth for points in families.values() for depth, _ in points}))
    return plot
