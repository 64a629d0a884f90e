"""Trains several runs in one process in turns, so that small nets share a GPU."""

from __future__ import annotations

import contextlib
import functools
import gc
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from resexp.config.study import load_run
from resexp.data import open_dataset
from resexp.device.concurrent import POLL_S, Task
from resexp.device.hardware import choose_hardware, restoring_threads
from resexp.errors import DeviceFailedError, DeviceOutOfMemoryError, UserError
from resexp.models.summary import summarise_net
from resexp.runs.records import Status
from resexp.runs.store import Run
from resexp.training.train import attempt
from resexp.utils.logs import log

SETTLING_STEPS = 64
"""Steps of each run before its speed counts: by then its kernels are chosen and its graph is captured."""
MEASURED_STEPS, MEASURED_S = 320, 1.0
"""Steps per run, and seconds, before a speed is trusted; steps are counted 16 at a time."""
MIN_SPEEDUP = 1.1
"""Smallest gain in throughput for which the number of concurrent runs is doubled."""


RunEvent = tuple[Run, Status | Exception | None]
"""(run, None) when it begins; (run, status or exception) when it ends."""


@dataclass
class _Member:
    run: Run
    work: Task[Status]
    steps: int = 0
    """Done here."""


class Concurrency:
    """The number of concurrent runs: fixed, or doubled while the throughput rises by more than MIN_SPEEDUP."""

    def __init__(self, fixed: int | None) -> None:
        self.size = fixed or 1
        self._growing = fixed is None
        self._best = 0.0
        self._begin: tuple[float, list[int]] | None = None

    def observe(self, steps: list[int], costs: list[float], now: float) -> None:
        """Measure the throughput, and double the number of runs or halve it for good. `steps`: steps done per run;
        `costs`: cost of one step per run; `now`: seconds."""
        if not self._growing or len(steps) < self.size or min(steps) < SETTLING_STEPS:
            self._begin = None
        elif self._begin is None or len(self._begin[1]) != len(steps):
            self._begin = (now, steps)
        else:
            began, before = self._begin
            gained = [after - then for after, then in zip(steps, before, strict=True)]
            if min(gained) >= MEASURED_STEPS and now - began >= MEASURED_S:
                rate = sum(n * cost for n, cost in zip(gained, costs, strict=True)) / (now - began)
                self._begin = None
                if rate > MIN_SPEEDUP * self._best:
                    self._best, self.size = rate, 2 * self.size
                else:
                    self.shrink(self.size // 2)

    def shrink(self, size: int) -> None:
        """Limit the number to `size`, and stop growing."""
        self._growing, self.size = False, max(1, size)


class ConcurrentRuns:
    """Trains runs side by side, each as if it were alone.

    A run that needs more memory than the others leave waits. A run that still runs out of memory is tried again alone,
    once. When the device fails, the runs that were not begun are left.
    """

    def __init__(self, runs: Sequence[Run], *, size: int | None, threads: int | None, stop: Callable[[], bool]) -> None:
        """`size`: runs at a time; None: as many as increase the throughput."""
        self._waiting, self._members = deque(runs), list[_Member]()
        self._again = set[Run]()
        """Runs that ran out of memory: at the end of the queue, to run alone."""
        self._concurrency, self._stop = Concurrency(size), stop
        self._threads = threads or torch.get_num_threads()  # a resumed run may set another number for itself
        self._events = list[RunEvent]()
        self.current: Run | None = None
        """The run that has its turn."""
        self._free = _free_memory(runs[0])
        self._logged = False

    def turns(self) -> Iterator[list[RunEvent]]:
        """Train them all, or until asked to stop, turn by turn; yields what happened in each turn."""
        with restoring_threads():
            while True:
                while self._has_place():
                    self._begin()
                events, self._events = self._events, []
                yield events
                if not self._members:
                    return
                if not self._turn():
                    time.sleep(POLL_S)
                self._concurrency.observe(
                    [member.steps for member in self._members],
                    [_step_cost(member.run) for member in self._members],
                    time.monotonic(),
                )

    def _has_place(self) -> bool:
        """Whether the next run may begin now."""
        if self._stop() or not self._waiting:
            return False
        if not self._members:
            return True
        run, others = self._waiting[0], [member.run for member in self._members]
        if not self._again.isdisjoint((run, *others)) or len(others) >= self._concurrency.size:
            return False
        try:
            fits = self._free is None or _memory_needed(run) <= self._free - sum(map(_memory_needed, others))
        except Exception:  # of a plug-in, too
            return True  # the run raises it when it begins
        if not fits and not self._logged:
            log.info(f"the GPU's memory holds {len(others)} of these runs at a time; the others wait")
            self._logged = True
        return fits

    def _begin(self) -> None:
        run = self._waiting.popleft()
        self._events.append((run, None))
        self._members.append(_Member(run, attempt(run, stop=self._stop, threads=self._threads)))

    def _turn(self) -> int:
        """Let every member do a piece of its work; returns the steps done."""
        worked, left = 0, list[_Member]()
        for member in self._members:
            self.current = member.run
            try:
                steps = next(member.work)
            except StopIteration as end:
                self._events.append((member.run, end.value))
            except Exception as error:
                self._failed(member.run, error)
            else:
                member.steps += steps
                worked += steps
                left.append(member)
        if len(left) < len(self._members):
            self._members = left
            _release_memory()
        return worked

    def _failed(self, run: Run, error: Exception) -> None:
        link: BaseException | None = error
        while link:  # the frames of the traceback, which is logged later, hold the run's tensors
            traceback.clear_frames(link.__traceback__)
            link = link.__cause__ or link.__context__
        if isinstance(error, DeviceOutOfMemoryError):
            _release_memory()  # before the others have their turn
        if isinstance(error, DeviceOutOfMemoryError) and len(self._members) > 1:
            self._concurrency.shrink(len(self._members) - 1)
            self._waiting.append(run)
            self._again.add(run)
            log.warning(f"{run.title}: out of memory; tried again alone, the others {self._concurrency.size} at a time")
            return
        if isinstance(error, DeviceFailedError):
            self._waiting.clear()
        self._events.append((run, error))


def _release_memory() -> None:
    """Free the GPU memory of runs that have ended: a trainer and its captured steps refer to each other."""
    gc.collect()
    with contextlib.suppress(RuntimeError):  # a device that failed
        torch.cuda.empty_cache()


@functools.cache
def _step_cost(run: Run) -> float:
    config = load_run(run.config_path)
    return config.cost / config.train.steps


def _free_memory(run: Run) -> int | None:
    """Bytes free on the GPU that the run will be on; None on a CPU."""
    try:
        device = choose_hardware(load_run(run.config_path).train).device
        return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else None
    except (UserError, OSError, RuntimeError):
        return None  # the run raises it when it begins


@functools.cache
def _memory_needed(run: Run) -> float:
    """About the bytes of device memory that the run will take."""
    config = load_run(run.config_path)
    dataset = open_dataset(config.data)
    net = summarise_net(config.model, *dataset.size, len(dataset.classes))
    at_once = config.train.microbatch or config.train.batch_size
    return dataset.resident_bytes + net.training_bytes(at_once, choose_hardware(config.train).dtype.itemsize)
