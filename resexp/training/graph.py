"""CUDA graphs: a function's kernels launched together, instead of one by one from Python."""

from __future__ import annotations

from collections.abc import Callable

import torch

from resexp.training.hardware import Hardware

CALLS_BEFORE_CAPTURE = 3
"""cuDNN picks its kernels and the optimiser makes its buffers in the first calls; a graph holds neither."""


class Replayed:
    """A function that reads and writes tensors in place: called as it is, then captured and replayed.

    Its first calls are calls like any other, so capturing changes no result. Without a stream, it is only ever called.
    What can't be captured goes on as it was, after one line that says why.
    """

    def __init__(self, function: Callable[[], None], hardware: Hardware, say: Callable[[str], None]) -> None:
        self._function, self._stream, self._say = function, hardware.stream, say
        self._calls = 0 if hardware.graphs else None
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        """Do it once."""
        if self._calls == CALLS_BEFORE_CAPTURE:
            self._capture()
        if self._graph is not None:
            self._graph.replay()
            return
        self._function()
        if self._calls is not None:
            self._calls += 1

    def _capture(self) -> None:
        self._calls = None
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"):
                self._function()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._say(f"no CUDA graph, kernels are launched one by one: {' '.join(str(error).split())[:300]}")
        else:
            self._graph = graph
