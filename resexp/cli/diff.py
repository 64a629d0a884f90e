"""``resexp diff``."""

from __future__ import annotations

from typing import Annotated

from rich.table import Table

from resexp.cli.options import RESULTS, AsJson, Results, names, out, print_json, print_table

NAMED = "STUDY, STUDY:NET or STUDY:NET/SEED, or a folder."


def diff(
    a: Annotated[str, names("A")],
    b: Annotated[str, names("B")],
    as_json: AsJson = False,
    results: Results = RESULTS,
) -> None:
    """Show how two studies, nets or runs differ: in configuration, in running training error, and in verdict.

    Nets of studies are matched by name. Differences are B minus A, in points, with a 95 % interval over seeds (Welch).
    p is that of Welch's t test for each row alone, not corrected for the number of rows.
    `resexp report A B` draws two studies in one figure.
    """
    from resexp.report.comparison import compare
    from resexp.runs.names import find_named

    found = compare(find_named(a, results).runs, find_named(b, results).runs)
    if as_json:
        print_json({"a": a, "b": b, **found.to_json()})
        return
    if found.settings:
        _print("configuration", *found.settings_table(a, b))
    else:
        out.print("configuration: no difference")
    header = ["net", a, b, "difference, points", "p"]
    _print("running training error, % (finished seeds)", header, [pair.cells for pair in found.pairs])
    if found.shifts:
        _print("verdicts", *found.shifts_table(a, b))
    if found.shared:
        out.print(found.shared_line(a, b), soft_wrap=True)
    for name, nets in ((a, found.only_a), (b, found.only_b)):
        if nets:
            out.print(f"only in {name}: {', '.join(nets)}", soft_wrap=True)


def _print(title: str, header: list[str], rows: list[list[str]]) -> None:
    table = Table(*header, title=title, title_justify="left")
    for row in rows:
        table.add_row(*row)
    print_table(table)
