"""Figures made small for the page: what they draw stays the same."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resexp.report.figure import Plot, styled
from resexp.report.svg import _path, data_url

Points = list[tuple[float, float]]
coordinates = st.floats(0, 1000, allow_subnormal=False)


def absolute(d: str) -> Points:
    """The points of a path of steps, by the rules of SVG."""
    found: Points = []
    for part in d.split("M")[1:]:
        numbers = [float(number) for number in re.findall(r"-?(?:\d+\.?\d*|\.\d+)", part)]
        x = y = 0.0
        for dx, dy in zip(numbers[::2], numbers[1::2], strict=True):
            x, y = x + dx, y + dy
            found.append((x, y))
    return found


@given(st.lists(st.tuples(coordinates, coordinates), min_size=2, max_size=50), st.sampled_from([1, 2]))
def test_steps_lead_through_every_point(points: Points, digits: int) -> None:
    """However many there are: rounding does not add up."""
    d = " ".join(f"{'L' if i else 'M'} {x:.6f} {y:.6f}" for i, (x, y) in enumerate(points))
    reached = absolute(_path(d, digits))
    assert len(reached) == len(points)
    for (x, y), at in zip(points, reached, strict=True):
        assert at == pytest.approx((x, y), abs=0.6 * 10**-digits)


@pytest.mark.parametrize(
    ("d", "small"),
    [
        ("M 1 2 \nL 3 4 \nL 5 4 \nz\n", "M1 2l2 2 2 0z"),
        ("M 0.5 10 \nL 0.25 9.96 \nM 3 3 \nL 2 2", "M.5 10l-.3 0M3 3l-1-1"),
        ("M 0 3 \nC 0.795609 3 1.55874 2.683901 2.12132 2.12132", "M 0 3 C .8 3 1.6 2.7 2.1 2.1"),
        ("M 5 5 \n", ""),
    ],
)
def test_paths_in_few_letters(d: str, small: str) -> None:
    assert _path(d, 1) == small


def test_a_mark_keeps_its_series_and_its_tip() -> None:
    """And what a name holds is text."""
    plot = styled(Plot)("Errors", "step", "error (%)", (4, 3))
    plot.axes.plot([0, 100], [50, 10], label="a <b>", gid=plot.mark("a <b>", "a <b> & c"))
    plot.axes.plot([0, 100], [40, 20], label="paper", gid=plot.mark("paper", "paper", paper=True))
    plot.legend(2)
    files, shown = plot.files()
    assert files.keys() == {"png", "pdf", "svg"}
    assert (shown.across, shown.unit) == ("step", "%")
    assert [(entry.label, entry.number, entry.paper) for entry in shown.legend] == [
        ("a <b>", 0, False),
        ("paper", 1, True),
    ]
    root = ET.fromstring(shown.svg)
    (first, second) = [node for node in root.iter() if (node.get("class") or "").startswith("s ")]
    assert [(first.findtext("title"), second.findtext("title"))] == [("a <b> & c", "paper")]
    assert first.get("class", "").split()[:2] == ["s", "s0"]
    assert second.get("class", "").split()[:3] == ["s", "s1", "paper"]
    (panel,) = [node for node in root.iter() if node.get("data-box")]
    low, high, scale = panel.get("data-y", "").split()
    assert scale == "linear"
    assert (float(low), float(high)) == pytest.approx(plot.axes.get_ylim())
    x0, y0, x1, y1 = map(float, panel.get("data-box", "").split())
    (x, y), *_ = absolute(next(node for node in first.iter() if node.tag == "path").get("d", ""))
    assert x == pytest.approx(x0 + (0 - plot.axes.get_xlim()[0]) / 110 * (x1 - x0), abs=0.2)
    assert y == pytest.approx(y0 + (50 - float(low)) / (float(high) - float(low)) * (y1 - y0), abs=0.2)


def test_a_link_holds_its_file() -> None:
    assert data_url("text/csv", 'a,"b"\n50 %') == "data:text/csv,a,%22b%22%0A50 %25"
    assert data_url("image/svg+xml", "<g class='s' fill=\"#fff\"/>", "<>'") == (
        "data:image/svg+xml,<g class='s' fill=%22%23fff%22/>"
    )
