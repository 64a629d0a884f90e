"""A report that dies, or runs out of disk, at whatever it does: the one before it stays whole."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from resexp.report import build_report
from resexp.runs.store import StudyFolder
from resexp.utils.files import write_all
from tests.conftest import fill
from tests.faults.operations import in_a_process, killed_at, operations_of
from tests.test_report import planned

Survived = Callable[..., None]
Files = dict[str, bytes]


def study_with(folder: Path, error: float) -> StudyFolder:
    """A study of two finished runs; with another error, all that a report of it says and shows is another."""
    return planned(folder, {(kind, 8): [100 * error] for kind in ("plain", "residual")}, name=f"study of {error}")


def content(folder: Path) -> Files:
    """What people see of a report."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    seen = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    return {name: data for name, data in seen.items() if not any(part.startswith(".") for part in Path(name).parts)}


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> tuple[StudyFolder, Files, Files]:
    """A study, what its report was, and what its report is to be now."""
    folder = tmp_path_factory.mktemp("reports")
    for name, error in (("old", 0.1), ("new", 0.4)):
        build_report(study_with(folder / "study", error), folder / name)
    old, new = content(folder / "old"), content(folder / "new")
    assert list(old) == list(new)
    assert all(old[name] != new[name] for name in old)
    as_written = sorted(new, key=lambda name: ("/" not in name, name == "index.html"))
    return StudyFolder(folder / "study"), old, {name: new[name] for name in as_written}


def assert_whole(report: Path, old: Files, new: Files) -> None:
    """Every file is the old one or the new one, all are old while the page is, and the page needs no file not there."""
    seen = content(report)
    assert seen.keys() == old.keys()
    assert all(seen[name] in (old[name], new[name]) for name in seen)
    page = seen["index.html"]
    assert page != new["index.html"] or seen == new
    for link in re.findall(r'(?:src|href)="(?!#|data:|https?:)([^"]+)"', page.decode()):
        assert (report / link).exists()


def there_is(report: Path, files: Files) -> None:
    shutil.rmtree(report, ignore_errors=True)
    for name, data in files.items():
        (report / name).parent.mkdir(parents=True, exist_ok=True)
        (report / name).write_bytes(data)


@pytest.mark.parametrize("every", [pytest.param(1, marks=pytest.mark.faults), 31])
def test_a_report_that_dies_at_any_operation_leaves_the_one_before(
    tmp_path: Path, reports: tuple[StudyFolder, Files, Files], every: int, survived: Survived
) -> None:
    study, old, new = reports
    report = tmp_path / "report"
    there_is(report, old)
    operations = operations_of(lambda: build_report(study, report), report, tmp_path / "log")
    there_is(report, old)
    # All is drawn before the first operation, so that need not be done each time.
    assert len(operations) == len(operations_of(lambda: write_all(report, new), report, tmp_path / "log"))
    fatal, unchanged = range(1, len(operations) + 1, every), 0
    for number in fatal:
        there_is(report, old)
        assert killed_at(lambda: write_all(report, new), report, number)
        assert_whole(report, old, new)
        unchanged += content(report) == old
        assert in_a_process(lambda: write_all(report, new)) == 0
        assert content(report) == new
        assert not (report / ".new").exists()
    assert unchanged > len(fatal) / 2  # only its last acts can be seen at all
    survived("SIGKILL at each operation of a report", len(fatal))


def test_a_report_that_finds_the_disk_full_leaves_the_one_before(
    reports: tuple[StudyFolder, Files, Files], small_disk: Path, survived: Survived
) -> None:
    _, old, new = reports
    report, chance, times = small_disk / "report", random.Random(0), 12
    there_is(report, old)
    ballast = fill(small_disk)
    size = ballast.stat().st_size
    for _ in range(times):
        room = chance.randrange(sum(map(len, new.values())))
        with ballast.open("r+b") as file:
            file.truncate(size - room)
        with pytest.raises(OSError, match="No space left on device"):
            write_all(report, new)
        assert content(report) == old
        fill(small_disk)
    ballast.unlink()
    write_all(report, new)
    assert content(report) == new
    survived("full disk under a report", times)
