"""Do gradients vanish? Their norm, their signal-to-noise ratio, and how those of neighbouring inputs agree, by layer.

The paper asserts that "backward propagated gradients exhibit healthy norms with BN" (He et al. 2015, section 4.1). The
later argument is that not the norm but the gradient's structure is lost with depth (Balduzzi et al. 2017, "The
shattered gradients problem", arXiv 1702.08591).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resexp.models.layers import CounterRandom
from resexp.probes.subject import Probe, ProbeInput, Probing, shown

BATCHES, SIZE = 16, 128
NEIGHBOURS = 64
"""Images whose neighbours are looked at."""
DISTANCES = (0.01, 0.03, 0.1, 0.3, 1.0)
"""Distances of neighbours, as fractions of the image's norm."""


def gradients(subject: ProbeInput) -> Probing:
    """Gradients of each layer's weights in train mode, on 16 batches of 128 images; fewer where there are fewer images.

    - ``norm``: root mean square over batches of the norm of the loss gradient g;
    - ``snr``: |E g|^2 / E|g - E g|^2, both estimated without bias (it can come out just below zero; NaN where a layer
      gets no gradient);
    - ``weight_norm``.

    ``agreement``: the cosine between the gradients of the batch's loss with respect to an image and to the same image
    with Gaussian noise added, of each relative size in ``distances``; mean over 64 images, which get their noise at
    once.
    """
    model = subject.model.train()
    named = {name: m.weight for name, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    weights = list(named.values())
    sums = [torch.zeros_like(weight) for weight in weights]
    squares = torch.zeros(len(weights), device=subject.images.device)
    size = min(SIZE, len(subject.index) // 2)
    batches = min(BATCHES, len(subject.index) // size)  # no image twice, or the noise would come out too small
    for x, y in subject.split(batches * size, size):
        found = torch.autograd.grad(F.cross_entropy(model(x), y), weights)
        torch._foreach_add_(sums, found)
        squares += torch.stack([gradient.square().sum() for gradient in found])
        yield 0
    mean_square = torch.stack([total.square().sum() for total in sums]) / batches**2  # |mean g|^2
    noise = (squares / batches - mean_square) * batches / (batches - 1)
    signal = mean_square - noise / batches
    layers = [
        {"layer": name, "norm": norm, "snr": snr, "weight_norm": weight.detach().norm().item()}
        for (name, weight), norm, snr in zip(
            named.items(), (squares / batches).sqrt().tolist(), (signal / noise).tolist(), strict=True
        )
    ]
    agreement = []
    for distance in DISTANCES:
        agreement.append(_agreement(subject, distance))
        yield 0
    return {
        "batches": batches,
        "batch_size": size,
        "layers": layers,
        "norm": (squares.sum() / batches).sqrt().item(),
        "snr": (signal.sum() / noise.sum()).item(),
        "distances": list(DISTANCES),
        "agreement": agreement,
    }


def _agreement(subject: ProbeInput, distance: float) -> float:
    ((x, y),) = subject.split(NEIGHBOURS, NEIGHBOURS)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0)).to(x.device)
    norm = x.flatten(1).norm(dim=1) / noise.flatten(1).norm(dim=1)
    neighbour = x + distance * norm[:, None, None, None] * noise
    here, there = _input_gradient(subject, x, y), _input_gradient(subject, neighbour, y)
    return (here * there).sum(1).div(here.norm(dim=1) * there.norm(dim=1)).mean().item()  # NaN where there is none


def _input_gradient(subject: ProbeInput, x: Tensor, y: Tensor) -> Tensor:
    """Gradient of the batch's summed loss with respect to each image, (B, pixels)."""
    for module in subject.model.modules():
        if isinstance(module, CounterRandom):  # what is dropped is the same for neighbours
            module.calls.zero_()
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(subject.model(x), y, reduction="sum"), x)
    return gradient.flatten(1)


def _headline(found: dict[str, Any]) -> str:
    first, *_, last = (layer["norm"] for layer in found["layers"])
    return (
        f"norm {shown(found['norm'])}, first layer {shown(first)}, last {shown(last)}; signal to noise "
        f"{shown(found['snr'])}; neighbours at {found['distances'][2]} agree by {shown(found['agreement'][2])}"
    )


PROBE = Probe(gradients, _headline)
