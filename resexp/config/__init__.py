"""The schema of a study file and of one run, with every default and every limit in one place.

The defaults are the paper's recipe for CIFAR-10 (He et al. 2015, section 4.2), so a study states only what differs.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, WithJsonSchema, field_validator

from resexp.config.data import (
    SOURCES,
    ArrayData,
    CacheConfig,
    Cifar10Data,
    Cifar100Data,
    DataConfig,
    FolderData,
    ImageNetData,
    OfficialData,
    PluginData,
    ShapesData,
    SvhnData,
)
from resexp.config.model import ModelConfig
from resexp.config.params import classes_of, resolved
from resexp.config.plugins import PluginRef, refs_in
from resexp.config.section import Section, only
from resexp.config.train import PowerOfDepth, TrainConfig, in_steps

__all__ = [
    "SECTIONS", "SOURCES", "ArrayData", "CacheConfig", "Cifar10Data", "Cifar100Data", "DataConfig",
    "ExecutorConfig", "FolderData", "ImageNetData", "ModelConfig", "OfficialData", "PluginData", "PowerOfDepth",
    "ProbesConfig", "ReportConfig", "RunConfig", "Section", "ShapesData", "Study", "SvhnData", "TrainConfig",
]  # fmt: skip

ProbeSteps = Annotated[tuple[Annotated[int, Field(ge=-1)], ...], Field(strict=False)]


class ProbesConfig(Section):
    """For each probe the steps at which it is taken: 0 is the initial net, -1 the trained one."""

    gradients: ProbeSteps = ()
    """Norm and signal-to-noise ratio of the gradient per layer; agreement of the gradients of neighbouring inputs."""
    signals: ProbeSteps = ()
    """Mean and variance of each layer's output."""
    responses: ProbeSteps = ()
    """Standard deviation of each 3x3 layer's response (Fig. 7)."""
    branches: ProbeSteps = ()
    """Size of F(x) compared with x, per residual block."""
    lesion: ProbeSteps = ()
    """Training error without one or several blocks, and with blocks in another order."""
    landscape: ProbeSteps = ()
    """Loss around the net, along two random directions."""

    tta: Annotated[tuple[Literal["ten-crop", "multi-scale"], ...], Field(strict=False)] = ()
    """Test-time augmentation of the trained net (section 3.4)."""

    def due(self, steps: int) -> dict[int, list[str]]:
        """For each step of a run of `steps` steps, the probes that are taken there."""
        taken: dict[int, list[str]] = {}
        for name, at in self:
            for step in at if name != "tta" else ():
                taken.setdefault(steps if step == -1 else step, []).append(name)
        return taken


class ReportConfig(Section):
    """How runs are judged. Set it before training."""

    margin: Annotated[float, Field(gt=0, le=100)] | None = None
    """Largest rise of the training error with depth, in points, that counts as no degradation: the whole interval must
    be below it. Default: 1 at the paper's recipe, otherwise a tenth of the plain nets' rise."""


class RayConfig(Section):
    """Tasks on a Ray cluster (extra `ray`)."""

    address: str | None = None
    """Address of an existing cluster, such as `auto` or `10.0.0.1:6379`. Default: $RAY_ADDRESS, otherwise a cluster on
    this machine that ends with the sweep."""
    cpus: Annotated[float, Field(gt=0)] = 1
    """CPU cores per job; also the threads of a new run."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs per job. A fraction shares a GPU with other jobs; 0 trains on CPU cores."""


class SlurmConfig(Section):
    """Job arrays on a Slurm cluster (extra `slurm`)."""

    partition: str | None = None
    """Slurm partition. Default: the cluster's."""
    account: str | None = None
    """Slurm account to charge. Default: the user's."""
    time_limit_minutes: Annotated[int, Field(ge=5)] = 240
    """Time limit per job, minutes. Unfinished runs are saved and queued again."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs per node of a job."""
    cpus_per_task: Annotated[int, Field(ge=1)] = 1
    """CPU cores per node of a job."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Main memory per node of a job, GB. Default: the cluster's."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """Nodes per job. With several, all GPUs of a job train each run together, through torchrun."""
    setup: tuple[str, ...] = Field(default=(), strict=False)
    """Shell lines that each job runs first, such as `module load cuda`."""
    poll_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Seconds between squeue calls."""
    options: dict[str, Annotated[str | int, only("text, a whole number")]] = {}  # noqa: RUF012 - a field of a frozen model
    """Further options of sbatch, such as `qos: high`."""


class ExecutorConfig(Section):
    """What trains the runs."""

    name: Literal["local", "debug", "ray", "slurm"] = "local"
    """`local`: processes on this machine. `debug`: this process, one run at a time, for pdb. `ray`, `slurm`: a
    cluster."""
    jobs: Annotated[int, Field(ge=1)] | None = None
    """Jobs at a time. Default: all cores or GPUs of this machine; no limit on Ray and Slurm."""
    runs_per_gpu: Annotated[int, Field(ge=1)] | None = None
    """Runs per GPU at a time. Default: as many as increase the throughput."""
    runs_per_job: Annotated[int, Field(ge=1)] = 1
    """Runs per Ray or Slurm job."""
    retries: Annotated[int, Field(ge=0)] = 2
    """Retries per run after a machine fault: a killed process, a lost GPU or node. Program errors are not retried."""
    heartbeat_timeout: Annotated[float, Field(gt=0)] = 600.0
    """Seconds without a heartbeat after which a job is killed and its runs are retried."""
    ray: RayConfig = RayConfig()
    slurm: SlurmConfig = SlurmConfig()


Seed = Annotated[int, Field(ge=0, lt=2**63)]


class _Base(Section):
    """The sections that say what is trained."""

    data: DataConfig = Cifar10Data()
    model: ModelConfig = ModelConfig()
    train: TrainConfig = TrainConfig()
    probes: ProbesConfig = ProbesConfig()

    @field_validator("train", mode="before")
    @classmethod
    def _epochs_as_steps(cls, train: Any, info: ValidationInfo) -> Any:
        return in_steps(train, info.data["data"]) if "data" in info.data else train

    @field_validator("model")
    @classmethod
    def _params_as_width(cls, model: ModelConfig, info: ValidationInfo) -> ModelConfig:
        return resolved(model, classes_of(info.data["data"], model)) if "data" in info.data else model


class RunConfig(_Base):
    """The complete configuration of one run."""

    seed: Seed = 0

    @field_validator("train")
    @classmethod
    def _only_bn_has_statistics(cls, train: TrainConfig, info: ValidationInfo) -> TrainConfig:
        for key in ("precise_bn_images", "sync_bn"):
            if getattr(train, key) and "model" in info.data and info.data["model"].norm != "batch":
                raise ValueError(f"{key} is about BN's statistics, and this net has no BN; leave it out")
        return train

    @field_validator("probes")
    @classmethod
    def _probes_within_steps(cls, probes: ProbesConfig, info: ValidationInfo) -> ProbesConfig:
        if "train" in info.data and (last := max(probes.due(0), default=0)) > info.data["train"].steps:
            raise ValueError(f"step {last} is beyond train.steps, {info.data['train'].steps}; -1 is the end")
        return probes

    def with_train(self, **changes: Any) -> RunConfig:
        """The configuration with other keys of its train section, which are not checked."""
        return self.model_copy(update={"train": self.train.model_copy(update=changes)})

    @property
    def plugin_refs(self) -> dict[str, PluginRef]:
        """The plug-in references in this configuration, by role."""
        return refs_in([*self.model, *self.train, ("data", self.data.source)])

    @property
    def signature(self) -> str:
        """Hash of all fields that change the result, except the seed: eight hex digits."""
        fields = {name: getattr(self, name).in_signature() for name in ("data", "model", "train")}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:8]

    @property
    def cost(self) -> float:
        """Relative training time: steps x batch x depth x width²."""
        return self.train.steps * self.train.batch_size * self.model.depth * self.model.width**2

    @property
    def folder(self) -> Path:
        """The run's folder within its study's; it does not depend on the rest of the grid."""
        return Path(f"{self.model.kind}-{self.model.depth}-{self.signature}") / f"seed{self.seed}"


Grid = Annotated[
    tuple[dict[str, list[Any]], ...],
    WithJsonSchema(
        {
            "description": "Dotted keys with lists of values: a product. A list of such mappings: all of them.",
            "anyOf": [
                {"type": "object", "minProperties": 1},
                {"type": "array", "minItems": 1, "items": {"type": "object", "minProperties": 1}},
            ],
        }
    ),
]


class Study(_Base):
    """A study file: a base configuration, a grid over it, and seeds."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    """Name of the results folder. Default: the file's name."""
    description: str = ""
    """One sentence for the report."""
    plugins: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Plug-ins that the study needs. They are loaded only if the user names them, too: `--plugin my_blocks.py`."""
    grid: Grid = ({},)
    seeds: Annotated[tuple[Seed, ...], Field(strict=False, min_length=1)] = (0,)
    """Each cell of the grid is trained once per seed."""
    executor: ExecutorConfig = ExecutorConfig()
    report: ReportConfig = ReportConfig()

    @field_validator("grid", mode="before")
    @classmethod
    def _grid_as_products(cls, grid: Any) -> Any:
        entries = grid if isinstance(grid, list) else [grid]
        if not entries:
            raise ValueError("the grid is empty; name at least one key, or leave grid out for a single net")
        products = []
        for entry in entries:
            if not isinstance(entry, dict) or not entry:
                raise ValueError("expected dotted keys with lists of values, such as model.depth: [20, 32]")
            for key, values in entry.items():
                if key.partition(".")[0] not in ("data", "model", "train"):  # probes change nothing
                    named = keys_called(key)
                    meant = f"; write {named[0]}" if named else " (for seeds, see seeds)"
                    raise ValueError(f"{key} can't vary; the grid is over data, model and train{meant}")
                if values == []:
                    raise ValueError(f"{key} has an empty list, so the grid is empty; give it at least one value")
                if isinstance(values, dict):
                    inner = next(iter(values), "depth")
                    raise ValueError(f"{key} is a mapping; write dotted keys, such as grid: {{{key}.{inner}: [...]}}")
            # A list stands for alternatives; milestones are themselves a list, so theirs is a list of lists.
            products.append({key: values if isinstance(values, list) else [values] for key, values in entry.items()})
        return tuple(products)

    @field_validator("seeds")
    @classmethod
    def _seeds_differ(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) != len(seeds):
            raise ValueError("a seed is listed twice")
        return seeds


SECTIONS: dict[str, type[Section]] = {
    "model": ModelConfig,
    "train": TrainConfig,
    "probes": ProbesConfig,
    "executor": ExecutorConfig,
    "report": ReportConfig,
    "ray": RayConfig,
    "slurm": SlurmConfig,
    "cache": CacheConfig,
    "plugin": PluginData,
    **SOURCES,
}
"""Section classes by the last part of pydantic's error locations; data sections by `source`."""


def keys_called(word: str) -> list[str]:
    """The dotted keys of a run whose last part is `word`, such as ``train.lr``."""
    sections: list[tuple[str, type[Section]]] = [("model", ModelConfig), ("train", TrainConfig)]
    sections += [("data", section) for section in SOURCES.values()]
    return list(dict.fromkeys(f"{name}.{word}" for name, section in sections if word in section.model_fields))
