"""What flows through a net: each layer's output, each 3x3 layer's response, and branches compared with their
shortcuts."""

from __future__ import annotations

from collections import defaultdict
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from resexp.models.blocks import Block
from resexp.probes.subject import Moments, ProbeInput, Probing, forward, wide

IMAGES = 1000


def signals(subject: ProbeInput) -> Probing:
    """In train mode, on 1,000 images: mean and variance of each convolution's output (before BN) and of each block's,
    over images, positions and channels. "Forward propagated signals have non-zero variances" (section 4.1)."""
    model = subject.model.train()
    watched = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear | Block)}
    found = {name: Moments() for name in watched}
    with ExitStack() as hooks:
        for name, module in watched.items():
            hooks.enter_context(found[name].of_outputs(module))
        for x, _ in subject.split(IMAGES):
            forward(model, x)
            yield 0
    rows = [{"layer": name, "mean": moments.mean, "variance": moments.variance} for name, moments in found.items()]
    return {
        "layers": [row for row in rows if not isinstance(watched[str(row["layer"])], Block)],
        "blocks": [row for row in rows if isinstance(watched[str(row["layer"])], Block)],
    }


def responses(subject: ProbeInput) -> Probing:
    """In eval mode, on 1,000 training images: the standard deviation of each 3x3 layer's response, after BN and before
    ReLU and addition (section 4.2, "Analysis of Layer Responses", Fig. 7).

    The paper does not say over which axes. ``std`` is over images, positions and channels together; ``channel_std``
    over images and positions, averaged over channels. ``mean_std`` is the mean of ``std`` over layers.
    """
    model = subject.model.eval()
    modules = dict(model.named_modules())
    found: dict[str, Moments] = {}
    with ExitStack() as hooks:
        for name, module in modules.items():
            if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                own = name.removesuffix(".1") if isinstance(modules[name.rpartition(".")[0]], nn.Sequential) else name
                found[own] = Moments()
                hooks.enter_context(found[own].of_outputs(modules["bn".join(own.rsplit("conv", 1))]))
        for x, _ in subject.split(IMAGES):
            forward(model, x)
            yield 0
    layers = [
        {"layer": name, "std": moments.variance**0.5, "channel_std": moments.channel_std}
        for name, moments in found.items()
    ]
    return {"layers": layers, "mean_std": sum(float(str(row["std"])) for row in layers) / len(layers)}


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
            hooks.enter_context(hook(name, "branch", block.gate))
            hooks.enter_context(hook(name, "shortcut", block.shortcut))
        for x, _ in subject.split(IMAGES):
            forward(model, x)
            images += len(x)
            yield 0

    def norm(name: str, part: str) -> float:
        return float((torch.as_tensor(squares[name, part]) / images).sqrt())

    rows = [{"block": n, "branch": norm(n, "branch"), "shortcut": norm(n, "shortcut")} for n in blocks]
    for row in rows:
        row["ratio"] = float(row["branch"]) / float(row["shortcut"]) if row["shortcut"] else float("inf")
    return {"blocks": rows}
