"""What comes out of the layers and blocks of a net: the probes signals, responses and branches."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Generator, Hashable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from resexp.config import ModelConfig
from resexp.models.blocks import Block, why_undivided, why_unnamed
from resexp.probes.subject import SAMPLE, Probe, ProbeInput, Probing, ends_of, in_eval_mode, shown

KeyT = TypeVar("KeyT", bound=Hashable)


class Moments(NamedTuple):
    """Mean and variance of a layer's output over images and positions, (C,) each."""

    mean: Tensor
    variance: Tensor

    @property
    def overall_variance(self) -> float:
        """The variance over images, positions and channels together."""
        return float(self.variance.mean() + self.mean.var(correction=0))


def channel_sums(x: Tensor) -> Tensor:
    """The number, the sum and the sum of squares of the values (B, C, ...) of each channel, (3, C)."""
    x = x.transpose(0, 1).flatten(1)
    return torch.stack((torch.full_like(x[:, 0], x.shape[1]), x.sum(1), x.square().sum(1)))


def moments(sums: Tensor) -> Moments:
    """The moments of outputs, given their `channel_sums`."""
    mean, squares = sums[1:] / int(sums[0, 0])
    return Moments(mean, (squares - mean**2).clamp(min=0))


@contextmanager
def summed_outputs(
    modules: Mapping[KeyT, nn.Module], measure: Callable[[Tensor], Tensor]
) -> Iterator[dict[KeyT, Tensor]]:
    """While it is open, add up what `measure` makes of each module's outputs, in float64 (float32 on MPS)."""
    sums: dict[KeyT, Tensor] = {}

    def adding_to(key: KeyT) -> Callable[[nn.Module, Any, Tensor], None]:
        def add(module: nn.Module, inputs: Any, output: Tensor) -> None:
            output = output.detach()
            measured = measure(output.float() if output.device.type == "mps" else output.double())
            sums[key] = sums[key] + measured if key in sums else measured

        return add

    with ExitStack() as hooks:
        for key, module in modules.items():
            hooks.enter_context(module.register_forward_hook(adding_to(key)))
        yield sums


def _over_sample(
    subject: ProbeInput, modules: Mapping[KeyT, nn.Module], measure: Callable[[Tensor], Tensor]
) -> Generator[int, None, dict[KeyT, Tensor]]:
    """`summed_outputs` over SAMPLE images, in the mode that the net is in."""
    with summed_outputs(modules, measure) as sums:
        for x, _ in subject.split(SAMPLE):
            with torch.no_grad():  # for the whole thread, so it must end before another run has its turn
                subject.model(x)
            yield 0
    return {key: sums[key] for key in modules if key in sums}


def signals(subject: ProbeInput) -> Probing:
    """In train mode, on 1,000 images: mean and variance of each convolution's output (before BN) and of each block's,
    over images, positions and channels. "Forward propagated signals have non-zero variances" (section 4.1)."""
    model = subject.model.train()
    watched = {n: m for n, m in model.named_modules() if isinstance(m, nn.Conv2d | nn.Linear | Block)}
    sums = yield from _over_sample(subject, watched, channel_sums)
    rows: dict[str, list[dict[str, Any]]] = {"layers": [], "blocks": []}
    for name, found in sums.items():
        of = moments(found)
        row = {"layer": name, "mean": float(of.mean.mean()), "variance": of.overall_variance}
        rows["blocks" if isinstance(watched[name], Block) else "layers"].append(row)
    return rows


def _signals_headline(found: dict[str, Any]) -> str:
    return f"variance of a layer's output {ends_of([layer['variance'] for layer in found['layers']])}"


def responses(subject: ProbeInput) -> Probing:
    """In eval mode, on 1,000 training images: the standard deviation of each 3x3 layer's response, after BN and before
    ReLU and addition (section 4.2, "Analysis of Layer Responses", Fig. 7).

    The paper does not say over which axes. ``std`` is over images, positions and channels together; ``channel_std``
    over images and positions, averaged over channels. ``mean_std`` is the mean of ``std`` over layers.
    """
    model = in_eval_mode(subject)
    pairs = {"conv": "bn"}
    for name, module in model.named_modules():
        if isinstance(module, Block):
            pairs |= {f"{name}.conv{number}": f"{name}.bn{number}" for number in range(1, module.layers + 1)}
    norms = {conv: model.get_submodule(bn) for conv, bn in pairs.items() if _is_3x3(model.get_submodule(conv))}
    sums = yield from _over_sample(subject, norms, channel_sums)
    layers: list[dict[str, Any]] = []
    for name, found in sums.items():
        of = moments(found)
        std, channel_std = of.overall_variance**0.5, float(of.variance.sqrt().mean())
        layers.append({"layer": name, "std": std, "channel_std": channel_std})
    return {"layers": layers, "mean_std": sum(row["std"] for row in layers) / len(layers)}


def _is_3x3(layer: nn.Module) -> bool:
    *_, convolution = [module for module in layer.modules() if not isinstance(module, nn.Sequential)]
    return isinstance(convolution, nn.Conv2d) and convolution.kernel_size == (3, 3)


def _why_no_responses(model: ModelConfig) -> str:
    if model.kind in ("preact", "vgg"):
        return f"a {model.kind} net has no BN between a 3x3 layer and its ReLU"
    return why_unnamed(model)


def branches(subject: ProbeInput) -> Probing:
    """In eval mode, on 1,000 training images: the norm of F(x) and of the shortcut of x in each block, root mean square
    over images. "It should be easier to find perturbations with reference to an identity mapping" (section 3.1)."""
    model = in_eval_mode(subject)
    blocks = {name: module for name, module in model.named_modules() if isinstance(module, Block)}
    parts = {f"{name}.{part}": blocks[name].get_submodule(part) for name in blocks for part in _PARTS}
    squares = yield from _over_sample(subject, parts, lambda output: output.square().sum())
    images = min(SAMPLE, len(subject.index))
    rows = []
    for name in blocks:
        branch, shortcut = (float((squares[f"{name}.{part}"] / images).sqrt()) for part in _PARTS)
        ratio = branch / shortcut if shortcut else float("inf")
        rows.append({"block": name, "branch": branch, "shortcut": shortcut, "ratio": ratio})
    return {"blocks": rows}


_PARTS = ("branch_scale", "shortcut")
"""What a block adds up, by the names of the modules that put it out."""


def _branches_headline(found: dict[str, Any]) -> str:
    ratios = [block["ratio"] for block in found["blocks"] if block["ratio"] is not None]
    if not ratios:
        return "nothing comes through"
    return f"|F(x)| is {min(ratios):.2f} to {max(ratios):.2f} of |x|, median {statistics.median(ratios):.2f}"


def _why_no_branches(model: ModelConfig) -> str:
    return f"a {model.kind} net has no residual branches" if model.shortcut is None else why_undivided(model)


SIGNALS = Probe(signals, _signals_headline)
RESPONSES = Probe(responses, lambda found: f"mean over layers {shown(found['mean_std'])}", _why_no_responses)
BRANCHES = Probe(branches, _branches_headline, _why_no_branches)
