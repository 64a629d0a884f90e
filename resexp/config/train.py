"""The `train` section: the recipe."""

from __future__ import annotations

import errno
import functools
import hashlib
import math
import os
import re
import stat
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    TypeAdapter,
    ValidationError,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from resexp.config.data import DataConfig
from resexp.config.plugins import Choice, PluginRef
from resexp.config.section import Section
from resexp.errors import UserError
from resexp.utils.paths import expanded
from resexp.utils.untrusted import MAX_LINES, first_mistake

WEIGHTS = (".pt", ".safetensors")
"""Suffixes of files of weights."""
_WITH_DIGEST = re.compile(r"(.+)#sha256=([0-9a-f]{64})")


def _parts(path: str | Path) -> tuple[str, ...]:
    return Path(os.path.normpath(path)).parts


@functools.lru_cache
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """The digest of a file; each file once, not once for every cell of a grid."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _paper_milestones(train: dict[str, Any]) -> tuple[int, ...]:
    if train.get("schedule", "milestones") != "milestones":
        return ()
    steps = train.get("steps", 0)  # not there if it is what is wrong
    return tuple(sorted({steps // 2, steps * 3 // 4} - {0}))


_EPOCHS = r"(\d+(?:\.\d+)?) epochs?"
_OR_EPOCHS = WithJsonSchema(
    {"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": f"^{_EPOCHS}$"}]}
)
Steps = Annotated[int, Field(ge=1, lt=2**63), _OR_EPOCHS]
"""A number of steps; in a study file also of epochs, such as `164 epochs`."""


def in_steps(train: Any, data: DataConfig) -> Any:
    """The raw `train` section with epochs turned into steps, rounded up. Raises ValueError if the number of training
    images is unknown before the data are read."""
    if not isinstance(train, dict):
        return train
    batch = train.get("batch_size", TrainConfig.model_fields["batch_size"].default)

    def steps(key: str, value: Any) -> Any:
        if isinstance(value, list | tuple):
            return [steps(key, each) for each in value]
        if not is_epochs(value):
            return value
        if data.epoch_images is None:
            raise ValueError(f"{key} in epochs needs the number of training images, unknown here; write steps")
        epochs = Fraction(value.split()[0])
        return math.ceil(epochs * data.epoch_images / batch) if type(batch) is int and batch > 0 else value

    return {key: steps(key, value) if key in IN_STEPS else value for key, value in train.items()}


def is_epochs(value: Any) -> bool:
    """Whether a raw value is a number of epochs."""
    return isinstance(value, str) and re.fullmatch(_EPOCHS, value) is not None


IN_STEPS = ("steps", "milestones", "warmup_steps", "eval_every", "log_every", "checkpoint_steps")
"""The keys of `train` that may be written in epochs."""


class PowerOfDepth(Section):
    """A learning rate that is a power of the depth."""

    at_depth: Annotated[int, Field(ge=1)]
    """Depth at which the rate is `value`."""
    value: Annotated[float, Field(gt=0)]
    """Learning rate at that depth."""
    power: float
    """Exponent of the depth."""

    def __str__(self) -> str:
        return f"{self.value:g} (depth / {self.at_depth})^{self.power:g}"


_NUMBER = TypeAdapter(Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)])


def _number_or_power(rate: Any) -> float | PowerOfDepth:
    """Validate a learning rate. Raises one error, where pydantic's union would raise one for each alternative."""
    if not isinstance(rate, dict | PowerOfDepth):
        return _NUMBER.validate_python(rate)
    try:
        return PowerOfDepth.model_validate(rate)
    except ValidationError as error:
        expected = "expected {at_depth: 20, value: 0.1, power: -1.5}"
        raise ValueError(f"{first_mistake(error).lower()}; {expected}") from None


_RATE_SCHEMA = WithJsonSchema({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, PowerOfDepth.model_json_schema()]})


class TrainConfig(Section):
    """The recipe. A step is one update on one batch (the paper's iteration)."""

    not_in_signature = frozenset(
        {"log_every", "checkpoint_steps", "checkpoint_seconds", "device", "cuda_graphs", "compile"}
    )

    steps: Steps = 64_000
    """Number of updates. This and all other steps below may be written in epochs: `164 epochs`."""
    batch_size: Annotated[int, Field(ge=2, lt=2**63)] = 128
    """Images per step."""
    lr: Annotated[float | PowerOfDepth, BeforeValidator(_number_or_power), _RATE_SCHEMA] = 0.1
    """Initial learning rate. As a power of the depth: `{at_depth: 20, value: 0.1, power: -1.5}` is
    0.1 (depth / 20)^-1.5."""
    optimizer: Annotated[str | PluginRef, Choice("optimizer")] = "sgd"
    """`sgd` with momentum; `nesterov`: SGD with Nesterov momentum; `adamw` (arXiv 1711.05101); `muon`: orthogonalised
    momentum for convolutions, Nesterov momentum for all else."""
    microbatch: Annotated[int, Field(ge=2, lt=2**63)] | None = None
    """Images per forward and backward pass; gradients of a batch are added up. BN takes its statistics over a
    microbatch, so the result does not depend on the number of devices, except for rounding. Default: the whole batch of
    a device."""
    schedule: Annotated[str | PluginRef, Choice("schedule")] = "milestones"
    """`milestones`: the rate is multiplied by gamma at each. `plateau`: when the validation error stops falling
    (section 3.4, ImageNet); without validation images, the clean training error counts. `cosine`: half a cosine down to
    zero (arXiv 1608.03983). `constant`."""
    warmup_steps: Steps | None = None
    """Linear warm-up: steps over which the rate rises from zero to that of the schedule (arXiv 1706.02677). Default:
    none.
    """
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of each label that is spread evenly over all classes (arXiv 1512.00567)."""
    clip_norm: Annotated[float, Field(gt=0)] | None = None
    """Largest norm of the gradient of all parameters; larger ones are scaled down. Default: no clipping."""
    patience: Annotated[int, Field(ge=1, lt=2**31)] = 5
    """Evaluations in a row without a new lowest error, after which the rate drops (schedule `plateau`)."""
    max_lr_drops: Annotated[int, Field(ge=1, le=20)] = 2
    """How many times plateaus may lower the rate."""
    milestones: Annotated[tuple[Annotated[int, _OR_EPOCHS], ...], Field(strict=False)] = Field(
        default_factory=_paper_milestones
    )
    """Steps at which the rate is multiplied by gamma. Default: at 1/2 and 3/4 of the steps (32k and 48k of 64k);
    none with another schedule than `milestones`."""
    gamma: Annotated[float, Field(gt=0, le=1)] = 0.1
    """Factor at each milestone."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum; the first beta of `adamw`; with `muon`, of all but convolutions, which have 0.95."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """L2 penalty on all parameters; decoupled from the gradient with `adamw`, and for convolutions with `muon`."""
    warmup_lr: Annotated[float, Field(gt=0)] | None = None
    """Warm-up of the paper: train at this rate until the error of the batches is under `warmup_until_error`. Default:
    none. Paper: 0.01, for depth 110 only."""
    warmup_until_error: Annotated[float, Field(gt=0, lt=1)] = 0.8
    """The warm-up ends when the moving average of the training error over about 100 steps falls below this fraction."""
    init_from: Annotated[str, Field(min_length=1)] | None = None
    """Folder of a finished run, relative to the current directory. The net starts with the weights of that run; a
    deeper net gets identity blocks (section 1). Or a `.pt` or `.safetensors` file of weights for the same net, as
    `resexp export` writes it; its sha256 is added to the path and counts for the signature. Default: He
    initialisation."""
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    """`auto`: bf16 on GPUs that support it, otherwise fp32. fp16 uses a loss scaler."""
    eval_every: Steps = 4000
    """Steps between evaluations of the clean training error, and of the validation error with `split: holdout`. The
    last step is always evaluated."""
    precise_bn_images: Annotated[int, Field(ge=2, lt=2**63)] | None = None
    """Number of training images over which BN's statistics are recomputed after training, as in the paper's released
    models. Default: keep the moving averages."""
    sync_bn: bool = False
    """Under torchrun, take BN's statistics over the whole batch. Default: over the part of each process; the moving
    averages of rank 0 are stored."""
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d{1,3})?)$")] = "auto"
    """`auto`: cuda if available, otherwise mps, otherwise cpu."""
    cuda_graphs: bool = True
    """Replay each step as one CUDA graph. `false` launches every kernel from Python, for debugging."""
    compile: bool = False
    """Compile each shape of block with torch.compile. Slower on a CPU; on a GPU see `resexp bench --compile`."""
    log_every: Steps = 100
    """Steps between lines of metrics; each line is the mean over these steps."""
    checkpoint_steps: Steps | None = None
    """Steps between checkpoints, in addition to checkpoint_seconds."""
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0
    """Seconds between checkpoints."""

    def measured(self) -> dict[str, Any]:
        """The fields that change what is measured. Of `init_from` these are a run's last two folders, or the hash of
        a file."""
        fields = super().measured()
        if self.init_weights:
            return fields | {"init_from": f"sha256={self.init_weights[1]}"}
        return fields | ({"init_from": "/".join(_parts(self.init_from)[-2:])} if self.init_from else {})

    def for_depth(self, depth: int) -> TrainConfig:
        """A copy in which `lr` is a number: a power of the depth is evaluated at `depth`."""
        if not isinstance(self.lr, PowerOfDepth):
            return self
        try:
            rate = self.lr.value * (depth / self.lr.at_depth) ** self.lr.power
        except OverflowError:
            rate = math.inf
        if not 0 < rate < math.inf:
            raise UserError(f"train.lr: {rate:g} at depth {depth}; choose a power nearer to zero")
        return self.model_copy(update={"lr": rate})

    @property
    def init_weights(self) -> tuple[str, str] | None:
        """Path and sha256 of the file of weights in `init_from`; None if it names a run or nothing."""
        known = _WITH_DIGEST.fullmatch(self.init_from or "")
        return (known[1], known[2]) if known else None

    @property
    def final_from(self) -> int:
        """The step after which the running training error counts: the last milestone, as Fig. 6 is read."""
        return self.milestones[-1] if self.milestones else self.steps * 3 // 4

    @field_validator("init_from")
    @classmethod
    def _start_by_its_name_or_content(cls, init_from: str | None) -> str | None:
        if init_from is None or _WITH_DIGEST.fullmatch(init_from):
            return init_from
        try:
            path = expanded(init_from)
            if not path.name.endswith(WEIGHTS):
                named = len(parts := _parts(path)) > 1 and parts[-2] != ".."  # it names the net, for the signature
                return str(path if named else path.resolve())
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "not a plain file")
            return f"{path}#sha256={_sha256(path, status.st_size, status.st_mtime_ns)}"
        except UserError as error:
            raise ValueError(f"{error}") from None
        except OSError as error:
            raise ValueError(f"no file of weights that can be read ({error.strerror})") from None

    @field_validator("microbatch", "precision", "milestones", "momentum", "log_every", "warmup_lr")
    @classmethod
    def _goes_with_the_fields_before(cls, value: Any, info: ValidationInfo) -> Any:
        """Raise ValueError where a field contradicts an earlier one; `info.data` has the valid ones."""
        train, field = info.data, info.field_name
        steps, schedule = train.get("steps"), train.get("schedule", "milestones")
        if field == "microbatch" and value and (batch := train.get("batch_size", value)) % value:
            raise ValueError(f"must divide train.batch_size, {batch}")
        if field == "precision" and value == "fp16" and train.get("optimizer") == "muon":
            raise ValueError("muon can't skip a step that overflows; set precision to bf16 or fp32")
        if field == "momentum" and value == 0 and train.get("optimizer") == "nesterov":
            raise ValueError("nesterov needs one above 0; set optimizer to sgd for steps without momentum")
        if field == "warmup_lr" and isinstance(lr := train.get("lr"), float) and value is not None and value > lr:
            raise ValueError(f"a warm-up has a lower rate than train.lr, {lr:g}; lower it, or set it to null for none")
        if field == "log_every" and steps is not None and (lines := steps // value) > MAX_LINES // 2:
            raise ValueError(f"{lines:,} lines of metrics; log at most {MAX_LINES // 2:,} times in train.steps")
        if field != "milestones" or not value:
            return value
        if schedule == "plateau":
            raise ValueError("a schedule of plateaus finds its own; leave them out, or set schedule to milestones")
        if schedule != "milestones":
            raise ValueError(f"a schedule of {schedule} has none; leave them out, or set schedule to milestones")
        if value[0] <= 0 or list(value) != sorted(set(value)):
            raise ValueError("must be positive and increasing")
        if steps is not None and value[-1] >= steps:
            raise ValueError(
                f"{value[-1]} is not below train.steps, {steps}; leave it out for 1/2 and 3/4 of the steps"
            )
        return value
