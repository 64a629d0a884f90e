"""The processes that train one run together, as torchrun starts them.

All ranks run the same loop, each on its part of every batch. What follows from losses and errors needs no agreement,
for these are sums over all ranks. What depends on a clock or a signal is agreed on by all, and rank 0, which alone
touches the run folder, broadcasts what it finds there. Tensors go through the default group (NCCL on GPUs), agreements
through one of the hosts (Gloo), so that no GPU is waited for.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
from collections import defaultdict
from collections.abc import Generator, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # if imported later, a function's default argument would keep the group alive
from torch import Tensor

from resexp.errors import StopRequested, UserError
from resexp.utils.interrupts import EXIT_FAILED, Interrupted, Stop, exit_code

AGREEMENT_TIMEOUT = timedelta(days=1)
"""How long the ranks wait for one another: rank 0 may be at something that it does alone, such as a probe."""

ResultT = TypeVar("ResultT")


class Ranks:
    """What the processes of a run do together. This one is a single process: nothing is to be shared or waited for."""

    rank, world_size = 0, 1
    local_rank, local_world_size = 0, 1
    """Number of the process among those of its machine, and how many they are."""

    def any_rank(self, flag: bool) -> bool:
        """Whether `flag` is set on any rank. A stop request of one rank is passed on to all."""
        return flag

    def collective(self) -> AbstractContextManager[None]:
        """Context for collective work; it starts with a barrier."""
        return contextlib.nullcontext()

    def on_rank_0(self, work: Generator[int, None, ResultT]) -> Generator[int, None, ResultT]:
        """Let rank 0 do the work while the others wait for its result. Raises StopRequested on all if rank 0 does."""
        return work

    def broadcast_object(self, value: Any = None) -> Any:
        """The value that rank 0 has."""
        return value

    def all_reduce(self, tensor: Tensor) -> None:
        """Add up the tensor over the ranks, in place."""

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Give the tensors the values that they have on rank 0, in place."""


SINGLE_PROCESS = Ranks()


class _Torchrun(Ranks):
    def __init__(self, stop: Stop) -> None:
        """`stop` receives the signals that other ranks receive."""
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.local_rank, self.local_world_size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
        self._stop = stop
        self._can_report = True
        """Whether the other ranks call `any_rank` next, so that a failure of this one can be sent to them."""
        gloo_group = dist.new_group(backend="gloo", timeout=AGREEMENT_TIMEOUT)
        assert isinstance(gloo_group, dist.ProcessGroup)
        self._gloo_group = gloo_group

    def close(self) -> None:
        """Drop the Gloo group."""
        del self._gloo_group

    @contextlib.contextmanager
    def sharing_errors(self) -> Iterator[None]:
        """Context for the whole program of a rank: an error on one rank ends all.

        Rank 0 raises its own error, or a UserError that says what another rank failed for. The others end with its exit
        code and leave it to rank 0 to print the error. A rank that fails in the middle of a step can't tell the others,
        which wait inside a collective call: it raises its own error, and theirs fail when it is gone.
        """
        self._can_report = True
        try:
            yield
            self.any_rank(False)
        except BaseException as error:
            code, text = exit_code(error), f"rank {self.rank} on {os.uname().nodename}: {error}"
            if self._can_report and not isinstance(error, KeyboardInterrupt):
                with contextlib.suppress(RuntimeError):  # the others are gone
                    self.any_rank(False, (code, text))
                    if self.rank > 0 and code != EXIT_FAILED:
                        raise SystemExit(code) from None
            if self.rank > 0 and isinstance(error, UserError):
                raise UserError(text) from error
            raise

    def any_rank(self, flag: bool, failure: tuple[int, str] | None = None) -> bool:
        """`failure`: exit code and message of a rank that fails now. Then the others raise: see `sharing_errors`."""
        values = torch.tensor([int(flag), self._stop.signal, int(failure is not None)])
        dist.all_reduce(values, dist.ReduceOp.MAX, group=self._gloo_group)
        anyone, signal, failed = values.tolist()
        if signal:
            self._stop.ask(signal)
        if failed:
            self._can_report = False
            failures = [failure] * self.world_size
            dist.all_gather_object(failures, failure, self._gloo_group)
            if failure is None:
                code, text = next(filter(None, failures))
                if self.rank > 0:
                    raise SystemExit(code)
                raise Interrupted(signal) if signal else UserError(text)
        return bool(anyone)

    @contextlib.contextmanager
    def collective(self) -> Iterator[None]:
        self.any_rank(False)
        self._can_report = False
        try:
            yield
        except BaseException as error:
            self._can_report = isinstance(error, StopRequested)  # which all ranks raise
            raise
        self._can_report = True

    def on_rank_0(self, work: Generator[int, None, ResultT]) -> Generator[int, None, ResultT]:
        outcome: ResultT | StopRequested | None = None
        try:
            outcome = (yield from work) if self.rank == 0 else None
        except StopRequested as stopped:
            outcome = stopped
        outcome = self.broadcast_object(outcome)
        if isinstance(outcome, StopRequested):
            raise outcome
        return outcome

    def broadcast_object(self, value: Any = None) -> Any:
        box = [value]
        with self.collective():
            dist.broadcast_object_list(box, 0, self._gloo_group)
        return box[0]

    def all_reduce(self, tensor: Tensor) -> None:
        dist.all_reduce(tensor)

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        # One message for each type of number.
        alike = defaultdict[torch.dtype, list[Tensor]](list)
        for tensor in tensors:
            alike[tensor.dtype].append(tensor)
        for group in alike.values():
            together = torch.cat([tensor.flatten() for tensor in group])
            dist.broadcast(together, 0)
            for tensor, values in zip(group, torch.split(together, [t.numel() for t in group]), strict=True):
                tensor.copy_(values.view_as(tensor))


def all_gather(tensor: Tensor, ranks: Ranks) -> Tensor:
    """The tensor of every rank, one after the other: (...) -> (world size, ...); gradients flow back to each."""
    gathered: Tensor = _AllGather.apply(tensor, ranks)
    return gathered


class _AllGather(torch.autograd.Function):
    """What torch.distributed.nn.functional.all_gather was, which is deprecated; its successor is private."""

    @staticmethod
    def forward(context: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        context.ranks = ranks
        gathered = tensor.new_empty((ranks.world_size, *tensor.shape))
        dist.all_gather(list(gathered.unbind()), tensor.contiguous())
        return gathered

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].contiguous()
        dist.all_reduce(total)
        return total[context.ranks.rank], None


@contextlib.contextmanager
def joined(stop: Stop) -> Iterator[Ranks]:
    """The ranks that torchrun started, for as long as the context lasts.

    Gloo's threads end with it: one that still frees a tensor while the interpreter ends would abort the process. They
    end when nothing refers to their groups any more. Raises UserError if the ranks don't find each other; and see
    `sharing_errors`.
    """
    try:
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    except (dist.DistError, ValueError) as error:  # ValueError: of a variable that torchrun sets
        raise UserError(f"rank {os.environ.get('RANK')}: can't reach rank 0 ({lost_rank(error) or error})") from error
    try:
        with contextlib.closing(_Torchrun(stop)) as ranks, ranks.sharing_errors():
            yield ranks
    finally:
        gc.collect()  # trainers and their captured steps refer to each other, and to a group
        dist.destroy_process_group()


def lost_rank(error: BaseException) -> str:
    """Why another rank could not be reached, if the error is about that; empty for any other error."""
    reason = re.sub(r"^\[\S+\] ", "", f"{error}".partition("\n")[0])[:100]  # Gloo names a line of its source first
    from_afar = isinstance(error, RuntimeError) and re.search(r"gloo/|NCCL|Connection closed", f"{error}")
    return reason if isinstance(error, dist.DistError) or from_afar else ""
