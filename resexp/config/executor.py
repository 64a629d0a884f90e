"""The `executor` section: what trains the runs of a study, and where. None of it changes what is measured."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from resexp.config.section import Section


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
    options: dict[str, str | int] = {}  # noqa: RUF012 - a field of a frozen model
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
