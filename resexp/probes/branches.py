"""How large F(x) is, compared with x."""

from __future__ import annotations

import statistics
from collections import defaultdict
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from resexp.config import ModelConfig
from resexp.models.blocks import Block
from resexp.probes.subject import SAMPLE, Probe, ProbeInput, Probing, forward, wide


def branches(subject: ProbeInput) -> Probing:
    """In eval mode, on 1,000 training images: the norm of F(x) and of the shortcut of x in each block, root mean square
    over images. "It should be easier to find perturbations with reference to an identity mapping" (section 3.1)."""
    model = subject.model.eval()
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, Block)}
    squares: dict[tuple[str, str], Tensor | float] = defaultdict(float)

    def hook(name: str, part: str, module: nn.Module) -> RemovableHandle:
        def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            squares[name, part] = squares[name, part] + wide(output).square().sum()

        return module.register_forward_hook(add)

    images = 0
    with ExitStack() as hooks:
        for name, block in blocks.items():
            assert block.shortcut is not None
            hooks.enter_context(hook(name, "branch", block.branch_scale))
            hooks.enter_context(hook(name, "shortcut", block.shortcut))
        for x, _ in subject.split(SAMPLE):
            forward(model, x)
            images += len(x)
            yield 0

    def norm(name: str, part: str) -> float:
        return float((torch.as_tensor(squares[name, part]) / images).sqrt())

    rows = []
    for name in blocks:
        branch, shortcut = norm(name, "branch"), norm(name, "shortcut")
        ratio = branch / shortcut if shortcut else float("inf")
        rows.append({"block": name, "branch": branch, "shortcut": shortcut, "ratio": ratio})
    return {"blocks": rows}


def _headline(found: dict[str, Any]) -> str:
    ratios = [block["ratio"] for block in found["blocks"] if block["ratio"] is not None]
    if not ratios:
        return "nothing comes through"
    return f"|F(x)| is {min(ratios):.2f} to {max(ratios):.2f} of |x|, median {statistics.median(ratios):.2f}"


def _why_not(model: ModelConfig) -> str:
    return f"a {model.kind} net has no residual branches" if model.shortcut is None else ""


PROBE = Probe(branches, _headline, _why_not)
