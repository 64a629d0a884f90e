"""Estimates time and disk space of a run from finished runs of the same net."""

from __future__ import annotations

import contextlib
import platform
from dataclasses import dataclass
from pathlib import Path

from resexp.config import RunConfig
from resexp.config.study import load_run
from resexp.errors import UserError
from resexp.runs.store import Run


@dataclass(frozen=True)
class Earlier:
    """What an earlier run took."""

    seconds_per_step: float
    """Wall-clock time in its longest attempt, evaluation included."""
    size: int
    """Bytes of its folder."""
    device: str
    """What it was trained on, such as ``NVIDIA H200``."""


def earlier_runs(results: Path) -> dict[str, Earlier]:
    """The newest finished run in the results folder for each net, batch and images, by its `cost_key`.

    Runs on a CPU of another kind than this machine's are left out.
    """
    found: dict[str, Earlier] = {}
    for path in sorted(results.glob("*/*/seed*/status.json"), key=lambda path: path.stat().st_mtime, reverse=True):
        run = Run(path.parent)
        with contextlib.suppress(UserError, OSError):  # a damaged run is no estimate; `resexp report` names the damage
            if run.status().state != "finished" or (key := cost_key(load_run(run.config_path))) in found:
                continue
            if (manifest := run.manifest()) is None:
                continue
            steps, seconds = max((a.steps, a.seconds) for a in manifest.attempts)
            device = manifest.attempts[-1].device
            if steps and seconds > 0 and (not device.endswith(" cpu") or device == f"{platform.machine()} cpu"):
                found[key] = Earlier(seconds / steps, size(run.folder), device)
    return found


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def cost_key(config: RunConfig) -> str:
    """What the time of a step depends on, as a text."""
    model, data, train = config.model.in_signature(), config.data.in_signature(), config.train
    return f"{model} {data} {train.batch_size} {train.precision} {train.device}"
