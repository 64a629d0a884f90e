"""Work in pieces, so that several runs can take turns in one process and the host can queue ahead of the device."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from typing import TypeVar

import torch

from resexp.device.hardware import Hardware, use_threads

QUEUED_STEPS = 16
"""Steps queued at once. At most twice as many wait on the device, so that a stop request is answered soon."""
POLL_S = 1e-4
"""Seconds between checks of a busy device."""

ResultT = TypeVar("ResultT")
Task = Generator[int, None, ResultT]
"""Work that is done piece by piece, so that several runs can take turns: yields the steps of each piece, 0 while it
waits for the device, and returns its result."""


class HostThrottle:
    """Limits how many steps the host queues ahead of the device."""

    def __init__(self, hardware: Hardware) -> None:
        self._stream = hardware.stream
        self.stride = QUEUED_STEPS if self._stream else 1
        """Steps to queue at once."""
        self._marks: deque[tuple[torch.cuda.Event, int]] = deque()

    def limit(self, steps: int, ahead: int) -> Task[None]:
        """Call after queueing `steps`. Yields completed steps until at most `ahead` queued pieces are unfinished."""
        if self._stream is None:
            yield steps
            return
        self._marks.append((self._stream.record_event(), steps))
        while len(self._marks) > ahead:
            event, done = self._marks[0]
            if event.query():  # type: ignore[no-untyped-call]
                self._marks.popleft()
                yield done
            else:
                yield 0


def on_stream(hardware: Hardware, work: Task[ResultT]) -> Task[ResultT]:
    """Do every piece of `work` on the stream and the threads of `hardware`, and leave the stream in between.

    Whatever else PyTorch keeps for a thread or the process, such as whether gradients are recorded, a piece of work
    must leave as it found it: between two pieces other runs have their turn.
    """
    while True:
        use_threads(hardware.threads)
        with torch.cuda.stream(hardware.stream):
            try:
                steps = next(work)
            except StopIteration as end:
                result: ResultT = end.value
                return result
        yield steps


def run_to_completion(work: Task[ResultT]) -> ResultT:
    """Do all of `work`, and nothing else meanwhile."""
    while True:
        try:
            if not next(work):
                time.sleep(POLL_S)
        except StopIteration as end:
            result: ResultT = end.value
            return result
