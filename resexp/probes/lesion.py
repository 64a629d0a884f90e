"""Does a trained net need each of its blocks, and their order? After Veit et al. 2016, arXiv 1605.06431, who removed
and exchanged blocks of residual nets; a plain net has no path around a block."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resexp.config import ModelConfig
from resexp.models.blocks import why_undivided
from resexp.probes.subject import SAMPLE, Probe, ProbeInput, Probing, error_and_loss, in_eval_mode

DRAWS = 5
"""Random sets of each number of blocks, and random orders for each number of exchanges."""


class _Nothing(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


def lesion(subject: ProbeInput) -> Probing:
    """Training error, a fraction, in eval mode on 1,000 images: of the net as it is and

    - ``without`` each block;
    - with each two neighbours ``swapped``;
    - with 2, 4, 8, ... random blocks ``removed``, five sets of each number;
    - ``shuffled`` by 1, 2, 4, ... exchanges of two random blocks of a stage, five orders of each number. ``tau`` is
      Kendall's rank correlation of the order with that of the net (Veit et al., section 4.3).

    A residual block without its branch is its shortcut. A plain block can only be left out where it changes no
    dimensions. ``same`` is true for blocks that keep their dimensions; random blocks are drawn from these alone, and
    nets with equally many of them get the same ones. Nothing is trained or calibrated again.
    """
    model = in_eval_mode(subject)
    batches = list(subject.split(SAMPLE))

    def error() -> float:
        return error_and_loss(model, batches)[0]

    intact = error()
    without: list[dict[str, Any]] = []
    swapped: list[dict[str, Any]] = []
    free: list[tuple[Any, int]] = []  # blocks that keep their dimensions: stage and number
    stages: Any = model.get_submodule("stages")
    for place, stage in enumerate(stages):
        for number, block in enumerate(stage):
            same = block.keeps_dimensions
            name = f"stages.{place}.{number}"
            if same or block.shortcut is not None:
                with _replaced([_nothing_for(stage, number)]):
                    without.append({"block": name, "same": same, "error": error()})
                yield 0
            if number and same and stage[number - 1].keeps_dimensions:
                with _replaced([(stage, number - 1, block), (stage, number, stage[number - 1])]):
                    swapped.append({"block": name, "error": error()})
                yield 0
            free += [(stage, number)] if same else []
    removed, shuffled = [], []
    for count in (2**power for power in range(1, len(free).bit_length())):
        for chosen in _sets(len(free), count):
            with _replaced([_nothing_for(*free[index]) for index in chosen]):
                removed.append({"blocks": count, "error": error()})
            yield 0
    from scipy.stats import kendalltau  # takes half as long to import as torch, which every worker would wait for

    blocks = [stage[number] for stage, number in free]
    for count in (2**power for power in range(len(free).bit_length())):
        for pairs in _exchanges([stage for stage, _ in free], count):
            order = list(range(len(free)))
            for a, b in pairs:
                order[a], order[b] = order[b], order[a]
            tau = float(kendalltau(range(len(order)), order).statistic)
            with _replaced([(*place, blocks[index]) for place, index in zip(free, order, strict=True)]):
                shuffled.append({"pairs": count, "tau": tau, "error": error()})
            yield 0
    return {
        "images": sum(len(y) for _, y in batches),
        "intact": intact,
        "without": without,
        "swapped": swapped,
        "removed": removed,
        "shuffled": shuffled,
    }


def _sets(blocks: int, count: int) -> Iterator[list[int]]:
    """Random sets of `count` of the `blocks`."""
    rng = np.random.default_rng((count, blocks))
    for _ in range(DRAWS):
        yield rng.choice(blocks, count, replace=False).tolist()


def _exchanges(stages: list[Any], count: int) -> Iterator[list[tuple[int, int]]]:
    """Random pairs of blocks of one stage, `count` to be exchanged one after the other; `stages` has each block's."""
    pairs = [(a, b) for b in range(len(stages)) for a in range(b) if stages[a] is stages[b]]
    rng = np.random.default_rng((count, len(stages)))
    for _ in range(DRAWS if pairs else 0):
        yield [pairs[index] for index in rng.integers(len(pairs), size=count)]


def _nothing_for(stage: nn.Sequential, number: int) -> tuple[nn.Module, int | str, nn.Module]:
    """What `_replaced` takes to leave a block out."""
    block: Any = stage[number]
    return (stage, number, nn.Identity()) if block.shortcut is None else (block, "branch_scale", _Nothing())


@contextmanager
def _replaced(modules: Iterable[tuple[nn.Module, int | str, nn.Module]]) -> Iterator[None]:
    """With a module for another one, given the parent and the name or number there, for each of `modules`."""
    with ExitStack() as restored:
        for parent, name, module in modules:
            restored.callback(setattr, parent, f"{name}", getattr(parent, f"{name}"))
            setattr(parent, f"{name}", module)
        yield


def _headline(found: dict[str, Any]) -> str:
    errors = [block["error"] for block in found["without"] if block["same"]]
    if not errors:
        return f"training error {100 * found['intact']:.1f} %; no block keeps its dimensions"
    without = 100 * statistics.median(errors)
    return f"training error {100 * found['intact']:.1f} %; without a block {without:.1f} % in the median"


def _why_not(model: ModelConfig) -> str:
    if model.kind == "vgg":
        return "VGG has no blocks"
    return "" if model.shortcut is None else why_undivided(model)


PROBE = Probe(lesion, _headline, _why_not)
