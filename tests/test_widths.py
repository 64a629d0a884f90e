"""Every narrow net can be trained: no convolution of PyTorch kills the process."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from resexp.config import ModelConfig
from resexp.device.hardware import tune_process
from resexp.models import build_model
from resexp.models.layers import NarrowPointwise

WIDTHS = (*range(1, 9), 12, 20)
"""All below 8, where PyTorch's kernels have tails, and others that are not whole vectors. Tests use these."""


def nets() -> Iterator[ModelConfig]:
    """The smallest net of each kind, width, block, shortcut and place of the stride."""
    for kind, (block, strides) in itertools.product(
        ["plain", "residual", "preact"], [("basic", [None]), ("bottleneck", ["1x1", "3x3"])]
    ):
        shortcuts = [None] if kind == "plain" else ["A", "B", "C"]
        for width, shortcut, stride in itertools.product(WIDTHS, shortcuts, strides):
            values = {"block": block, "width": width, "shortcut": shortcut, "stride_conv": stride}
            yield ModelConfig.model_validate({"kind": kind, **values})


def train_each() -> None:
    """Train each net for a step as a run is trained, and name it before."""
    tune_process()
    images, labels = torch.rand(2, 3, 32, 32).to(memory_format=torch.channels_last), torch.arange(2)
    for config in nets():
        print(config.kind, config.block, config.width, config.shortcut, config.stride_conv, flush=True)
        model = build_model(config).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        F.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    print("trained all")


@pytest.mark.slow
@pytest.mark.parametrize("instructions", ["AVX2", "DEFAULT"])
def test_every_narrow_net_can_be_trained(instructions: str) -> None:
    """In a process of its own, since a fault ends it by a signal; oneDNN has other kernels for CPUs without AVX-512."""
    code = "from tests.test_widths import train_each; train_each()"
    environment = {**os.environ, "ONEDNN_MAX_CPU_ISA": instructions}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "trained all"), done.stderr


@pytest.mark.parametrize("bias", [True, False])
def test_a_narrow_pointwise_convolution_is_pytorchs(bias: bool) -> None:
    torch.manual_seed(0)
    ours, x = NarrowPointwise(5, 9, 1, 2, bias=bias), torch.rand(4, 5, 6, 7)
    theirs = nn.Conv2d(5, 9, 1, 2, bias=bias)
    theirs.load_state_dict(ours.state_dict())
    results = []
    for layer in (ours, theirs):
        inputs = x.clone().requires_grad_()
        y = layer(inputs)
        results.append((y, *torch.autograd.grad(y.square().sum(), [inputs, *layer.parameters()])))
    for own, other in zip(*results, strict=True):
        torch.testing.assert_close(own, other)
