"""What flows through a net: mean and variance of each layer's output."""

from __future__ import annotations

from typing import Any

from torch import nn

from resexp.models.blocks import Block
from resexp.probes.subject import Probe, ProbeInput, Probing, moments_of_outputs


def signals(subject: ProbeInput) -> Probing:
    """In train mode, on 1,000 images: mean and variance of each convolution's output (before BN) and of each block's,
    over images, positions and channels. "Forward propagated signals have non-zero variances" (section 4.1)."""
    model = subject.model.train()
    watched = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear | Block)}
    found = yield from moments_of_outputs(subject, watched)
    rows: dict[str, list[dict[str, Any]]] = {"layers": [], "blocks": []}
    for name, moments in found.items():
        kind = "blocks" if isinstance(watched[name], Block) else "layers"
        rows[kind].append({"layer": name, "mean": moments.mean, "variance": moments.variance})
    return rows


def _headline(found: dict[str, Any]) -> str:
    variances = [layer["variance"] for layer in found["layers"]]
    return f"variance of a layer's output {min(variances):.3g} to {max(variances):.3g}"


PROBE = Probe(signals, _headline)
