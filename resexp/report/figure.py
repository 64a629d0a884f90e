"""A figure of the report: its style, its colours, and how it gets into files and onto the page.

Orange is plain and blue is residual, from Okabe and Ito, and nothing else is. Depth has a scale of its own. Markers
repeat what colour says, for people with any colour vision.
"""

from __future__ import annotations

import io
import re
import textwrap
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.artist import Artist, getp
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike

from resexp.report.svg import Compact, data_url

INK = "#1b1f24"
"""Text and axes. On the page it becomes the page's own text colour, light or dark."""
KINDS = {
    "plain": ("#D55E00", "#F2A265", "#A8551E"),
    "residual": ("#0072B2", "#63B3E4", "#2E5E8C"),
    "preact": ("#009E73",),
    "vgg": ("#8A7A00",),
}
"""Colours of the families of each kind, the first for the one that is judged."""
NEUTRAL = ("#009E73", "#8A7A00")
"""Colours of what is neither a kind of net nor a depth."""
DEPTHS = LinearSegmentedColormap.from_list("depths", ["#E087BA", "#BA4A9A", "#7E3A92"])
"""From shallow to deep."""
MARKERS = ("o", "s", "^", "D", "v", "P", "<")
LEGEND = 0.8
"""Height in inches of a legend that the size of a figure allows for."""
LETTERS = 9
"""Letters in an inch of a panel's title."""
LINE = 12.0
"""Points between the names of two lines."""
NOTE_LETTERS, NOTE_LINE = 17, 0.14
"""Letters in an inch of a line below a saved figure, and its height in inches."""

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "resexp",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 11,
    "text.color": INK,
    "axes.facecolor": "none",
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 12,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#808080",
    "grid.alpha": 0.25,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
}


# The backend, if it were set, would stay changed.
_defaults: dict[Any, Any] = {key: value for key, value in mpl.rcParamsDefault.items() if key != "backend"}
styled = mpl.rc_context({**_defaults, **_STYLE})
"""For a function that draws."""

_MARKERS = {
    "o": "M-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
    "s": "M-3-3h6v6h-6z",
    "^": "M0-4l4 7h-8z",
    "v": "M0 4l4-7h-8z",
    "<": "M-4 0l7-4v8z",
    "D": "M0-4l4 4-4 4-4-4z",
    "P": "M-1.5-4h3v2.5h2.5v3h-2.5v2.5h-3v-2.5h-2.5v-3h2.5z",
    "x": "M-3-3l6 6m0-6l-6 6",
}
"""Matplotlib's markers as paths, for the legends of the page."""
_DASHES = {"-": "none", "--": "5 3"}
"""The same for its lines."""


@dataclass(frozen=True)
class LegendEntry:
    """An entry of a legend on the page."""

    label: str
    number: int
    """That of its series: what is drawn of it has the class ``s3``."""
    paper: bool
    """Whether it holds numbers of the paper."""
    swatch: str
    """Its line and its marker, as SVG."""


@dataclass(frozen=True)
class OnPage:
    """A figure as the page shows it."""

    svg: str
    """Without the legend, in the page's colours and font."""
    link: str
    """A data: URL of the whole figure on white."""
    legend: list[LegendEntry]
    across: str
    """What the x axis shows, such as ``step``."""
    unit: str
    """That of the y axis: ``%`` or empty."""
    zooms: bool
    """Whether a reader can zoom in."""


class Plot:
    """A figure, the tooltips of its points and the series that they belong to."""

    def __init__(
        self,
        title: str,
        xlabel: str,
        ylabel: str,
        size: tuple[float, float],
        panels: Sequence[Sequence[str]] = (("",),),
    ) -> None:
        """`panels` are the titles of the panels, row by row; they share both axes."""
        self.figure = Figure(figsize=size, layout="constrained")
        grid = self.figure.subplots(len(panels), len(panels[0]), sharex=True, sharey=True, squeeze=False)
        self.panels: list[list[Axes]] = [list(row) for row in grid]
        self.axes = self.panels[0][0]
        for row, titles in zip(self.panels, panels, strict=True):
            row[0].set_ylabel(ylabel)
            for axes, name in zip(row, titles, strict=True):
                axes.set_title(textwrap.fill(name, int(LETTERS * size[0] / len(titles))), fontsize="medium")
        for axes in self.panels[-1]:
            axes.set_xlabel(xlabel)
        if grid.size == 1:
            whole = textwrap.fill(": ".join(filter(None, (title, panels[0][0]))), int(LETTERS * size[0]))
            self.axes.set_title(whole, parse_math=False)
        else:
            self.figure.suptitle(title, x=0.01, ha="left", fontsize=12)
        self.prefix = "f"
        """Begins the ids of its SVG, which no other figure of a page may share."""
        self.note = ""
        """What a saved figure says below itself: its study, what is drawn, and how."""
        self.zooms = False
        """Whether the page lets a reader zoom in."""
        self.dpi = 150
        """Pixels per inch of its PNG."""
        self.series: dict[str, bool] = {}
        """Whether they are the paper's, by their names in legends; the page can hide each."""
        self.marks: dict[str, tuple[str, str]] = {}
        """Class and tooltip of artists, by their ids."""

    def mark(self, series: str, tip: str = "", paper: bool = False, part: str = "s") -> str:
        """An id for an artist that belongs to a `series` and whose tooltip is `tip`.

        On the page its class is `part`: ``s``, or ``end`` for what is hidden where a reader zooms in.
        """
        self.series.setdefault(series, paper)
        name = f"mark{len(self.marks)}"
        self.marks[name] = f"{part} s{list(self.series).index(series)}" + " paper" * paper, tip
        return name

    def line(
        self,
        x: ArrayLike,
        y: ArrayLike,
        series: str,
        tip: str = "",
        *,
        axes: Axes | None = None,
        paper: bool = False,
        **look: Any,
    ) -> None:
        """Draw a line, or points, of a `series`, in the first panel unless `axes` names another; see `mark`."""
        (axes or self.axes).plot(x, y, gid=self.mark(series, tip, paper), **look)

    def errorbar(self, x: ArrayLike, y: ArrayLike, series: str, **look: Any) -> None:
        """Draw the means of a `series` with bars, in the first panel."""
        for artist in self.axes.errorbar(x, y, label=series, **look).get_children():
            artist.set_gid(self.mark(series))

    def legend(self, columns: int, fontsize: str = "medium", *, grows: bool = True, **look: Any) -> None:
        """Add the legend below the panels, in fewer columns where it would be wider than the figure.

        If the figure `grows`, a high legend leaves the panels their room.
        """
        for number in range(columns, 0, -1):
            legend = self.figure.legend(loc="outside lower center", ncols=number, fontsize=fontsize, **look)
            box = legend.get_window_extent()
            if number == 1 or box.width <= self.figure.bbox.width:
                break
            legend.remove()
        width, height = self.figure.get_size_inches()
        self.figure.set_size_inches(width, height + grows * max(0.0, box.height / self.figure.dpi - LEGEND))

    def rows(self, names: Sequence[str]) -> None:
        """Name the rows of the y axis, the first at the top."""
        self.axes.set_yticks(range(len(names)), names)
        self.axes.set_ylim(len(names) - 0.5, -0.5)
        self.axes.grid(visible=False, axis="y")

    def label_ends(self, ends: Iterable[tuple[float, float, str, str, str]]) -> None:
        """Name lines where they end, given x, y, words, colour and series; names that would overlap are moved apart."""
        self.lay_out()
        transform, dots = self.axes.transData, self.figure.dpi / 72
        low, high = self.axes.bbox.y0 + LINE * dots / 2, self.axes.bbox.y1  # clear of the x axis
        placed, least = [], low - LINE * dots
        for end in sorted(ends, key=lambda end: end[1]):
            wanted = min(max(float(transform.transform(end[:2])[1]), low), high)
            least = max(wanted, least + LINE * dots)
            placed.append((end, least))
        over = max((place for _, place in placed), default=high) - high
        look: dict[str, Any] = {"va": "center", "fontsize": "small", "annotation_clip": False}
        for (x, y, words, colour, series), place in placed:
            offset = (place - max(0.0, over) - float(transform.transform((x, y))[1])) / dots
            gid = self.mark(series, part="end")
            self.axes.annotate(words, (x, y), (9, offset), textcoords="offset points", color=colour, gid=gid, **look)

    @styled
    def files(self) -> tuple[dict[str, bytes], OnPage]:
        """The figure on white as a PNG, an SVG and a PDF file, and as the page shows it."""
        for number, axes in enumerate(self.figure.axes):
            axes.set_gid(f"panel{number}")
        area = self._with_note()
        found = {}
        look: dict[str, Any] = {"dpi": self.dpi, "bbox_inches": area, "facecolor": "white"}
        for kind, metadata in {"png": {}, "pdf": {"CreationDate": None}, "svg": {"Date": None}}.items():
            buffer = io.BytesIO()
            self.figure.savefig(buffer, format=kind, metadata=metadata, **look)
            found[kind] = buffer.getvalue()
        points = 72 / self.figure.dpi
        legends = [legend.get_window_extent().y1 * points for legend in self.figure.legends]
        cut = max(legends, default=0.0) - 72 * area.y0
        whole = data_url("image/svg+xml", Compact("a", INK, 1).file(found["svg"]), "<>'")
        panels = {str(axes.get_gid()): self._scales(axes) for axes in self.figure.axes}
        svg = Compact(self.prefix, INK, 2 if self.zooms else 1, self.marks, panels).inline(found["svg"], cut)
        across = re.split(r" \(|, ", self.panels[-1][0].get_xlabel())[0]
        unit = "%" if "(%)" in self.axes.get_ylabel() else ""
        return found, OnPage(svg, whole, self._entries(), across, unit, self.zooms)

    def lay_out(self) -> None:
        """Give the panels their places."""
        engine = self.figure.get_layout_engine()
        assert engine
        engine.execute(self.figure)

    def _with_note(self) -> Bbox:
        """Write the note below the figure, whose layout is final now. Returns what is to be saved, in inches."""
        self.lay_out()
        self.figure.set_layout_engine(None)  # or each file would be laid out again
        for legend in self.figure.legends:  # or it would move down to the end of the note
            legend.set_bbox_to_anchor((0, 0, 1, 1), self.figure.transSubfigure)
        width, height = self.figure.get_size_inches()
        lines = textwrap.wrap(self.note, int(NOTE_LETTERS * width))
        look: dict[str, Any] = {"va": "top", "fontsize": "x-small", "in_layout": False, "gid": "note"}
        self.figure.text(0.01, 0, "\n".join(lines), **look)
        return Bbox([[0, -NOTE_LINE * (len(lines) + 0.5 * bool(lines))], [width, height]])

    def _scales(self, axes: Axes) -> dict[str, str]:
        """Where a panel lies in its SVG and what its axes show, as attributes for the page's script."""
        points, height = 72 / self.figure.dpi, self.figure.get_size_inches()[1] * 72
        box = axes.get_window_extent()
        corners = (box.x0 * points, height - box.y0 * points, box.x1 * points, height - box.y1 * points)
        ends = {f"data-{n}": "{:.8g} {:.8g} {}".format(*getp(axes, f"{n}lim"), getp(axes, f"{n}scale")) for n in "xy"}
        return {"data-box": " ".join(f"{corner:.2f}" for corner in corners), **ends}

    def _entries(self) -> list[LegendEntry]:
        lines: dict[str, Artist] = {}
        for axes in self.figure.axes:
            for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
                lines.setdefault(label, getattr(handle, "lines", [handle])[0])
        series = enumerate(self.series.items())
        return [LegendEntry(name, n, paper, _swatch(lines[name])) for n, (name, paper) in series if name in lines]


def _swatch(line: Artist) -> str:
    """A line of a figure as a legend of the page shows it."""
    stroke, fill = (
        "currentColor" if colour == INK else "none" if colour == "none" else to_hex(colour)
        for colour in (getp(line, "color"), getp(line, "markerfacecolor"))
    )
    parts = ""
    if dashes := _DASHES.get(getp(line, "linestyle")):
        width = float(getp(line, "linewidth"))
        parts += f'<path d="M-13 0h26" fill="none" stroke-width="{width}" stroke-dasharray="{dashes}"/>'
    if marker := _MARKERS.get(str(getp(line, "marker"))):
        parts += f'<path d="{marker}"/>'
    return f'<svg viewBox="-14 -6 28 12" stroke="{stroke}" fill="{fill}">{parts}</svg>'


def family_looks(families: Iterable[str]) -> dict[str, dict[str, Any]]:
    """Colour and marker of each family, such as ``residual B``: a shade of its kind's. 21 families of a kind differ."""
    shades = defaultdict(lambda: cycle(NEUTRAL), {kind: cycle(colours) for kind, colours in KINDS.items()})
    return {
        family: {"color": next(shades[family.partition(" ")[0]]), "marker": marker}
        for family, marker in zip(dict.fromkeys(families), cycle(MARKERS), strict=False)
    }


def depth_colours(number: int) -> list[str]:
    """A colour for each net, shallow to deep."""
    return [to_hex(DEPTHS(i / max(1, number - 1))) for i in range(number)]


def tints(colour: str, number: int) -> list[str]:
    """Shades of a colour, from half as strong to itself: for the depths of one family."""
    full = np.array(to_rgb(colour))
    return [to_hex(tuple((1 - strength * (1 - full)).tolist())) for strength in np.linspace(1, 0.5, number)[::-1]]
