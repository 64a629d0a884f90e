"""Run folders and study folders: the only hand-off between training, executors, status and report.

A run folder is the whole truth about a run::

    results/<study>/<label>-<signature>/seed<N>/
        config.yaml      the resolved configuration
        manifest.json    versions, device, commit, data fingerprint, command, and one entry per attempt
        metrics.jsonl    one JSON object a line, only ever appended to; a torn last line is ignored
        checkpoint.pt    the state to continue from; checkpoint.prev.pt is the one before
        best.pt          weights with the lowest validation error (split: holdout only)
        status.json      what the run is doing now
        log.txt          what a worker process printed

Locks rely on flock: the kernel drops them when their process dies, so none can be stale. They hold between processes
of one machine, and across machines where the file system carries flock over (NFSv4, Lustre with -o flock).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from resexp import yamlfile
from resexp.config import RunConfig
from resexp.errors import UserError

State = Literal["pending", "running", "interrupted", "finished", "diverged", "failed"]
ENDED: tuple[State, ...] = ("finished", "diverged", "failed")
"""States in which a run is not continued by itself."""


def write_atomic(path: Path, content: str | bytes, *, sync: bool = True) -> None:
    """Replace `path` as a whole: readers see the old content or the new, never a part of it."""
    data = content.encode() if isinstance(content, str) else content
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


class Status(BaseModel):
    """What a run is doing; errors are fractions in [0, 1]."""

    model_config = ConfigDict(extra="ignore")

    state: State = "pending"
    step: int = 0
    steps: int = 0
    train_error: float | None = None
    """Running training error of the last logged interval."""
    clean_train_error: float | None = None
    """Training error of the last separate pass in eval mode."""
    val_error: float | None = None
    test_error: float | None = None
    images_per_second: float | None = None
    seconds_per_step: float | None = None
    message: str = ""
    """Why the run failed or stopped, in one line."""
    traceback: str = ""

    @property
    def eta(self) -> float | None:
        """Seconds of training left."""
        if self.state != "running" or self.seconds_per_step is None:
            return None
        return (self.steps - self.step) * self.seconds_per_step


class Run:
    """One run folder; every path in it is a property."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def create(cls, folder: Path, config: RunConfig) -> Run:
        """The run in `folder`, made with its config.yaml if it is not there yet."""
        run = cls(folder)
        if not run.config_path.exists():
            folder.mkdir(parents=True, exist_ok=True)
            write_atomic(run.config_path, yamlfile.dump(config.model_dump(mode="json")))
        return run

    @property
    def label(self) -> str:
        """The net's name, such as ``plain-20``."""
        return self.folder.parent.name.rpartition("-")[0] or self.folder.parent.name

    @property
    def name(self) -> str:
        """The run's name, such as ``plain-20 seed 0``."""
        return f"{self.label} {self.folder.name.replace('seed', 'seed ')}"

    @property
    def config_path(self) -> Path:
        """The resolved configuration."""
        return self.folder / "config.yaml"

    @property
    def manifest_path(self) -> Path:
        """How the run was made."""
        return self.folder / "manifest.json"

    @property
    def metrics_path(self) -> Path:
        """The measurements."""
        return self.folder / "metrics.jsonl"

    @property
    def checkpoint_path(self) -> Path:
        """The state to continue from."""
        return self.folder / "checkpoint.pt"

    @property
    def previous_checkpoint_path(self) -> Path:
        """The state before that, for when the last one is damaged."""
        return self.folder / "checkpoint.prev.pt"

    @property
    def best_path(self) -> Path:
        """Weights with the lowest validation error."""
        return self.folder / "best.pt"

    @property
    def status_path(self) -> Path:
        """What the run is doing now."""
        return self.folder / "status.json"

    @property
    def log_path(self) -> Path:
        """What a worker process printed."""
        return self.folder / "log.txt"

    @property
    def lock_path(self) -> Path:
        """Held by the process that trains the run."""
        return self.folder / ".lock"

    def status(self) -> Status:
        """The last status written; a run whose process is gone is `interrupted`, not `running`."""
        try:
            status = Status.model_validate_json(self.status_path.read_bytes())
        except (FileNotFoundError, ValidationError):
            status = Status()
        if status.state == "running" and not is_locked(self.lock_path):
            status.state = "interrupted"
        return status

    def write_status(self, status: Status) -> None:
        """Publish what the run is doing. Synced only at the end: a lost progress line costs nothing."""
        write_atomic(self.status_path, status.model_dump_json(indent=1), sync=status.state != "running")

    def manifest(self) -> dict[str, Any]:
        """The manifest, or an empty one before the first attempt."""
        return _read_json(self.manifest_path)

    def metrics(self) -> list[dict[str, Any]]:
        """The records of metrics.jsonl; a torn last line, as a crash leaves it, is not one."""
        try:
            lines = self.metrics_path.read_bytes().split(b"\n")
        except FileNotFoundError:
            return []
        records = []
        for number, line in enumerate(lines[:-1], 1):
            try:
                records.append(json.loads(line))
            except ValueError:
                raise UserError(
                    f"{self.metrics_path}:{number}: not a JSON line; restore the file or delete the run"
                ) from None
        return records


class StudyFolder:
    """A results folder: the runs of one study file, and the list of those it names today."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @property
    def plan_path(self) -> Path:
        """The study as it was last swept: its name, description and runs."""
        return self.folder / "study.json"

    @property
    def lock_path(self) -> Path:
        """Held by the sweep that works on the folder."""
        return self.folder / ".lock"

    def write_plan(self, name: str, description: str, runs: list[Path]) -> None:
        """Record which runs belong to the study, in the order of its grid."""
        self.folder.mkdir(parents=True, exist_ok=True)
        plan = {"name": name, "description": description, "runs": [str(run) for run in runs]}
        write_atomic(self.plan_path, json.dumps(plan, indent=1))

    def add_to_plan(self, name: str, description: str, run: Path) -> None:
        """Record one more run, trained on its own, without dropping the others."""
        runs = [r.folder.relative_to(self.folder) for r in self.runs()]
        if run not in runs:
            self.write_plan(name, description, [*runs, run])

    def plan(self) -> dict[str, Any]:
        """What `write_plan` wrote, or an empty mapping."""
        return _read_json(self.plan_path)

    def runs(self) -> list[Run]:
        """The runs that the study names."""
        return [Run(self.folder / path) for path in self.plan().get("runs", [])]

    def strays(self) -> list[Run]:
        """Runs in the folder that the study no longer names, such as those of an earlier configuration."""
        named = {run.folder for run in self.runs()}
        found = sorted(path.parent for path in self.folder.glob("*/seed*/config.yaml"))
        return [Run(folder) for folder in found if folder not in named]


def open_study(folder: Path | None, results: Path) -> StudyFolder:
    """The study in `folder`, or the newest one under `results`."""
    if folder is None:
        plans = sorted(results.glob("*/study.json"), key=lambda p: p.stat().st_mtime)
        if not plans:
            raise UserError(f"{results}: no study here yet; run `resexp sweep` first, or name a study folder")
        return StudyFolder(plans[-1].parent)
    study = StudyFolder(folder)
    if not study.plan_path.exists():
        inside = sorted(p.parent.name for p in folder.glob("*/study.json"))
        remedy = (
            f"it holds the studies {', '.join(inside)}: name one of them"
            if inside
            else "expected a folder with a study.json"
        )
        raise UserError(f"{folder}: not a study folder; {remedy}")
    return study


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock file `path`; UserError if another process holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        for attempt in range(20):
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if attempt == 19:
                    file.seek(0)
                    holder = file.read().strip() or "another process"
                    raise UserError(f"{what} is in use by {holder}; wait for it, or stop it first") from None
                time.sleep(0.02)  # is_locked() holds the lock for an instant
        file.truncate(0)
        file.write(f"process {os.getpid()} on {os.uname().nodename}")
        file.flush()
        yield


def is_locked(path: Path) -> bool:
    """Whether a living process holds the lock file."""
    try:
        with path.open() as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); restore it, or delete it and sweep again") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object; restore it, or delete it and sweep again")
    return value
