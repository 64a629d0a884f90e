"""The processes that train one run together, as torchrun starts them.

Rank 0 decides and writes; the others wait for its orders, and do with their trainer what it does with its own. So no
two ranks can come to different conclusions, and only the first needs the run folder. What is computed goes through the
default group (NCCL on GPUs), orders and agreements through one of the hosts (Gloo), so that no GPU is waited for.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from resexp.errors import UserError
from resexp.utils.interrupts import Stop

BROADCAST_TIMEOUT = timedelta(days=1)
"""How long an order may take to come: rank 0 may be at something that it does alone, such as a probe."""
FAREWELL_TIMEOUT = timedelta(seconds=5)
"""How long the last order may take to be sent: the others may be dead, or in the middle of something else."""
COMMAND_BYTES = 64


class Ranks:
    """One process alone: it agrees with itself, its part is the whole, and nothing is sent anywhere."""

    rank, world = 0, 1
    local, local_world = 0, 1
    """Number of the process among those of its machine, and how many they are."""

    def any_rank(self, flag: bool) -> bool:
        """Whether any rank says yes. A signal to stop that one of them has received, all have received then."""
        return flag

    def command(self, *words: object) -> None:
        """Rank 0 lets the others do what it does now; elsewhere, nothing."""

    def all_reduce(self, tensor: Tensor) -> None:
        """Add up the tensor over the ranks, in place."""

    def all_gather(self, tensor: Tensor) -> Tensor:
        """The tensor of every rank, one after the other: (...) -> (world, ...); gradients flow back to each."""
        return tensor[None]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give the tensors the values that they have on rank 0, in place."""

    def ddp(self, model: nn.Module) -> nn.Module:
        """The net with its gradients averaged over the ranks."""
        return model

    def gradient_sync(self, net: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """Around a backward pass: after the `last` of a step gradients are averaged, until then each rank adds up its
        own."""
        return contextlib.nullcontext()


SINGLE_PROCESS = Ranks()


class Torchrun(Ranks):
    """One of several processes."""

    def __init__(self, stop: Stop) -> None:
        """`stop` hears of the signals that other ranks receive."""
        self.rank, self.world = dist.get_rank(), dist.get_world_size()
        self.local, self.local_world = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        self._stop = stop
        hosts = dist.new_group(backend="gloo", timeout=BROADCAST_TIMEOUT)
        assert isinstance(hosts, dist.ProcessGroup)
        self._hosts = hosts

    def any_rank(self, flag: bool) -> bool:
        """See Ranks."""
        said = torch.tensor([int(flag), self._stop.signal])
        dist.all_reduce(said, dist.ReduceOp.MAX, group=self._hosts)
        anyone, signal = said.tolist()
        if signal:
            self._stop.ask(signal)
        return bool(anyone)

    def command(self, *words: object) -> None:
        """See Ranks."""
        if self.rank == 0:
            self._send(words).wait()

    def end_others(self, code: int) -> None:
        """From rank 0: the last order, to end with this exit code; in vain where the others can't hear it."""
        with contextlib.suppress(RuntimeError):
            self._send(("end", code)).wait(FAREWELL_TIMEOUT)

    def _send(self, words: Iterable[object]) -> dist.Work:
        text = " ".join(map(str, words)).encode().ljust(COMMAND_BYTES)
        sent = dist.broadcast(torch.frombuffer(bytearray(text), dtype=torch.uint8), 0, self._hosts, async_op=True)
        assert sent is not None
        return sent

    def next_command(self) -> list[str]:
        """On the other ranks: wait for what rank 0 does next."""
        text = torch.zeros(COMMAND_BYTES, dtype=torch.uint8)
        dist.broadcast(text, 0, self._hosts)
        return text.numpy().tobytes().decode().split()

    def broadcast_object(self, what: Any = None) -> Any:
        """What rank 0 hands out, on every rank."""
        box = [what]
        dist.broadcast_object_list(box, 0, self._hosts)
        return box[0]

    def first_error(self, problem: str = "") -> str:
        """The first problem that any rank has, on every rank; empty where none has one."""
        problems: list[str] = [""] * self.world
        text = problem and f"rank {self.rank} on {os.uname().nodename}: {problem}"
        dist.all_gather_object(problems, text, self._hosts)
        return next(filter(None, problems), "")

    def all_reduce(self, tensor: Tensor) -> None:
        """See Ranks."""
        dist.all_reduce(tensor)

    def all_gather(self, tensor: Tensor) -> Tensor:
        """See Ranks."""
        gathered: Tensor = _Gather.apply(tensor, self)
        return gathered

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """See Ranks. One message for each type of number."""
        alike = defaultdict[torch.dtype, list[Tensor]](list)
        for tensor in tensors:
            alike[tensor.dtype].append(tensor)
        for group in alike.values():
            together = torch.cat([tensor.flatten() for tensor in group])
            dist.broadcast(together, 0)
            for tensor, values in zip(group, torch.split(together, [t.numel() for t in group]), strict=True):
                tensor.copy_(values.view_as(tensor))

    def ddp(self, model: nn.Module) -> nn.Module:
        """See Ranks. BN's averages stay each rank's own."""
        # The keyword for it has another name in each version of torch.
        names = [name for name, _ in model.named_buffers()]
        DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(model, names)  # type: ignore[no-untyped-call]
        return DistributedDataParallel(model)

    def gradient_sync(self, net: nn.Module, *, last: bool) -> AbstractContextManager[None]:
        """See Ranks."""
        assert isinstance(net, DistributedDataParallel)
        return contextlib.nullcontext() if last else net.no_sync()


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(context: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        context.ranks = ranks
        gathered = tensor.new_empty((ranks.world, *tensor.shape))
        dist.all_gather(list(gathered.unbind()), tensor.contiguous())
        return gathered

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[context.ranks.rank], None


@contextlib.contextmanager
def joined(stop: Stop) -> Iterator[Torchrun]:
    """The ranks that torchrun started, for as long as the context lasts.

    Raises UserError where they don't find each other.
    """
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except dist.DistError as error:
        raise UserError(f"rank {os.environ['RANK']}: can't reach rank 0 ({lost(error)})") from error
    try:
        yield Torchrun(stop)
    finally:
        dist.destroy_process_group()


def lost(error: BaseException) -> str:
    """What an error says of another rank that could not be reached any more; empty for any other error."""
    words = re.sub(r"^\[\S+\] ", "", f"{error}".partition("\n")[0])[:100]  # Gloo names a line of its source first
    from_afar = isinstance(error, RuntimeError) and re.search(r"gloo/|NCCL|Connection closed", f"{error}")
    return words if isinstance(error, dist.DistError) or from_afar else ""
