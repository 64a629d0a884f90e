"""The runs of a study as a table: one row per run, for pandas, a spreadsheet or R."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from resexp.report.stats import RunRecord, read
from resexp.runs.store import Run, StudyFolder


def runs_table(study: StudyFolder) -> pd.DataFrame:
    """All runs that the study names, begun or not; see `frame`."""
    return frame([(run, read(run, whole=False)) for run in study.runs()])


def frame(rows: Sequence[tuple[Run, RunRecord | None]]) -> pd.DataFrame:
    """One row per run: its net, seed and state, its errors as fractions in [0, 1], `train_seconds`, and every key of
    its configuration, such as ``train.lr``. A run that was not begun has only a net, a seed and a folder."""
    return pd.json_normalize([_row(run, record) for run, record in rows])


def _row(run: Run, record: RunRecord | None) -> dict[str, Any]:
    folder = "/".join(run.folder.parts[-2:])
    if record is None:
        seed = int(run.folder.name.removeprefix("seed"))
        return {"net": run.label, "seed": seed, "state": run.status().state, "folder": folder}
    config = record.config.model_dump(mode="json", exclude={"seed", "probes"})
    more = {"train_seconds": record.seconds, "parameters": record.manifest.parameters, "folder": folder}
    return {**record.to_json(), **more, **config}
