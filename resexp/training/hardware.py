"""Where and in which precision a run computes."""

from __future__ import annotations

import ctypes
import platform
from dataclasses import dataclass

import torch

from resexp.config import TrainConfig
from resexp.errors import UserError

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Hardware:
    """A device and the precision of autocast on it (float32: no autocast)."""

    device: torch.device
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        """The autocast type."""
        return _DTYPES[self.precision]

    @property
    def name(self) -> str:
        """What people call the device."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{platform.machine()} {self.device.type}"


def tune_process(threads: int | None) -> None:
    """Settings of the whole process: CPU threads (None: as they are), and what makes a CPU step faster."""
    if threads:
        torch.set_num_threads(threads)
    torch.set_flush_denormal(True)  # a vanishing gradient must not be a slow one
    # glibc gives activations back to the system after every step and has them zeroed again in the next, which costs
    # some 6 % of it; keep them.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)


def choose(config: TrainConfig, begun_in: str | None = None) -> Hardware:
    """The hardware that `config` asks for; a run keeps the precision that it was `begun_in`.

    Raises UserError where the machine has none such.
    """
    device, precision = choose_device(config), begun_in or config.precision
    if precision == "auto":
        precision = "bf16" if device.type == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return Hardware(device, precision)


def choose_device(config: TrainConfig) -> torch.device:
    """The device that `config` asks for, which is not touched. Raises UserError where the machine has none such."""
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        have = f"it has {count} GPUs" if count else "torch finds no GPU (driver? CPU-only build?)"
        raise UserError(f"train.device: {name} asked for, but {have}; set train.device to auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("train.device: mps asked for, but this machine has none; set train.device to auto or cpu")
    return device
