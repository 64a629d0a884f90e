"""The page of several studies in a real browser; what it shares with that of one is tested in test_browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from resexp.report import build_comparison
from tests.browser import Browser, needs_chromium
from tests.conftest import wait_until
from tests.test_browser import BLUE, MAIN, ORANGE, PAPER, TIP, fragment, links, near, point, texts, visible
from tests.test_report import DEGRADES
from tests.test_together import MILD, plan

pytestmark = needs_chromium


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of three studies, the last of one seed."""
    results = tmp_path_factory.mktemp("results")
    one = {net: values[:1] for net, values in MILD.items()}
    studies = [plan(results / name, of) for name, of in (("steep", DEGRADES), ("mild", MILD), ("one-seed", one))]
    build_comparison(studies, results / "comparisons/three")
    return results / "comparisons/three/index.html"


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
def test_the_first_screen_has_the_changes_the_numbers_and_the_whole_figure(
    browser: Browser, page: Path, width: int, height: int
) -> None:
    shown = ("h1", ".verdict", ".studies", f"{MAIN} .drawing svg", f"{MAIN} figcaption")
    browser.check_first_screen(page, width, height, *shown)
    assert browser.run("document.documentElement.scrollWidth") == width
    assert texts(browser, ".studies tbody tr:first-child b") == ["+50.0", "-5.0", "+55.0"]
    assert texts(browser, ".studies tbody td:first-child") == ["steep", "mild", "one-seed"]
    assert browser.problems() == []


def test_all_studies_are_in_one_figure_and_each_has_its_own(browser: Browser, page: Path) -> None:
    browser.open(page)
    families = [f"{kind} ({study})" for study in ("steep", "mild", "one-seed") for kind in ("plain", "residual")]
    assert texts(browser, f"{MAIN} figcaption label") == families
    picture = browser.picture()
    assert near(picture, ORANGE) > 500
    assert near(picture, BLUE) > 500
    marks = f"[...document.querySelectorAll('{MAIN} label svg')].map(svg => svg.lastChild.getAttribute('d'))"
    assert len(set(browser.run(marks))) == 3
    fills = f"[...document.querySelectorAll('{MAIN} label svg')].map(svg => svg.getAttribute('fill'))"
    assert browser.run(fills) == ["#d55e00", "#0072b2", "none", "none", "#d55e00", "#0072b2"]
    dashes = f"[...document.querySelectorAll('{MAIN} label path[stroke-dasharray]')]"
    assert set(browser.run(f"{dashes}.map(path => path.getAttribute('stroke-dasharray'))")) == {"none"}
    tops = [browser.box(f"#fig-study-{name}")[1] for name in ("steep", "mild", "one-seed")]
    assert tops[0] == tops[1] == tops[2]
    ends = browser.run(
        "[...document.querySelectorAll('[id^=fig-study] [data-box]')].map(p => p.dataset.y.split(' ')[1])"
    )
    assert len(set(ends)) == 1  # one error axis


def test_a_point_names_its_net_and_study_and_leads_to_the_runs(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.move(*point(browser, MAIN, "plain-44, mild: 30.00 ± 2.00 %, n = 3"))
    assert browser.run(f"{TIP}.textContent").startswith("plain-44, mild")
    browser.double_click(*point(browser, MAIN, "plain-44, steep, seed 0: 58.00 %"))
    wait_until(None, lambda: fragment(browser) == "#net-plain-44")
    wait_until(None, lambda: visible(browser, "#net-plain-44 table") == 3)
    words = browser.run("document.getElementById('net-plain-44').textContent")
    for study in ("plain-44, steep", "plain-44, mild", "plain-44, one-seed"):
        assert study in words


def test_each_section_is_in_the_contents_and_every_link_leads_somewhere(browser: Browser, page: Path) -> None:
    browser.open(page)
    sections = browser.run("[...document.querySelectorAll('h2')].map(h => '#' + h.id)")
    assert browser.run("[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))") == sections
    for target in browser.run("[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.hash.slice(1))"):
        assert browser.run(f"document.getElementById({json.dumps(target)}) !== null"), target


def test_figures_and_numbers_can_be_saved_without_scripts(browser: Browser, page: Path) -> None:
    browser.open(page, scripts=False)
    files = links(browser)
    figures = {name for name in files if name.endswith(".svg")}
    assert {"depth-running.svg", "study-mild.svg", "curves-steep-plain.svg"} <= figures
    found = json.loads(files["steep-mild-one-seed-comparison.json"])
    assert [one["b"] for one in found["comparisons"]] == ["mild", "one-seed"]
    assert files["steep-mild-one-seed-summary.csv"].startswith("study,net,")
    browser.click(f"{MAIN} figcaption label")
    assert visible(browser, f"{MAIN} .s0") == 0


@pytest.mark.parametrize("paper", PAPER)
def test_on_paper_nothing_is_cut(browser: Browser, page: Path, paper: str) -> None:
    width = int((PAPER[paper][0] - 20) / 25.4 * 96)
    browser.open(page, "#;colours=dark", width=width)
    browser.media("print")
    boxes = "[...document.querySelectorAll('td, th, p, svg')].map(n => n.getBoundingClientRect())"
    ends = browser.run(f"{boxes}.map(b => [b.left, b.right])")
    assert [end for end in ends if not 0 <= end[0] <= end[1] <= width + 1] == []
    assert browser.picture()[2, 2].tolist() == [255, 255, 255]
    lefts = [browser.box(f"#fig-study-{name}")[0] for name in ("steep", "mild", "one-seed")]
    assert lefts == sorted(set(lefts))  # three columns
    browser.media()
