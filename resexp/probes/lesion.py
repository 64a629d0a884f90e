"""Does a trained net need each of its blocks? After Veit et al. 2016, arXiv 1605.06431, who removed them from residual
nets; a plain net has no path around a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from resexp.models.blocks import Block
from resexp.probes.subject import ProbeInput, Probing, error_and_loss

IMAGES = 1000


class _Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def lesion(subject: ProbeInput) -> Probing:
    """Training error, a fraction, in eval mode on 1,000 images: of the net as it is, without each block, and with each
    two neighbours exchanged.

    A residual block without its branch is its shortcut. A plain block can only be left out where it changes no
    dimensions; ``same`` tells those blocks from the others, so that like is compared with like. Nothing is trained or
    calibrated again.
    """
    model = subject.model.eval()
    batches = list(subject.split(IMAGES))
    intact, _ = error_and_loss(model, batches)
    without: list[dict[str, Any]] = []
    swapped: list[dict[str, Any]] = []
    for place, stage in enumerate(_stages(model)):
        for number, block in enumerate(stage):
            same = _keeps_dimensions(block)
            name = f"stages.{place}.{number}"
            if same or block.shortcut is not None:
                with _removed(stage, number):
                    error, _ = error_and_loss(model, batches)
                without.append({"block": name, "same": same, "error": error})
                yield 0
            if number and same and _keeps_dimensions(stage[number - 1]):
                with _exchanged(stage, number):
                    error, _ = error_and_loss(model, batches)
                swapped.append({"block": name, "error": error})
                yield 0
    return {"images": sum(len(y) for _, y in batches), "intact": intact, "without": without, "swapped": swapped}


def _stages(model: nn.Module) -> Iterator[Any]:
    yield from model.get_submodule("stages").children()


def _keeps_dimensions(block: Block) -> bool:
    first = next(module for module in block.modules() if isinstance(module, nn.Conv2d))
    last = block.get_submodule(f"conv{block.layers}")
    last = last[-1] if isinstance(last, nn.Sequential) else last
    strides = [module.stride for module in block.modules() if isinstance(module, nn.Conv2d)]
    return first.in_channels == last.out_channels and all(stride == (1, 1) for stride in strides)


@contextmanager
def _removed(stage: nn.Sequential, number: int) -> Iterator[None]:
    block: Any = stage[number]
    gate = block.gate
    if block.shortcut is None:
        stage[number] = nn.Identity()
    else:
        block.gate = _Nothing()
    try:
        yield
    finally:
        stage[number], block.gate = block, gate


@contextmanager
def _exchanged(stage: nn.Sequential, number: int) -> Iterator[None]:
    stage[number - 1], stage[number] = stage[number], stage[number - 1]
    try:
        yield
    finally:
        stage[number - 1], stage[number] = stage[number], stage[number - 1]
