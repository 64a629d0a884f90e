"""A drawing of nets in the manner of the paper's Fig. 3: a column of boxes a net, shortcuts as curved arrows.

Lengths are inches, and the vertical axis points down, as one reads a net.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, PathPatch
from matplotlib.path import Path as Curve

from resexp.config.nets import NamedNet
from resexp.layer_table import Layer, Part, parts, short
from resexp.report.figure import INK, styled

BOX, HEIGHT = 1.55, 0.21
"""Width and height of a box."""
STEP, BLOCK_STEP = 0.13, 0.32
"""From a box to the next, within a block and where a block begins or ends."""
LEFT, RIGHT = 0.95, 0.7
"""Room left and right of the boxes, for sizes and "x 17"."""
BULGE, LABEL = 0.42, 0.5
"""Distance of a shortcut from the boxes, and width of its label."""
TOP, BOTTOM = 0.75, 0.35
"""Room for the titles, and below the last box."""
LEGEND = 0.3
WHOLE = 40
"""Boxes in a column up to which every block is drawn; in deeper nets, blocks that are alike are drawn once."""
HALVINGS = ("#f6d7c3", "#cfe3f5", "#d9ead3", "#ead7ee", "#fdeab8", "#cdeae6", "#e3e3e3")
"""Colours of convolutions by the size of their output: the image's, a half, a quarter, ..."""
POOL, FC = "#ffffff", "#e9e9e9"
SOFT = "#5d6670"


@styled
def draw(nets: Sequence[tuple[NamedNet, Sequence[Layer]]], *, full: bool = False) -> str:
    """Nets and their layers side by side, as an SVG file with a title and a description; `full` draws every block of
    deep ones."""
    every_block = full or all(len(_boxes(layers)) <= WHOLE for _, layers in nets)
    columns = [parts(layers, every_block=every_block) for _, layers in nets]
    figure = Figure()
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    width = height = 0.0
    for number, ((net, layers), column) in enumerate(zip(nets, columns, strict=True)):
        height = max(height, _Column(axes, number, net, width).draw(layers, column) + BOTTOM)
        width += LEFT + BOX + (BULGE + LABEL + 0.15 if net.config.shortcut else RIGHT)
    if any(net.config.shortcut for net, _ in nets):
        for x, style, text in ((-1.55, "-", "shortcut"), (-0.4, ":", "shortcut, dimensions change")):
            look: dict[str, Any] = {"color": INK, "linewidth": 0.9, "linestyle": style}
            axes.add_line(Line2D([width / 2 + x, width / 2 + x + 0.3], [height, height], **look))
            axes.text(width / 2 + x + 0.38, height, text, fontsize=8, va="center_baseline", color=SOFT)
        height += LEGEND
    figure.set_size_inches(width, height)
    axes.set(xlim=(0, width), ylim=(height, 0))
    title = ", ".join(net.name for net, _ in nets)
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", facecolor="white", metadata={"Date": None, "Title": title})
    described = "".join(f"{_sentence(net, parts)} " for (net, _), parts in zip(nets, columns, strict=True)).strip()
    svg = buffer.getvalue().replace("</title>", f"</title>\n <desc>{escape(described)}</desc>", 1)
    return svg.replace("<svg ", '<svg role="img" ', 1)


def _boxes(layers: Iterable[Layer]) -> list[Layer]:
    """What stands in the column: all but the convolutions of shortcuts."""
    return [layer for layer in layers if not layer.on_shortcut]


def _sentence(net: NamedNet, parts: Sequence[Part]) -> str:
    named = []
    for part in parts:
        words = "; ".join(layer.what for layer in _boxes(part.first))
        named.append(f"{part.blocks} times ({words})" if part.blocks > 1 else words)
    around = ", with a shortcut around each block" if net.config.shortcut else ""
    return f"{net.name}, from the image to the classes{around}: {'; '.join(named)}."


class _Column:
    """One net, drawn from the top down."""

    def __init__(self, axes: Axes, number: int, net: NamedNet, left: float) -> None:
        self.axes, self.number, self.net = axes, number, net
        self.middle = left + LEFT + BOX / 2
        self.y = TOP
        self.output: tuple[int, int, int] = (3, net.size, net.size)

    def draw(self, layers: Sequence[Layer], parts: Sequence[Part]) -> float:
        """Draw all `parts`, and the costs of the `layers`. Returns where the last box ends."""
        parameters = short(sum(layer.parameters for layer in layers))
        costs = f"{parameters} parameters, {short(sum(layer.multiply_adds for layer in layers))} multiply-adds"
        title = min(11.0, 300 / len(self.net.name))  # points: a long name must not reach the next one
        self._text(self.middle, 0.25, self.net.name, fontsize=title, weight="bold")
        self._text(self.middle, 0.45, costs, fontsize=7.5, color=SOFT)
        self._text(self.middle, TOP, "image")
        self._size_label(TOP, self.net.size, self.net.size)
        self.y += HEIGHT / 2
        in_block = False
        for part in parts:
            is_block = part.first[0].block is not None
            step = BLOCK_STEP if is_block or in_block else STEP
            self._part(part, step)
            in_block = is_block
        return self.y

    def _part(self, part: Part, step: float) -> None:
        came_in, above = self.output, self.y
        for number, layer in enumerate(_boxes(part.first)):
            self._box(layer, step if number == 0 else STEP)
        block, right = part.first[0].block, self.middle + BOX / 2
        if block is not None and self.net.config.shortcut:
            # A shortcut begins below the end of the one before it, and the frame of "x 17" is between the two.
            begin, end = above + 0.7 * step, self.y + 0.3 * BLOCK_STEP
            self._shortcut(begin, end, ":" if came_in != self.output else "-", f"shortcut-{self.number}-{block}")
            right += BULGE
            for layer in part.first:
                if layer.on_shortcut:
                    words = layer.what.replace(", ", "\n", 1)
                    self._text(right + 0.06, (begin + end) / 2, words, ha="left", va="center", fontsize=7, color=SOFT)
                    right += LABEL
        if part.blocks > 1:
            top, bottom, left = above + 0.5 * step, self.y + 0.5 * BLOCK_STEP, self.middle - BOX / 2 - 0.08
            look: dict[str, Any] = {"facecolor": "none", "edgecolor": SOFT, "linewidth": 0.7, "linestyle": (0, (4, 3))}
            self._frame(left, top, right + 0.08, bottom, 0.08, **look)
            self._text(left - 0.1, (top + bottom) / 2, f"x {part.blocks}", ha="right", fontsize=10, weight="bold")

    def _box(self, layer: Layer, step: float) -> None:
        top = self.y + step
        self._arrow((self.middle, self.y), (self.middle, top))
        if layer.kind == "conv":
            halvings = round(math.log2(self.net.size / layer.output[1]))
            colour = HALVINGS[min(halvings, len(HALVINGS) - 1)]
        else:
            colour = POOL if layer.kind == "pool" else FC
        self._frame(
            self.middle - BOX / 2, top, self.middle + BOX / 2, top + HEIGHT, 0.04,
            facecolor=colour, edgecolor=INK, linewidth=0.7, gid=f"box-{self.number}-{layer.name}",
        )  # fmt: skip
        middle = top + HEIGHT / 2
        self._text(self.middle, middle, layer.what)
        if layer.output[1:] != self.output[1:] and layer.kind != "fc":
            self._size_label(middle, *layer.output[1:])
        self.output, self.y = layer.output, top + HEIGHT

    def _size_label(self, y: float, height: int, width: int) -> None:
        self._text(self.middle - BOX / 2 - 0.18, y, f"{height}x{width}", ha="right", fontsize=7.5, color=SOFT)

    def _shortcut(self, begin: float, end: float, style: str, name: str) -> None:
        """From between two boxes, around the right of those of a block, back to between two boxes."""
        edge = self.middle + BOX / 2
        beyond = edge + BULGE / 0.75  # a cubic curve reaches three quarters of the way to its control points
        way = [(self.middle, begin), (edge, begin), (beyond, begin), (beyond, end), (edge, end), (self.middle, end)]
        codes = [Curve.MOVETO, Curve.LINETO, Curve.CURVE4, Curve.CURVE4, Curve.CURVE4, Curve.LINETO]
        look: dict[str, Any] = {"facecolor": "none", "edgecolor": INK, "linewidth": 0.9, "linestyle": style}
        self.axes.add_patch(PathPatch(Curve(way, codes), gid=name, **look))
        self._arrow((self.middle + 0.08, end), (self.middle, end))

    def _frame(self, left: float, top: float, right: float, bottom: float, rounding: float, **look: Any) -> None:
        shape = f"round,pad=0,rounding_size={rounding}"
        self.axes.add_patch(FancyBboxPatch((left, top), right - left, bottom - top, boxstyle=shape, **look))

    def _arrow(self, begin: tuple[float, float], end: tuple[float, float]) -> None:
        look: dict[str, Any] = {"color": INK, "linewidth": 0.9, "shrinkA": 0, "shrinkB": 0, "mutation_scale": 1}
        self.axes.add_patch(FancyArrowPatch(begin, end, arrowstyle="-|>,head_length=2.6,head_width=1.4", **look))

    def _text(self, x: float, y: float, text: str, **look: Any) -> None:
        self.axes.text(x, y, text, **{"ha": "center", "va": "center_baseline", "fontsize": 8.5, **look})
