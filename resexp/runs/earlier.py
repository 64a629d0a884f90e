"""What runs of the same net took before, as an estimate for a run that is still to be trained."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from resexp.config import RunConfig
from resexp.config.study import load_run
from resexp.errors import UserError
from resexp.runs.records import Manifest
from resexp.runs.store import Run


@dataclass(frozen=True)
class Earlier:
    """What an earlier run took."""

    seconds_per_step: float
    """Wall-clock time, evaluation included."""
    size: int
    """Bytes of its folder."""
    device: str
    """What it was trained on, such as ``NVIDIA H200``."""


def find_earlier(config: RunConfig, results: Path) -> Earlier | None:
    """The newest finished run in the results folder with the same net, batch and images; None where there is none.

    A run on a CPU of another kind than this machine's does not count.
    """
    folders = results.glob(f"*/{config.model.kind}-{config.model.depth}-*/seed*/status.json")
    for path in sorted(folders, key=lambda path: path.stat().st_mtime, reverse=True):
        run = Run(path.parent)
        try:
            manifest = run.manifest()
            if manifest is None or run.status().state != "finished" or what(load_run(run.config_path)) != what(config):
                continue
            device, seconds = manifest.attempts[-1].device, _seconds_per_step(manifest)
            if seconds is not None and (not device.endswith(" cpu") or device == f"{platform.machine()} cpu"):
                return Earlier(seconds, size(run.folder), device)
        except (UserError, OSError):
            continue  # a damaged run is no estimate; `resexp report` says what is wrong with it
    return None


def size(folder: Path) -> int:
    """Bytes of all files in a folder."""
    return sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())


def what(config: RunConfig) -> str:
    """What the time of a step depends on, as a text."""
    model, data, train = config.model.canonical(), config.data.canonical(), config.train
    return f"{model} {data} {train.batch_size} {train.precision} {train.device}"


def _seconds_per_step(manifest: Manifest) -> float | None:
    """Wall-clock time per step of the longest attempt; None where no attempt took a step and has an end."""
    spans = []
    for attempt in manifest.attempts:
        if attempt.ended and attempt.to_step and attempt.to_step > attempt.from_step:
            span = datetime.fromisoformat(attempt.ended) - datetime.fromisoformat(attempt.started)
            spans.append((attempt.to_step - attempt.from_step, span.total_seconds()))
    steps, seconds = max(spans, default=(0, 0.0))
    return seconds / steps if steps else None
