"""The page in a real browser: what a person sees on a screen and on a phone, in the light and in the dark."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from resexp.report import build_report
from resexp.runs.store import StudyFolder
from tests.test_report import DEGRADES, study

__all__ = ["study"]

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")]


def chromium(tmp_path: Path, *arguments: str) -> str:
    """Run chromium headless and offline, and return what it prints."""
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    own = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", f"--user-data-dir={tmp_path / 'profile'}"]
    command = [str(CHROMIUM), *own, *quiet, "--hide-scrollbars", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout


def picture(tmp_path: Path, page: Path, width: int, *arguments: str) -> np.ndarray:
    target = tmp_path / "page.png"
    chromium(tmp_path, f"--window-size={width},1600", f"--screenshot={target}", *arguments, page.as_uri())
    with Image.open(target) as image:
        return np.asarray(image.convert("RGB")).astype(int)


@pytest.fixture
def page(study: Callable[..., StudyFolder]) -> Path:
    folder = study(DEGRADES)
    build_report(folder, folder.folder / "report")
    return (folder.folder / "report/index.html").resolve()


def test_the_page_shows_its_figures_in_both_families_colours(page: Path, tmp_path: Path) -> None:
    seen = picture(tmp_path, page, 1100)
    for colour in ((0xD5, 0x5E, 0x00), (0x00, 0x72, 0xB2)):
        assert (np.abs(seen - colour).sum(axis=2) < 12).sum() > 500
    assert seen[5, 5].tolist() == [255, 255, 255]


def test_in_the_dark_the_page_is_dark_and_its_text_light(page: Path, tmp_path: Path) -> None:
    seen = picture(tmp_path, page, 1100, "--blink-settings=preferredColorScheme=0")
    assert seen[5, 5].max() < 40
    assert (seen.min(axis=2) > 200).mean() < 0.05  # no white boxes
    assert (seen.min(axis=2) > 200).sum() > 2000


def test_on_a_phone_nothing_is_wider_than_the_screen(page: Path, tmp_path: Path) -> None:
    """The page measures itself; only tables may scroll, each inside its own box."""
    probe = "<script>document.title = 'width ' + document.documentElement.scrollWidth + ' of ' + innerWidth</script>"
    measured = page.with_name("probe.html")
    ours = re.sub(r"<meta http-equiv=\"Content-Security-Policy\"[^>]*>", "", page.read_text())  # it forbids the probe
    measured.write_text(ours.replace("</body>", f"{probe}</body>"))
    dom = chromium(tmp_path, "--window-size=500,900", "--dump-dom", measured.as_uri())
    found = re.search(r"width (\d+) of (\d+)", dom)
    assert found is not None
    assert int(found[1]) <= int(found[2])
