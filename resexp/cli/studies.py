"""``resexp list``."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.table import Table

from resexp.cli.options import RESULTS, AsJson, Results, err, out, print_json, print_table
from resexp.errors import UserError, sanitize

if TYPE_CHECKING:
    from resexp.runs.store import StudyFolder


def list_studies(as_json: AsJson = False, results: Results = RESULTS) -> None:
    """List the studies of the package, and those in the results folder with the states of their runs."""
    from resexp.config.study import SHIPPED, find_study, load, shipped_names
    from resexp.config.yaml_file import read
    from resexp.display import state_counts
    from resexp.runs.store import StudyFolder

    shipped: list[dict[str, Any]] = []
    for name in shipped_names():
        raw = read(SHIPPED / f"{name}.yaml", find_study).data
        needs = raw.get("plugins", [])  # their code is not run to list them
        runs = None if needs else len(load(name)[1])
        shipped.append({"study": name, "runs": runs, "description": raw.get("description", ""), "plugins": needs})
    kept = []
    for plan in sorted(results.glob("*/study.json")):
        try:
            kept.append(_kept(StudyFolder(plan.parent)))
        except UserError as error:
            err.print(f"{error}", soft_wrap=True)
    if as_json:
        print_json({"shipped": shipped, "results": kept})
        return
    table = Table("study", "runs", "what it trains", title="shipped", title_justify="left")
    for row in shipped:
        needs = f" Needs --plugin {' '.join(row['plugins'])}." if row["plugins"] else ""
        table.add_row(row["study"], "" if row["runs"] is None else f"{row['runs']:,}", row["description"] + needs)
    table.columns[1].justify = "right"
    print_table(table)
    if not kept:
        out.print(f"{results}: no study here yet; run `resexp sweep STUDY`", soft_wrap=True)
        return
    table = Table("study", "runs", "last change", title=f"{results}", title_justify="left")
    for row in kept:
        changed = datetime.fromisoformat(row["changed"]).astimezone()
        table.add_row(sanitize(row["study"]), state_counts(row["states"]), f"{changed:%Y-%m-%d %H:%M}")
    print_table(table)


def _kept(study: StudyFolder) -> dict[str, Any]:
    """A study of the results folder: the states of its runs, and when one of them last changed, in UTC."""
    runs = study.runs()
    paths = [study.plan_path, *(run.status_path for run in runs)]
    changed = max(path.stat().st_mtime for path in paths if path.exists())
    return {
        "study": study.folder.name,
        "folder": str(study.folder),
        "runs": len(runs),
        "states": dict(Counter(run.status().state for run in runs)),
        "changed": datetime.fromtimestamp(changed, UTC).isoformat(timespec="seconds"),
    }
