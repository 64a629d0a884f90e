"""The loss around a net, along two random directions (Li et al. 2018, arXiv 1712.09913)."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from resexp.probes.subject import Probe, ProbeInput, Probing, ends_of, error_and_loss, in_eval_mode, shown

POINTS = 17
"""A side; odd, so that the net itself is one of them."""
REACH = 1.0
IMAGES = 500


def landscape(subject: ProbeInput) -> Probing:
    """Mean loss in eval mode on 500 training images at each point of a 17 x 17 grid over [-1, 1]^2, in units of two
    directions that are normalised filter by filter: each filter of a direction has the norm of the net's own. Biases
    and what belongs to BN stay as they are."""
    model = in_eval_mode(subject)
    batches = list(subject.split(IMAGES))
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    origin = [weight.detach().clone() for weight in weights]
    generator = torch.Generator().manual_seed(0)
    across, up = ([_direction(weight, generator) for weight in origin] for _ in range(2))
    steps = torch.linspace(-REACH, REACH, POINTS).tolist()
    found = []
    for b, a in product(steps, steps):
        with torch.no_grad():
            for weight, begin, x, y in zip(weights, origin, across, up, strict=True):
                weight.copy_(begin + a * x + b * y)
        found.append(error_and_loss(model, batches))
        yield 0
    errors, losses = np.reshape(found, (POINTS, POINTS, 2)).transpose(2, 0, 1).tolist()
    return {"steps": steps, "loss": losses, "error": errors, "images": sum(len(y) for _, y in batches)}


def _direction(weight: Tensor, generator: torch.Generator) -> Tensor:
    direction = torch.randn(weight.shape, generator=generator).to(weight.device)
    norms: Tensor = weight.flatten(1).norm(dim=1) / direction.flatten(1).norm(dim=1)
    return direction * norms.view(-1, *[1] * (weight.dim() - 1))


def _headline(found: dict[str, Any]) -> str:
    losses = [loss for row in found["loss"] for loss in row]
    return f"loss {shown(losses[len(losses) // 2])}, around it {ends_of(losses)}"


PROBE = Probe(landscape, _headline)
