"""The table of figures that the suite ends with: what was tried, what was survived, what was lost."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import pytest

FAULTS = "faults"


@pytest.fixture
def survived(record_property: Callable[[str, object], None]) -> Callable[[str, int], None]:
    """Count `times` that a kind of fault was tried and nothing was lost; say so after the last assertion about it."""

    def count(fault: str, times: int = 1) -> None:
        record_property(FAULTS, (fault, times))

    return count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    tried: dict[str, int] = defaultdict(int)
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if report.when == "call" and name == FAULTS:
                fault, times = value  # type: ignore[misc]
                tried[fault] += times
    if not tried:
        return
    failed = len(terminalreporter.getreports("failed")) + len(terminalreporter.getreports("error"))
    kills = sum(times for fault, times in tried.items() if "SIGKILL" in fault)
    width = max(map(len, tried))
    terminalreporter.section("faults")
    terminalreporter.line(f"{'fault':{width}}  tried and survived")
    for fault, times in sorted(tried.items()):
        terminalreporter.line(f"{fault:{width}}  {times:18,}")
    lost = f"{failed} tests failed: see what was lost above" if failed else "nothing was lost"
    terminalreporter.line(f"{sum(tried.values()):,} faults, {kills:,} of them kills; {lost}")
