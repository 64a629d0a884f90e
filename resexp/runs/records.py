"""What the JSON files of run and study folders hold."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Any, Literal, Required

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, field_validator
from pydantic_core import to_jsonable_python
from typing_extensions import TypedDict  # pydantic can't use typing.TypedDict before Python 3.12

from resexp.utils.untrusted import Count, JsonRecord

State = Literal["pending", "queued", "running", "interrupted", "finished", "diverged", "failed"]
"""`queued` is never written: only the cluster knows."""


def json_text(value: Any, indent: int | None = None) -> str:
    """`value` as JSON; a number that is NaN or infinite becomes null, as in the records below."""
    return json.dumps(to_jsonable_python(value, inf_nan_mode="null"), indent=indent, allow_nan=False)


class Findings(JsonRecord):
    """What is odd about a set of images."""

    left_out: dict[str, Count] = Field(default_factory=dict)
    """Files that are not among the images, by the reason: their suffix, or where they lie."""
    test_in_train: Count = 0
    """Test images that are training images too, pixel by pixel."""
    conflicting_labels: Count = 0
    """Images whose pixels are found in several classes."""


class DataRecord(JsonRecord):
    """The images of a run."""

    source: str
    name: str
    fingerprint: str
    classes: Annotated[int, Field(ge=2, lt=1 << 31)]
    train_images: Count
    val_images: Count
    decoder: str = ""
    """Library that decoded the images, if they are read during training (ImageNet); decoders differ by a few grey
    levels."""
    findings: Findings = Findings()
    """Nothing in older records."""


def _aware(time: str) -> str:
    if datetime.fromisoformat(time).tzinfo is None:
        raise ValueError("a time without its zone")
    return time


Time = Annotated[str, AfterValidator(_aware)]
"""A time of ISO 8601 with its zone."""


class Attempt(JsonRecord):
    """One go at a run: versions, device, commit, command and times."""

    started: Time
    from_step: Count
    command: str
    resexp: str
    commit: str | None
    python: str
    torch: str
    cuda: str | None
    numpy: str
    platform: str
    device: str
    precision: str = Field(pattern=r"^(fp32|bf16|fp16)$")
    threads: Annotated[int, Field(ge=1, lt=1 << 15)]
    cpu_capability: str | None = None
    """The vector instructions that torch used on the CPU, such as AVX2. Rounding depends on them, on the rest of `cpu`
    and on `threads`. None in older records."""
    cpu: str | None = None
    """The model of the CPU, as /proc/cpuinfo has it; None elsewhere and in older records."""
    world: Annotated[int, Field(ge=1, lt=1 << 31)] = 1
    """Processes that trained the run together."""
    ended: Time | None = None
    to_step: Count | None = None
    state: State | None = None

    @property
    def steps(self) -> int:
        """Steps it took; 0 before it has ended."""
        return max(0, (self.to_step or 0) - self.from_step) if self.ended else 0

    @property
    def seconds(self) -> float:
        """Wall-clock time from its start to its end; 0 before that."""
        started, ended = (datetime.fromisoformat(time) for time in (self.started, self.ended or self.started))
        return (ended - started).total_seconds()


class Manifest(JsonRecord):
    """manifest.json: how a run was made."""

    signature: str
    parameters: Count
    data: DataRecord
    plugins: dict[str, str] = Field(default_factory=dict)
    """Sources of the plug-ins that the run uses, by their hash."""
    attempts: Annotated[list[Attempt], Field(min_length=1)]


class Status(JsonRecord):
    """status.json: what a run is doing; errors are fractions in [0, 1]."""

    state: State = "pending"
    step: Count = 0
    steps: Count = 0
    train_error: float | None = None
    """Training error over the last logged interval (augmented, train mode)."""
    clean_train_error: float | None = None
    """Training error of the last separate pass in eval mode."""
    val_error: float | None = None
    running_train_error: float | None = None
    """Running training error of a finished run; see `running_error`."""
    test_error: float | None = None
    images_per_second: float | None = None
    seconds_per_step: Annotated[float, Field(ge=0, lt=1e9)] | None = None
    message: str = ""
    """Why the run stopped, in one line."""
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
        return max(0, self.steps - self.step) * self.seconds_per_step

    def is_due(self, retry_failed: bool) -> bool:
        """Whether a sweep trains the run."""
        return self.state not in ("finished", "diverged") and (retry_failed or self.state != "failed")


class Submission(JsonRecord):
    """job.json: the cluster's job that was last asked to train a run."""

    engine: Literal["slurm"]
    job: Annotated[str, Field(pattern=r"^[0-9]{1,10}(_[0-9]{1,10})?$")]
    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,99}$")]
    submitted: str
    attempt: Count
    """Number of the newest attempt at submission; attempts of the job have higher numbers."""
    folder: str
    """The run folder that the job trains, without links: not a copy of it."""


RUN_FOLDER = r"^[a-z]+-[0-9]{1,5}-[0-9a-f]{8}/seed[0-9]{1,19}\Z"
"""The folder of a run, from that of its study."""


class PlannedRun(JsonRecord):
    """A run that a study names: its folder, relative to the study's, and what the study calls its net."""

    model_config = ConfigDict(regex_engine="python-re")  # whose \w is what str.isalnum() allows in labels

    folder: str = Field(pattern=RUN_FOLDER)
    label: str = Field(pattern=r"^[\w+.=-]{1,200}\Z")


class StudyPlan(JsonRecord):
    """study.json: the study as it was last swept, its runs in the order of the grid."""

    name: str = ""
    description: str = ""
    margin: float | None = Field(default=None, gt=0, le=100)
    """See `ReportConfig.margin`."""
    runs: list[PlannedRun] = Field(default=[], max_length=100_000)

    @field_validator("runs")
    @classmethod
    def _each_once(cls, runs: list[PlannedRun]) -> list[PlannedRun]:
        if len({run.folder for run in runs}) != len(runs):
            raise ValueError("a run is listed twice")
        return runs


ErrorValue = Annotated[float, Field(ge=0, le=1)] | None
REPORTED: dict[str, Any] = dict.fromkeys((
    "train_error", "running_train_error", "clean_train_error", "val_error", "val_top5_error", "test_error",
    "test_top5_error", "best_test_error",
), ErrorValue) | {"train_seconds": Annotated[float, Field(ge=0, lt=1 << 63)] | None}  # fmt: skip
"""The metrics that reports read: errors are fractions in [0, 1]. A new metric needs an entry here or below."""
UNREPORTED: dict[str, Any] = {
    **dict.fromkeys(("epoch", "lr", "train_loss", "images_per_second"), float | None),
    **dict.fromkeys(("clean_train_top5_error", "clean_train_loss", "val_loss", "test_loss"), float | None),
    "best_step": Count, "best_val_error": ErrorValue, "precise_bn_images": Count, "bn_batches": Count,
}  # fmt: skip
"""The metrics that only other readers use. A number that was NaN or infinite, such as the loss of a net whose moving
averages lag behind its weights, is null."""


def _reader(metrics: dict[str, Any]) -> TypeAdapter[Any]:
    """Reads many lines at once: a large study has millions, and each call would cost as much as a line."""
    make: Any = TypedDict
    array: Any = list
    line = make("Line", {"event": Required[str], "step": Required[Count], **metrics}, total=False)
    line.__pydantic_config__ = ConfigDict(extra="ignore", strict=True, allow_inf_nan=False)
    return TypeAdapter(array[line])


LINE_READER, REPORT_READER = _reader(REPORTED | UNREPORTED), _reader(REPORTED)
"""Read lines of metrics.jsonl: all metrics, and those of a report."""


def running_error(lines: Iterable[dict[str, Any]], final_from: int) -> float | None:
    """The mean training error over the steps after `final_from`, as a fraction; None without a line of such steps."""
    wrong, counted, begin = 0.0, 0, 0
    for line in lines:
        if line.get("train_error") is None:
            continue
        step = line["step"]  # the line is the mean over the steps since the line before it
        if (steps := step - max(begin, final_from)) > 0:
            wrong += line["train_error"] * steps
            counted += steps
        begin = step
    return wrong / counted if counted else None
