"""``resexp diff``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from resexp.cli.options import RESULTS, AsJson, Results, out, print_json, print_table

if TYPE_CHECKING:
    from resexp.report.comparison import Pair
    from resexp.report.estimates import Difference

NAMED = "STUDY, STUDY:NET or STUDY:NET/SEED, or a folder."


def diff(
    a: Annotated[str, typer.Argument(metavar="A", help=NAMED)],
    b: Annotated[str, typer.Argument(metavar="B", help=NAMED)],
    as_json: AsJson = False,
    results: Results = RESULTS,
) -> None:
    """Show how two studies, nets or runs differ: in configuration, in running training error, and in verdict.

    Nets of studies are matched by name. Differences are B minus A, in points, with a 95 % interval over seeds (Welch).
    p is that of Welch's t test for each row alone, not corrected for their number.
    `resexp report A B` draws two studies in one figure.
    """
    from resexp.report.comparison import compare
    from resexp.runs.names import find

    found = compare(find(a, results).runs, find(b, results).runs)
    if as_json:
        print_json({"a": a, "b": b, **found.to_json()})
        return
    if found.settings:
        table = Table("key", a, b, "nets", title="configuration", title_justify="left")
        for setting in found.settings:
            of = "all" if len(setting.nets) == len(found.pairs) else ", ".join(setting.nets)
            table.add_row(setting.key, _shown(setting.a), _shown(setting.b), of)
        print_table(table)
    else:
        out.print("configuration: no difference")
    table = Table(
        "net", a, b, "difference, points", "p", title="running training error, % (finished seeds)", title_justify="left"
    )
    for pair in found.pairs:
        table.add_row(*_cells(pair))
    print_table(table)
    if found.shifts:
        table = Table("verdict, points", a, b, "change, points", "p", title="verdicts", title_justify="left")
        for shift in found.shifts:
            where = f"{shift.words},\n{shift.at}"
            table.add_row(where, f"{shift.a.value:+.2f}", f"{shift.b.value:+.2f}", _points(shift.change), _p(shift.p))
        print_table(table)
    for name, nets in ((a, found.only_a), (b, found.only_b)):
        if nets:
            out.print(f"only in {name}: {', '.join(nets)}", soft_wrap=True)


def _cells(pair: Pair) -> list[str]:
    same = pair.a.label == pair.b.label
    errors = [
        f"{side.error} ({len(side.error.values)})" if side.error else "none finished" for side in (pair.a, pair.b)
    ]
    points = _points(pair.difference) if pair.difference else ""
    return [pair.a.label if same else f"{pair.a.label}, {pair.b.label}", *errors, points, _p(pair.p)]


def _points(found: Difference) -> str:
    return f"{found.value:+.2f}" + ("" if found.low is None else f" [{found.low:+.2f}, {found.high:+.2f}]")


def _p(p: float | None) -> str:
    return "" if p is None else f"{p:.3f}" if p >= 0.001 else "< 0.001"


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
