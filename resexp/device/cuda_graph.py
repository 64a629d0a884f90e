"""Fewer launches: a function's kernels replayed as one CUDA graph, and a block's fused by torch.compile."""

from __future__ import annotations

import gc
from collections.abc import Callable

import torch
from torch import nn

from resexp.device.hardware import Hardware
from resexp.models.blocks import Block
from resexp.utils.logs import log

CALLS_BEFORE_CAPTURE = 3
"""cuDNN picks its kernels and the optimiser makes its buffers in the first calls; a graph holds neither."""


class CudaGraphed:
    """A function that reads and writes tensors in place: called as it is, then captured and replayed.

    Its first calls are calls like any other, so capturing changes no result. Without a stream, it is only ever called.
    A function that can't be captured is launched from Python, and the reason is logged.
    """

    def __init__(self, function: Callable[[], None], hardware: Hardware) -> None:
        self._function, self._stream = function, hardware.stream
        self._calls = 0
        self.settled = not hardware.graphs
        """Whether all further calls are alike: no kernels to choose, nothing to capture."""
        self._graph: torch.cuda.CUDAGraph | None = None
        self._failed: torch.cuda.CUDAGraph | None = None  # torch 2.11's allocator keeps a pointer to it

    def __call__(self) -> None:
        """Run or replay the function once."""
        if not self.settled and self._calls == CALLS_BEFORE_CAPTURE:
            self._capture()
        if self._graph is not None:
            self._graph.replay()
        else:
            self._function()
            self._calls += 1

    def _capture(self) -> None:
        self.settled = True
        graph = torch.cuda.CUDAGraph()
        gc.collect()
        gc.disable()  # the graph of another run must not be destroyed while this one is captured
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                self._function()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            self._failed = graph
            log.warning(f"no CUDA graph, kernels are launched one by one: {' '.join(str(error).split())[:300]}")
        else:
            self._graph = graph
        finally:
            gc.enable()


def compile_blocks(model: nn.Module) -> None:
    """Compile the blocks of a net, in place: once for each shape of block, however many the net has of it."""
    torch._dynamo.config.recompile_limit = 64  # shapes of all nets that are trained in this process
    for module in model.modules():
        if isinstance(module, Block):
            module.compile(dynamic=False)
