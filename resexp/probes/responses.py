"""How strongly each 3x3 layer responds (He et al. 2015, Fig. 7)."""

from __future__ import annotations

from typing import Any

from torch import nn

from resexp.config import ModelConfig
from resexp.probes.subject import Probe, ProbeInput, Probing, moments_of_outputs


def responses(subject: ProbeInput) -> Probing:
    """In eval mode, on 1,000 training images: the standard deviation of each 3x3 layer's response, after BN and before
    ReLU and addition (section 4.2, "Analysis of Layer Responses", Fig. 7).

    The paper does not say over which axes. ``std`` is over images, positions and channels together; ``channel_std``
    over images and positions, averaged over channels. ``mean_std`` is the mean of ``std`` over layers.
    """
    model = subject.model.eval()
    modules = dict(model.named_modules())
    norms: dict[str, nn.Module] = {}
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            own = name.removesuffix(".1") if isinstance(modules[name.rpartition(".")[0]], nn.Sequential) else name
            norms[own] = modules["bn".join(own.rsplit("conv", 1))]
    found = yield from moments_of_outputs(subject, norms)
    layers: list[dict[str, Any]] = [
        {"layer": name, "std": moments.variance**0.5, "channel_std": moments.channel_std}
        for name, moments in found.items()
    ]
    return {"layers": layers, "mean_std": sum(row["std"] for row in layers) / len(layers)}


def _why_not(model: ModelConfig) -> str:
    if model.kind in ("preact", "vgg"):
        return f"a {model.kind} net has no BN between a 3x3 layer and its ReLU"
    return ""


PROBE = Probe(responses, lambda found: f"mean over layers {found['mean_std']:.2f}", _why_not)
