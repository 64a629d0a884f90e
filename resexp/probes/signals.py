"""What flows through a net: mean and variance of each layer's output."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from torch import nn

from resexp.models.blocks import Block
from resexp.probes.subject import SAMPLE, Moments, Probe, ProbeInput, Probing, forward


def signals(subject: ProbeInput) -> Probing:
    """In train mode, on 1,000 images: mean and variance of each convolution's output (before BN) and of each block's,
    over images, positions and channels. "Forward propagated signals have non-zero variances" (section 4.1)."""
    model = subject.model.train()
    watched = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear | Block)}
    found = {name: Moments() for name in watched}
    with ExitStack() as hooks:
        for name, module in watched.items():
            hooks.enter_context(found[name].of_outputs(module))
        for x, _ in subject.split(SAMPLE):
            forward(model, x)
            yield 0
    rows = [{"layer": name, "mean": moments.mean, "variance": moments.variance} for name, moments in found.items()]
    return {
        "layers": [row for row in rows if not isinstance(watched[str(row["layer"])], Block)],
        "blocks": [row for row in rows if isinstance(watched[str(row["layer"])], Block)],
    }


def _headline(found: dict[str, Any]) -> str:
    variances = [layer["variance"] for layer in found["layers"]]
    return f"variance of a layer's output {min(variances):.3g} to {max(variances):.3g}"


PROBE = Probe(signals, _headline)
