"""How strongly each 3x3 layer responds (He et al. 2015, Fig. 7)."""

from __future__ import annotations

from contextlib import ExitStack

from torch import nn

from resexp.config import ModelConfig
from resexp.probes.subject import SAMPLE, Moments, Probe, ProbeInput, Probing, forward


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
        for x, _ in subject.split(SAMPLE):
            forward(model, x)
            yield 0
    layers = [
        {"layer": name, "std": moments.variance**0.5, "channel_std": moments.channel_std}
        for name, moments in found.items()
    ]
    return {"layers": layers, "mean_std": sum(float(str(row["std"])) for row in layers) / len(layers)}


def _why_not(model: ModelConfig) -> str:
    if model.kind in ("preact", "vgg"):
        return f"a {model.kind} net has no BN between a 3x3 layer and its ReLU"
    return ""


PROBE = Probe(responses, lambda found: f"mean over layers {found['mean_std']:.2f}", _why_not)
