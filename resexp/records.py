"""What the JSON files of run and study folders hold."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from resexp.errors import UserError

State = Literal["pending", "running", "interrupted", "finished", "diverged", "failed"]


class _Record(BaseModel):
    """What is kept in a JSON file; keys that a later version may add are kept out of the way."""

    model_config = ConfigDict(extra="ignore")


RecordT = TypeVar("RecordT", bound=_Record)


class DataRecord(_Record):
    """The images of a run."""

    source: str
    name: str
    fingerprint: str
    classes: int
    train_images: int
    val_images: int


class Attempt(_Record):
    """One go at a run: versions, device, commit, command and times."""

    started: str
    from_step: int
    command: str
    resexp: str
    commit: str | None
    python: str
    torch: str
    cuda: str | None
    numpy: str
    platform: str
    device: str
    precision: str
    threads: int
    ended: str | None = None
    to_step: int | None = None
    state: State | None = None


class Manifest(_Record):
    """manifest.json: how a run was made."""

    signature: str
    parameters: int
    data: DataRecord
    attempts: list[Attempt]


class Status(_Record):
    """status.json: what a run is doing; errors are fractions in [0, 1]."""

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
    """Why the run did not go on, in one line."""
    traceback: str = ""

    @property
    def share(self) -> float:
        """How much of the training is done, in [0, 1]."""
        return self.step / self.steps if self.steps else 0.0

    @property
    def eta(self) -> float | None:
        """Seconds of training left."""
        if self.state != "running" or self.seconds_per_step is None:
            return None
        return (self.steps - self.step) * self.seconds_per_step


class PlannedRun(_Record):
    """A run that a study names: its folder, relative to the study's, and what the study calls its net."""

    folder: str
    label: str


class Plan(_Record):
    """study.json: the study as it was last swept, its runs in the order of the grid."""

    name: str = ""
    description: str = ""
    runs: list[PlannedRun] = []


def read_record(path: Path, record: type[RecordT]) -> RecordT | None:
    """The record in a JSON file, or None where there is no file. Raises UserError where it holds anything else."""
    try:
        return record.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UserError(
            f"{path}: damaged ({where + ': ' if where else ''}{first['msg']}); restore it, or delete it"
        ) from None
