"""Where and in which precision a run computes."""

from __future__ import annotations

import contextlib
import ctypes
import platform
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from resexp.config import TrainConfig
from resexp.distributed import SINGLE_PROCESS, Ranks
from resexp.errors import UserError
from resexp.utils.logs import log

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Hardware:
    """A device, the precision of autocast on it (float32: no autocast), and where its kernels queue."""

    device: torch.device
    precision: str
    stream: torch.cuda.Stream | None = None
    """On a GPU, a queue of the run's own: kernels of several runs fill it together."""
    graphs: bool = False
    """Whether steps are replayed as CUDA graphs."""
    ranks: Ranks = SINGLE_PROCESS
    """The processes that train the run, each on a device of its own."""
    threads: int | None = None
    """CPU threads of the run. None: PyTorch's default."""

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


def use_threads(threads: int | None) -> None:
    """Set the number of CPU threads of PyTorch. None: unchanged."""
    if threads and threads != torch.get_num_threads():
        torch.set_num_threads(threads)


@contextlib.contextmanager
def restoring_threads(threads: int | None = None) -> Iterator[None]:
    """Set the number of CPU threads, on which results depend, and restore it at the end. None: only restore."""
    before = torch.get_num_threads()
    try:
        use_threads(threads)
        yield
    finally:
        use_threads(before)


def tune_process() -> None:
    """Set what makes a CPU step faster, for the whole process."""
    torch.set_flush_denormal(True)  # a vanishing gradient must not be a slow one
    # glibc gives activations back to the system after every step and has them zeroed again in the next, which costs
    # some 6 % of it; keep them.
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, 32 << 20)
        libc.mallopt(_M_TRIM_THRESHOLD, 1 << 30)
    torch.backends.cudnn.benchmark = True  # shapes never change: the search for the fastest kernels pays
    # No TF32: "fp32" is the reference for bf16 and fp16. A container may have it on for matrix products.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False


def choose_hardware(config: TrainConfig, precision: str | None = None, ranks: Ranks = SINGLE_PROCESS) -> Hardware:
    """The device and precision for `config`. `precision`: that of a continued run; None: as configured.

    On a GPU without bf16, a run that asks for it trains in fp16 (with muon in fp32), and a warning is logged. Raises
    UserError without such a device.
    """
    device, precision = choose_device(config, ranks), precision or config.precision
    if device.type != "cuda":
        return Hardware(device, "fp32" if precision == "auto" else precision, ranks=ranks)
    if device.index is not None:
        torch.cuda.set_device(device)  # for what names no device, such as pinned memory
    with torch.cuda.device(device):
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "auto":
        precision = "bf16" if has_bf16 else "fp32"
    elif precision == "bf16" and not has_bf16:
        precision = "fp32" if config.optimizer == "muon" else "fp16"  # muon can't skip a step that overflows
        log.warning(f"{torch.cuda.get_device_name(device)} has no bf16; training in {precision}")
    return Hardware(device, precision, graphs=config.cuda_graphs and ranks.world_size == 1, ranks=ranks)


_idle_streams = defaultdict[torch.device, list[torch.cuda.Stream]](list)


def with_stream(hardware: Hardware) -> Hardware:
    """A copy with a CUDA stream of its own (on a GPU). Release it with `release_stream`.

    Streams are used again, because PyTorch hands out the same 32 per device in turn, even while they are in use.
    """
    if hardware.device.type != "cuda":
        return hardware
    idle = _idle_streams[hardware.device]
    return replace(hardware, stream=idle.pop() if idle else torch.cuda.Stream(hardware.device))  # type: ignore[no-untyped-call]


def release_stream(hardware: Hardware) -> None:
    """Let another run have the stream, once nothing of this one is left."""
    if hardware.stream is not None:
        _idle_streams[hardware.device].append(hardware.stream)


def choose_device(config: TrainConfig, ranks: Ranks = SINGLE_PROCESS) -> torch.device:
    """The device that `config` asks for, without a CUDA context on it; each of several `ranks` on a machine gets a GPU.

    Raises UserError if the machine has no such device.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    if ranks.world_size > 1:
        if name not in ("cuda", "cpu"):
            raise UserError(
                f"train.device: {name} is one device, for {ranks.world_size} processes; set it to cuda or cpu"
            )
        name = f"cuda:{ranks.local_rank}" if name == "cuda" else name
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= (count := torch.cuda.device_count()):
        have = f"it has {count} GPUs" if count else "torch finds no GPU (driver? CPU-only build?)"
        raise UserError(f"train.device: {name} asked for, but {have}; set train.device to auto or cpu")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("train.device: mps asked for, but this machine has none; set train.device to auto or cpu")
    return device
