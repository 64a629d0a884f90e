"""The page in a real browser: on a screen, on a phone, in the dark, on paper, with scripts and without."""

from __future__ import annotations

import json
import re
import urllib.parse
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from resexp import paper
from resexp.config import Cifar10Data, TrainConfig
from resexp.report import build_report
from resexp.report.page import SCRIPT
from resexp.runs.store import StudyFolder
from tests.browser import Browser, needs_chromium
from tests.conftest import wait_until
from tests.test_report import DEGRADES, Errors, add_family, planned

pytestmark = needs_chromium

ORANGE, BLUE = (0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)
PAPER = {"A4": (210, 297), "Letter": (216, 279)}
"""Millimetres."""
MAIN = "#fig-depth-running"
CURVES = "#fig-curves-plain"
TIP = "document.getElementById('tip')"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as started:
        yield started


def reported(folder: StudyFolder) -> Path:
    build_report(folder, folder.folder / "report")
    return (folder.folder / "report/index.html").resolve()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reported(planned(tmp_path_factory.mktemp("shapes"), DEGRADES, "Shapes at 8x8, two depths."))


@pytest.fixture(scope="module")
def the_papers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study that may be compared with the paper."""
    errors: Errors = {("plain", 20): [1.3], ("plain", 56): [6.0], ("residual", 20): [0.8], ("residual", 56): [0.2]}
    options = {"data": Cifar10Data(), "dataset": "cifar10", "train": TrainConfig(log_every=4000)}
    return reported(planned(tmp_path_factory.mktemp("cifar10"), errors, **options))


@pytest.fixture(scope="module")
def varied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study with two variants."""
    folder = planned(tmp_path_factory.mktemp("precisions"), DEGRADES)
    add_family(folder, "precision=bf16", DEGRADES, train={"precision": "bf16"})
    return reported(folder)


def near(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    """How many pixels have nearly this colour."""
    return int((np.abs(picture - colour).sum(axis=2) < 12).sum())


def texts(browser: Browser, selector: str) -> list[str]:
    shown = "filter(n => n.getClientRects().length).map(n => n.textContent.trim())"
    return list(browser.run(f"[...document.querySelectorAll({json.dumps(selector)})].{shown}"))


def visible(browser: Browser, selector: str) -> int:
    return len(texts(browser, selector))


def at(browser: Browser, figure: str, mark: str) -> tuple[float, float]:
    """Where in the window a mark of a figure lies."""
    browser.run(f"document.querySelector('{figure}').scrollIntoView()")
    left, top, right, bottom = browser.box(f"{figure} {mark}")
    return (left + right) / 2, (top + bottom) / 2


def point(browser: Browser, figure: str, tip: str) -> tuple[float, float]:
    return at(browser, figure, f'[data-tip="{tip}"]')


def fragment(browser: Browser) -> str:
    return str(browser.run("location.hash"))


# -- the first screen -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
def test_the_first_screen_has_the_verdict_its_numbers_and_the_whole_figure(
    browser: Browser, page: Path, width: int, height: int
) -> None:
    shown = ("h1", ".verdict", ".numbers", f"{MAIN} .drawing svg", f"{MAIN} figcaption")
    browser.check_first_screen(page, width, height, *shown)
    assert texts(browser, ".numbers b") == ["+50.0 points", "-5.0 points", "+55.0 points"]
    intervals = [list(map(float, re.findall(r"[-+][\d.]+", text))) for text in texts(browser, ".numbers span")]
    assert [low < value < high for value, (low, high) in zip((50, -5, 55), intervals, strict=True)] == [True] * 3
    assert browser.box("#judged")[1] > browser.box(f"{MAIN} .drawing")[3]
    assert visible(browser, f"{MAIN} .drawing text") > 4


def test_a_study_without_a_verdict_has_no_numbers(browser: Browser, tmp_path: Path) -> None:
    browser.open(reported(planned(tmp_path / "study", {("plain", 8): [10.0, 11.0]})))
    assert texts(browser, ".verdict")[0].startswith("No verdict: ")
    assert visible(browser, ".numbers") == 0
    assert visible(browser, f"{MAIN} .s0") > 0
    assert browser.problems() == []


def test_orange_is_plain_and_blue_is_residual(browser: Browser, page: Path) -> None:
    browser.open(page)
    picture = browser.picture()
    assert near(picture, ORANGE) > 500
    assert near(picture, BLUE) > 500
    assert picture[5, 5].tolist() == [255, 255, 255]
    browser.click(f"{MAIN} figcaption label")  # plain
    assert near(browser.picture(), ORANGE) < 150  # its entry in the legend


def test_without_scripts_nothing_is_missing_but_what_needs_them(browser: Browser, page: Path) -> None:
    browser.open(page, scripts=False)
    assert visible(browser, "#filter, figcaption button") == 0
    assert visible(browser, f"{MAIN} .s0") > 0
    browser.click(f"{MAIN} figcaption label")
    assert visible(browser, f"{MAIN} .s0") == 0
    assert visible(browser, f"{MAIN} .s1") > 0
    browser.click("#dark")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(20, 23, 27)"
    assert browser.run(f"document.querySelector('{MAIN} title').textContent").startswith("plain-8")


# -- policy and size --------------------------------------------------------------------------------------------------


def test_the_script_is_small_and_the_only_one_that_may_run(browser: Browser, page: Path) -> None:
    assert len(SCRIPT.encode()) <= 15_000
    browser.open(page)
    assert browser.problems() == []
    assert visible(browser, "#filter") == 1  # it ran
    other = page.with_name("other.html")
    other.write_text(page.read_text().replace("</body>", "<script>document.title = 'evil'</script></body>"))
    browser.open(other)
    assert browser.run("document.title") == "study: training error against depth"
    assert any("Content Security Policy" in problem for problem in browser.problems())


# -- paper, phone, dark -----------------------------------------------------------------------------------------------


def test_in_the_dark_the_page_is_dark_and_its_text_light(browser: Browser, page: Path) -> None:
    browser.media(prefers_color_scheme="dark")
    browser.open(page)
    picture = browser.picture()
    assert picture[5, 5].max() < 40
    assert (picture.min(axis=2) > 200).mean() < 0.05  # no white boxes
    assert (picture.min(axis=2) > 200).sum() > 2000
    browser.click("#light")
    assert browser.picture()[5, 5].tolist() == [255, 255, 255]
    browser.media()


@pytest.mark.parametrize("paper", PAPER)
def test_on_paper_nothing_is_cut(browser: Browser, varied: Path, paper: str) -> None:
    """Within margins of a centimetre, on white even where the reader chose the dark, and with what is folded in."""
    width = int((PAPER[paper][0] - 20) / 25.4 * 96)
    browser.open(varied, "#;colours=dark", width=width)
    browser.media("print")
    assert browser.run("document.documentElement.scrollWidth") <= width
    boxes = "[...document.querySelectorAll('td, th, p, svg')].map(n => n.getBoundingClientRect())"
    ends = f"{boxes}.map(b => [b.left, b.right])"
    assert [end for end in browser.run(ends) if not 0 <= end[0] <= end[1] <= width + 1] == []
    assert browser.picture()[2, 2].tolist() == [255, 255, 255]
    assert visible(browser, "nav, #filter, figcaption button, .save") == 0
    stays = "[...document.querySelectorAll('h2, h2 + p')].filter(n => getComputedStyle(n).breakAfter == 'avoid')"
    titles = browser.run(f"{stays}.map(n => n.nextElementSibling.className || n.nextElementSibling.tagName)")
    assert titles.count("pair") == 2  # the words before figures go with them to the next sheet
    assert "sideways" not in "".join(texts(browser, "body"))
    rows = browser.run("document.querySelector('details:not(.run) td').getBoundingClientRect().height")
    assert rows > 0
    assert len(browser.send("Page.printToPDF")["data"]) > 10_000
    browser.media()


def test_on_a_phone_nothing_is_wider_than_the_screen_and_no_number_is_broken(
    browser: Browser, the_papers: Path
) -> None:
    """Only tables of numbers may scroll, each inside its own box."""
    browser.open(the_papers, width=390, height=844)
    assert browser.run("document.documentElement.scrollWidth") == 390
    script = """(() => {
      const broken = [];
      const walk = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
      while (walk.nextNode()) for (const found of walk.currentNode.data.matchAll(/\\d[\\d,.]*\\d/g)) {
        const range = document.createRange();
        range.setStart(walk.currentNode, found.index);
        range.setEnd(walk.currentNode, found.index + found[0].length);
        const rows = new Set([...range.getClientRects()].map(box => Math.round(box.top)));
        if (rows.size > 1) broken.push(found[0]);
      }
      return broken;
    })()"""
    assert browser.run(script) == []
    assert "64,000" in browser.run("document.querySelector('main').textContent")


def test_on_a_phone_no_word_of_a_figure_is_cut(browser: Browser, varied: Path) -> None:
    """Ticks are larger there, but for names at the left, which have no more room."""
    browser.open(varied, width=390, height=844)
    sizes = "[...document.querySelectorAll('#fig-depth-running .t text')].map(t => getComputedStyle(t).fontSize)"
    assert set(browser.run(sizes)) == {"13px"}
    assert "precision=bf16" in texts(browser, "#fig-controls text")
    script = """[...document.querySelectorAll('.drawing')].flatMap(drawing => {
      const whole = drawing.getBoundingClientRect();
      return [...drawing.querySelectorAll('text')].filter(text => {
        const box = text.getBoundingClientRect();
        return box.left < whole.left || box.right > whole.right;
      }).map(text => text.textContent);
    })"""
    assert browser.run(script) == []


# -- the nearest point ------------------------------------------------------------------------------------------------


def test_the_nearest_point_is_named_under_the_mouse_and_the_finger(browser: Browser, page: Path) -> None:
    """The values are the study's: seeds 58, 60 and 62 %."""
    browser.open(page)
    x, y = point(browser, MAIN, "plain-44, seed 2: 62.00 %")
    browser.move(x + 3, y - 6)
    assert browser.run(f"{TIP}.textContent") == "plain-44, seed 2: 62.00 %"
    browser.move(*point(browser, MAIN, "residual-8: 10.00 ± 1.00 %, n = 3"))
    assert browser.run(f"{TIP}.textContent") == "residual-8: 10.00 ± 1.00 %, n = 3"
    browser.move(1, 1)
    assert browser.run(f"{TIP}.hidden") is True
    browser.tap(*point(browser, MAIN, "plain-44, seed 0: 58.00 %"))
    assert browser.run(f"{TIP}.textContent") == "plain-44, seed 0: 58.00 %"
    left, _, right, _ = browser.box("#tip")
    assert 0 <= left < right <= 1400


def test_a_curve_names_its_net_value_and_step(browser: Browser, the_papers: Path) -> None:
    browser.open(the_papers)
    left, _, right, bottom = browser.box(f'{CURVES} [data-tip="plain-56, training"] path')
    x = left + (right - left) * 7 / 15  # the eighth of 16 steps, from 4,000 to 64,000
    browser.run(f"document.querySelector('{CURVES}').scrollIntoView()")
    _, top, _, bottom = browser.box(f'{CURVES} [data-tip="plain-56, training"] path')
    browser.move(x, (top + bottom) / 2)
    assert browser.run(f"{TIP}.textContent") == "plain-56, training: 6.00 % at step 32,000"


def test_the_same_step_is_marked_in_the_figure_next_to_it(browser: Browser, the_papers: Path, page: Path) -> None:
    """In figures of curves, of the net of the same depth; in figures over depth, of the same run."""
    browser.open(the_papers)
    browser.run(f"document.querySelector('{CURVES}').scrollIntoView()")
    left, top, right, bottom = browser.box(f'{CURVES} [data-tip="plain-56, training"] path')
    browser.move(left + (right - left) * 7 / 15, (top + bottom) / 2)
    other = "#fig-curves-residual"
    assert texts(browser, f"{other} text.ring") == ["residual-56, training: 0.20 % at step 32,000"]
    _, _, at_step, _ = browser.box(f'{other} [data-tip="residual-56, training"] path')
    begin = browser.box(f'{other} [data-tip="residual-56, training"] path')[0]
    ring = browser.box(f"{other} circle.ring")
    assert (ring[0] + ring[2]) / 2 == pytest.approx(begin + (at_step - begin) * 7 / 15, abs=1.5)
    words, drawing = browser.box(f"{other} text.ring"), browser.box(f"{other} .drawing svg")
    assert drawing[0] <= words[0] < words[2] <= drawing[2]
    assert visible(browser, "text.ring") == 1  # no figure over depth has steps
    browser.open(page)
    browser.move(*point(browser, "#fig-depth-clean", "plain-44, seed 2: 62.00 %"))
    assert texts(browser, "#fig-depth-test text.ring") == ["plain-44, seed 2: 67.00 %"]
    browser.move(1, 1)
    assert visible(browser, ".ring") == 0


def test_keys_lead_from_point_to_point(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.run(f"document.querySelector('{MAIN} .drawing svg').focus()")
    browser.press("ArrowRight")
    first = browser.run(f"{TIP}.textContent")
    assert first.startswith("plain-8")
    seen = {first}
    for key in ("ArrowDown",) * 4 + ("ArrowRight",) * 2:
        browser.press(key)
        seen.add(browser.run(f"{TIP}.textContent"))
    assert any(name.startswith("residual-8") or name.startswith("residual-44") for name in seen)
    assert any("-44" in name for name in seen)
    assert browser.run(f"{TIP}.getAttribute('role')") == "status"
    browser.press("Escape")
    assert browser.run(f"{TIP}.hidden") is True


# -- the legend -------------------------------------------------------------------------------------------------------


def test_a_click_hides_a_series_and_a_double_click_shows_it_alone(browser: Browser, page: Path) -> None:
    browser.open(page)
    plain, residual = (f"{MAIN} figcaption label:nth-of-type({number})" for number in (1, 2))
    browser.click(plain)
    assert (visible(browser, f"{MAIN} .s0"), visible(browser, f"{MAIN} .s1") > 0) == (0, True)
    assert visible(browser, "#fig-depth-test .s0") > 0  # another figure's
    assert fragment(browser) == "#;off=fig-depth-running.0"
    x, y = browser.box(f"{MAIN} .drawing")[:2]
    browser.move(x + 100, y + 100)
    assert "plain" not in browser.run(f"{TIP}.textContent")
    browser.click(plain)
    browser.click(residual, times=2)
    assert (visible(browser, f"{MAIN} .s0"), visible(browser, f"{MAIN} .s1") > 0) == (0, True)
    browser.click(residual, times=2)
    assert visible(browser, f"{MAIN} .s0") > 0
    assert fragment(browser) == ""


def test_the_papers_numbers_can_be_hidden(browser: Browser, the_papers: Path) -> None:
    browser.open(the_papers)
    paper = f"{MAIN} .paper, {CURVES} .paper, td.paper, th.paper"
    assert visible(browser, f"{MAIN} .s.paper") == 8  # crosses and bands of plain and residual, 20 and 56
    assert visible(browser, f"{CURVES} .s.paper") > 0
    browser.click("#paper")
    assert visible(browser, paper) == 0
    assert fragment(browser) == "#;paper=0"
    browser.open(the_papers, "#;paper=0")
    assert visible(browser, paper) == 0


def test_the_papers_points_have_the_spread_that_it_shows(browser: Browser, the_papers: Path) -> None:
    """The range of its curve in Fig. 6 from iteration 48,000 on, read from the points of the file."""
    browser.open(the_papers)
    late = [error for step, error in paper.fig6("plain", "basic", 56)["train"] if step >= 48_000]
    assert (min(late), max(late)) == (5.14, 6.77)
    browser.move(*point(browser, MAIN, "plain-56, He et al. 2015: 5.83 % (curve after 48,000: 5.14 to 6.77)"))
    assert browser.run(f"{TIP}.textContent") == "plain-56, He et al. 2015: 5.83 % (curve after 48,000: 5.14 to 6.77)"
    left, top, right, bottom = browser.box(f'{MAIN} [data-tip^="plain-56, He"]')
    ends = f"[...document.querySelectorAll('{MAIN} .s.paper:not([data-tip])')].map(n => n.getBoundingClientRect())"
    bands = browser.run(f"{ends}.map(b => [b.left, b.top, b.right, b.bottom])")
    (band,) = [band for band in bands if abs(band[0] - (left + right) / 2) < 2 and band[1] < top < bottom < band[3]]
    low, high = (
        float(end) for end in browser.run(f"document.querySelector('{MAIN} [data-box]').dataset.y").split()[:2]
    )
    box = browser.box(f"{MAIN} .drawing svg")
    scale = (box[2] - box[0]) / browser.run(f"document.querySelector('{MAIN} .drawing svg').viewBox.baseVal.width")
    corners = [float(c) for c in browser.run(f"document.querySelector('{MAIN} [data-box]').dataset.box").split()]
    points = (band[3] - band[1]) / scale * (high - low) / abs(corners[3] - corners[1])
    assert points == pytest.approx(6.77 - 5.14, abs=0.05)
    assert "they are not a spread over runs" in browser.run("document.body.textContent")


# -- links and state --------------------------------------------------------------------------------------------------


def test_each_section_has_a_link_and_the_contents_name_it(browser: Browser, page: Path) -> None:
    browser.open(page)
    sections = browser.run("[...document.querySelectorAll('h2')].map(h => '#' + h.id)")
    assert browser.run("[...document.querySelectorAll('nav a')].map(a => a.getAttribute('href'))") == sections
    assert browser.run("[...document.querySelectorAll('h2 .here')].map(a => a.getAttribute('href'))") == sections
    assert len(sections) >= 6
    for target in browser.run("[...document.querySelectorAll('a[href^=\"#\"]')].map(a => a.hash.slice(1))"):
        assert browser.run(f"document.getElementById({json.dumps(target)}) !== null"), target
    browser.click("nav li:nth-child(4) a")
    assert fragment(browser) == "#nets"
    assert abs(browser.box("#nets")[1] - 16) < 2


def test_the_url_keeps_what_the_reader_chose(browser: Browser, page: Path) -> None:
    """Another reader who opens it sees the same."""
    browser.open(page)
    browser.click(f"{MAIN} figcaption label")
    browser.click("#dark")
    browser.click("#table-nets th:nth-child(4) button", times=2)
    browser.run("const f = document.getElementById('filter'); f.value = '44'; f.dispatchEvent(new Event('input'))")
    browser.click("nav li:nth-child(4) a")
    wait_until(None, lambda: ";" in fragment(browser))  # the event of a link comes after the click
    chosen = fragment(browser)
    assert chosen == "#nets;off=fig-depth-running.0;colours=dark;sort=3.1;filter=44"
    browser.open(page, chosen)
    assert fragment(browser) == chosen
    assert visible(browser, f"{MAIN} .s0") == 0
    assert browser.picture()[5, 1390].max() < 40
    assert texts(browser, "#table-nets tbody td:first-child") == ["plain-44", "residual-44"]
    assert abs(browser.box("#nets")[1] - 16) < 2


@pytest.mark.parametrize(
    "nonsense", ["#%", "#;off", "#;off=;zoom=a,b;sort=99.1;colours=x", "#nowhere;zoom=x,0,1,0,1,log"]
)
def test_a_url_that_means_nothing_does_no_harm(browser: Browser, page: Path, nonsense: str) -> None:
    browser.open(page, nonsense)
    assert [problem for problem in browser.problems() if "exceptionThrown" in problem or "Error" in problem] == []
    assert visible(browser, f"{MAIN} .s0") > 0
    assert visible(browser, "#table-nets tbody tr") == 4


# -- the table of nets ------------------------------------------------------------------------------------------------


def test_the_table_is_sorted_by_numbers_and_filtered(browser: Browser, page: Path) -> None:
    browser.open(page)
    nets = "#table-nets tbody td:first-child"
    assert texts(browser, nets) == ["plain-8", "plain-44", "residual-8", "residual-44"]
    browser.click("#table-nets th:nth-child(4) button")
    assert texts(browser, nets) == ["residual-44", "plain-8", "residual-8", "plain-44"]
    browser.click("#table-nets th:nth-child(4) button")
    assert texts(browser, nets)[0] == "plain-44"
    assert texts(browser, "#table-nets th[aria-sort=descending]") == ["training error, running"]
    browser.click("#table-nets th:nth-child(2) button")
    assert texts(browser, "#table-nets tbody td:nth-child(2)") == ["8,000", "8,000", "44,000", "44,000"]
    browser.run(
        "const f = document.getElementById('filter'); f.value = 'plain 44'; f.dispatchEvent(new Event('input'))"
    )
    assert texts(browser, nets) == ["plain-44"]


@pytest.mark.parametrize("scripts", [True, False])
def test_a_row_leads_to_the_runs_of_its_net(browser: Browser, page: Path, scripts: bool) -> None:
    browser.open(page, scripts=scripts)
    browser.click(
        "#table-nets tbody tr:nth-child(2) td:nth-child(3)" if scripts else "#table-nets tbody tr:nth-child(2) a"
    )
    assert fragment(browser) == "#net-plain-44"
    assert browser.run("[...document.querySelectorAll('details[open] summary')].map(s => s.textContent)") == [
        "plain-44"
    ]
    assert texts(browser, "#net-plain-44 tbody td:nth-child(2)") == ["58.00", "60.00", "62.00"]
    words = browser.run("document.getElementById('net-plain-44').textContent")
    assert "precision fp32" in words
    assert "curves-plain" in words


@pytest.mark.parametrize("scripts", [True, False])
def test_the_runs_of_a_net_have_their_curves_probes_and_logs(browser: Browser, tmp_path: Path, scripts: bool) -> None:
    study = planned(tmp_path / "study", DEGRADES)
    run = study.runs()[3]
    lines = [f"step {number}" for number in range(1000)]
    run.log_path.write_text("\n".join([*lines, "out of memory <b>", ""]))
    run.probe_folder.mkdir()
    run.probe_path("landscape", 400).write_text("{}")
    browser.open(reported(study), scripts=scripts)
    browser.click("#table-nets tbody tr:nth-child(2) a")
    assert visible(browser, "#net-plain-44 .course path") == 3
    assert near(browser.picture(), (0xB8, 0x4F, 0x00)) > 30  # plain nets' orange for text and thin lines
    words = browser.run("document.getElementById('net-plain-44').textContent")
    assert "probes landscape" in words
    assert "from 0 to 62 %, up to step 400" in words
    assert browser.run("document.querySelector('#net-plain-44 details').open") is False
    browser.click("#net-plain-44 details summary")
    assert texts(browser, "#net-plain-44 pre") == ["\n".join([*lines[-11:], "out of memory <b>"])]
    assert "end of the log of seed 0" in words
    assert browser.run("document.querySelectorAll('pre').length") == 1


def test_a_double_click_on_a_point_leads_to_the_runs_of_its_net(browser: Browser, page: Path) -> None:
    browser.open(page)
    browser.double_click(*point(browser, MAIN, "residual-44, seed 0: 4.00 %"))
    wait_until(None, lambda: fragment(browser) == "#net-residual-44")
    wait_until(None, lambda: visible(browser, "#net-residual-44 table") == 1)


# -- downloads --------------------------------------------------------------------------------------------------------


def links(browser: Browser) -> dict[str, str]:
    """The files inside the page, by name."""
    found = browser.run("[...document.querySelectorAll('a[download]')].map(a => [a.download, a.href])")
    return {name: urllib.parse.unquote(url.partition(",")[2]) for name, url in found}


def test_figures_and_data_can_be_saved_without_scripts(browser: Browser, page: Path, tmp_path: Path) -> None:
    browser.open(page, scripts=False)
    files = links(browser)
    figures = {name.removesuffix(".svg") for name in files if name.endswith(".svg")}
    assert figures == {"depth-running", "depth-clean", "depth-test", "curves-plain", "curves-residual"}
    drawing = ET.fromstring(files["depth-running.svg"])
    words = {node.text for node in drawing.iter("{http://www.w3.org/2000/svg}text")}
    assert {"training error (%)", "plain", "residual"} <= words
    note = "study: Means over seeds; bars: one standard deviation; faint dots: seeds."
    assert note in " ".join(filter(None, (node.text for node in drawing.iter())))
    for name in figures:
        assert ">study: " in files[f"{name}.svg"]
        assert "(%)" in files[f"{name}.svg"]
    assert not any("study: " in text for text in texts(browser, ".drawing text"))  # the page itself has it
    saved = tmp_path / "figure.svg"
    saved.write_text(files["depth-running.svg"])
    (tmp_path / "nets.csv").write_text(files["study-summary.csv"])
    nets = pd.read_csv(tmp_path / "nets.csv").set_index("net")
    assert nets.running_mean.to_dict() == pytest.approx(
        {"plain-8": 0.1, "plain-44": 0.6, "residual-8": 0.1, "residual-44": 0.05}
    )
    (tmp_path / "curves.csv").write_text(files["study-curves.csv"])
    curves = pd.read_csv(tmp_path / "curves.csv")
    assert curves[curves.net == "plain-44"].training_error.tolist() == [0.6] * 4
    assert len(json.loads(files["study-report.json"])["runs"]) == 12
    browser.open(saved, width=700, height=500)
    assert near(browser.picture(), ORANGE) > 300


def test_a_saved_figure_looks_as_matplotlib_drew_it(browser: Browser, page: Path, tmp_path: Path) -> None:
    """A third as large, and the same within what rounding to a tenth of a point can do."""
    browser.open(page, scripts=False)
    for name, small in links(browser).items():
        if name.endswith(".svg"):
            drawn = page.parent / "figures" / name
            assert len(small) < 0.6 * len(drawn.read_text())
            (tmp_path / name).write_text(small)
            pictures = []
            for path in (drawn, tmp_path / name):
                browser.open(path, width=700, height=500)
                pictures.append(browser.picture())
            assert (np.abs(pictures[0] - pictures[1]).max(axis=2) > 100).mean() < 0.001
            assert near(pictures[0], (255, 255, 255)) < 0.97 * 700 * 500


# -- zoom -------------------------------------------------------------------------------------------------------------


def test_dragging_zooms_and_the_axis_can_be_logarithmic(browser: Browser, the_papers: Path) -> None:
    browser.open(the_papers)
    browser.run(f"document.querySelector('{CURVES}').scrollIntoView()")
    whole = texts(browser, f"{CURVES} .t text")
    path = f"document.querySelector('{CURVES} [data-tip=\"plain-56, training\"] path').getAttribute('d')"
    before = browser.run(path)
    left, top, right, bottom = browser.box(f'{CURVES} [data-tip="plain-56, He et al. 2015, train"] path')
    middle = (top + bottom) / 2
    browser.drag(((left + right) / 2, middle - 40), (right - 5, middle + 40))
    low, high, least, most, scale = fragment(browser).partition("zoom=fig-curves-plain,")[2].split(",")
    assert 20_000 < float(low) < float(high) < 64_000
    assert 0 <= float(least) < float(most)
    assert scale == "linear"
    ticks = [float(text.replace(",", "")) for text in texts(browser, f"{CURVES} .grid text")]
    assert all(float(low) <= tick <= float(high) or float(least) <= tick <= float(most) for tick in ticks)
    assert len(ticks) >= 6
    assert texts(browser, f"{CURVES} .t text") == []
    browser.click(f"{CURVES} button")
    assert fragment(browser).endswith(",log")
    chosen = fragment(browser)
    moved = browser.run(path)
    browser.open(the_papers, chosen)
    assert browser.run(path)[:40] == moved[:40] != before[:40]
    browser.click(f"{CURVES} button:nth-of-type(2)")  # reset
    assert browser.run(path) == before
    assert texts(browser, f"{CURVES} .t text") == whole
    assert fragment(browser) == ""


def test_a_variant_keeps_its_kinds_colour(varied: Path) -> None:
    """Shades of orange for plain nets and of blue for residual ones."""
    legend = re.findall(
        r'stroke="(#\w{6})"[^>]*>.*?</svg>([^<]*)</label>', varied.read_text().partition("</figure>")[0]
    )
    for colour, family in legend:
        red, _, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
        assert (red > blue) == family.startswith("plain")
    assert len({colour for colour, _ in legend}) == 4
