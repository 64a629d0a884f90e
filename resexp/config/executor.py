"""The `executor` section: what trains the runs of a study, and where. None of it changes what is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from resexp.config.section import Section


class RayConfig(Section):
    """Tasks on a Ray cluster (extra `ray`)."""

    address: str | None = None
    """Of an existing cluster, such as `auto` or `10.0.0.1:6379`. Default: $RAY_ADDRESS; without, a cluster on this
    machine that ends with the sweep."""
    cpus: Annotated[float, Field(gt=0)] = 1
    """CPU cores of a job; a run that begins has as many threads."""
    gpus: Annotated[float, Field(ge=0)] = 0
    """GPUs of a job; a fraction shares one with other jobs, and 0 is for runs on CPU cores."""


class SlurmConfig(Section):
    """Job arrays on a Slurm cluster (extra `slurm`)."""

    partition: str | None = None
    """Default: the cluster's."""
    account: str | None = None
    """Whom the time is charged to."""
    time_limit_minutes: Annotated[int, Field(ge=5)] = 240
    """Time limit of a job; what is not finished by then is saved and queued again."""
    gpus: Annotated[int, Field(ge=0)] = 0
    """GPUs of a job, on each of its nodes."""
    cpus_per_task: Annotated[int, Field(ge=1)] = 1
    """CPU cores of a job, on each of its nodes."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Main memory of a job, on each of its nodes. Default: the cluster's."""
    nodes: Annotated[int, Field(ge=1)] = 1
    """With more than one, all GPUs of a job train each run together, by torchrun."""
    setup: tuple[str, ...] = Field(default=(), strict=False)
    """Shell lines that a job begins with, such as `module load cuda`."""
    poll_seconds: Annotated[float, Field(gt=0)] = 5.0
    """Between two looks at the queue."""
    options: dict[str, str | int] = {}  # noqa: RUF012 - a field of a frozen model
    """Further options of sbatch, such as `qos: high`."""


class ExecutorConfig(Section):
    """What trains the runs."""

    name: Literal["local", "ray", "slurm"] = "local"
    """`local`: processes on this machine."""
    jobs: Annotated[int, Field(ge=1)] | None = None
    """Jobs at a time. Default: as many as keep all cores, or GPUs, busy; as many as Ray or Slurm let in."""
    runs_per_gpu: Annotated[int, Field(ge=1)] | None = None
    """Runs side by side on a GPU. Default: as many as speed it up."""
    runs_per_job: Annotated[int, Field(ge=1)] = 1
    """Runs that a job of Ray or Slurm trains."""
    retries: Annotated[int, Field(ge=0)] = 2
    """How often a run is tried again after a fault of the machine: a killed process, a lost GPU or node. An error in
    the program is not tried again."""
    heartbeat_timeout: Annotated[float, Field(gt=0)] = 600.0
    """A job whose runs give no sign of life for so long is killed, and they are tried again."""
    ray: RayConfig = RayConfig()
    slurm: SlurmConfig = SlurmConfig()
