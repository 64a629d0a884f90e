"""What trains run folders: processes on this machine, or jobs on a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from resexp.config import ExecutorConfig
from resexp.executors.base import Executor
from resexp.executors.local import Debug, Local
from resexp.executors.loop import SweepLoop
from resexp.executors.slurm import Slurm

if TYPE_CHECKING:
    import torch

__all__ = ["SweepLoop", "make_executor"]


def make_executor(config: ExecutorConfig, devices: set[torch.device]) -> Executor:
    """The executor that `config` names; on this machine it uses the `devices` that the runs ask for.

    Raises UserError if the executor is not available on this machine.
    """
    if config.name == "slurm":
        return Slurm(config)
    if config.name == "debug":
        return Debug()
    if config.name == "ray":
        from resexp.executors.ray import Ray

        return Ray(config)
    return Local(config, devices)
