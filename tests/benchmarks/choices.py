"""What each choice that makes a step faster brings: it is taken back, alone, and both are timed in turns.

`make benchmark`. On a GPU also what CUDA graphs bring; packs, baselines and ceilings are `resexp bench`.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn import functional as F

from resexp.bench.steps import ours
from resexp.bench.turns import Case, Loop, in_turns
from resexp.config import RunConfig, ShapesData
from resexp.device.hardware import choose_hardware
from resexp.training import trainer as trainer_module
from resexp.utils.logs import log_to

CONFIG = RunConfig(data=ShapesData(source="shapes", train_images=50_000, test_images=100, size=32))


def memory_given_back(case: Case, facts: dict[str, Any]) -> Loop:
    """Without keeping the activations' memory in the process (CPU)."""
    with mock.patch("resexp.bench.steps.tune_process"):
        return ours(case, facts)


def batches_counted(case: Case, facts: dict[str, Any]) -> Loop:
    """With BN that counts batches, one kernel more a layer."""
    with mock.patch("resexp.models.blocks.BatchNorm.forward", nn.BatchNorm2d.forward):
        loop = ours(case, facts)

    def counted(steps: int) -> None:
        with mock.patch("resexp.models.blocks.BatchNorm.forward", nn.BatchNorm2d.forward):
            loop(steps)

    return counted


def channels_first(case: Case, facts: dict[str, Any]) -> Loop:
    """With images and weights in PyTorch's usual layout."""
    original = trainer_module.build_model
    with mock.patch.object(trainer_module, "build_model", lambda *a: _first(original(*a))):
        return ours(case, facts)


def _first(model: nn.Module) -> nn.Module:
    to = model.to
    model.to = lambda *a, **k: model if "memory_format" in k else to(*a, **k)  # type: ignore[method-assign, assignment]
    model.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
    return model


def relu_in_place(case: Case, facts: dict[str, Any]) -> Loop:
    """With ReLUs that overwrite their input; not a choice made, but one that could be."""
    plain = F.relu

    def loop(steps: int) -> None:
        with mock.patch.object(F, "relu", lambda x: plain(x, inplace=True)):
            run(steps)

    run = ours(case, facts)
    return loop


def main() -> None:
    """Measure, and print how long a step takes without each choice, as a ratio to a step as it is."""
    config = CONFIG
    eager = config.with_train(cuda_graphs=False)
    compiled = config.with_train(compile=True)
    gpu = choose_hardware(config.train).device.type == "cuda"
    cases = [
        Case("as it is", ours, config, threads=1),
        Case("memory given back", memory_given_back, config, threads=1),
        Case("channels first", channels_first, config, threads=1),
        Case("batches counted", batches_counted, config, threads=1),
        Case("ReLU in place", relu_in_place, config, threads=1),
        Case("blocks compiled", ours, compiled, threads=1),
        *([Case("no CUDA graph", ours, eager, threads=1)] if gpu else []),
    ]
    log_to(lambda line: print(line, file=sys.stderr))
    measured = in_turns(cases, rounds=5, seconds=2.0)
    shipped = measured[0].rates()
    print(f"ResNet-20, {choose_hardware(config.train).name}, PyTorch {torch.__version__}: time of a step / as it is")
    for m in measured:
        ratios = [a / b for a, b in zip(shipped, m.rates(), strict=True)]
        print(f"{m.case.what:20} {statistics.median(ratios):.3f}  ({min(ratios):.3f}-{max(ratios):.3f})")


if __name__ == "__main__":
    main()
