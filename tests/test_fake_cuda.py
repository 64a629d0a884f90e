"""A step and an evaluation on a CUDA device that is not there: FakeTensorMode keeps shapes, types and devices, no data.

What would make the host wait for the GPU, or copy between them, shows as an operation. Autograd needs a driver, so
hand-made gradients take the place of the backward pass, which no line of this project has a part in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from resexp.data import open_dataset
from resexp.device.hardware import Hardware
from resexp.training.trainer import Trainer
from tests.test_training import tiny

CUDA = torch.device("cuda:0")
OF_DATA = {"nonzero", "_unique2", "masked_select", "equal", "is_nonzero", "_local_scalar_dense"}
"""Operations whose result, or its shape, the host must read."""


class Crossings(TorchDispatchMode):
    """Notes each operation that makes the host wait, or that has tensors of host and device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self.operations = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        self.operations += 1
        if name in OF_DATA:
            self.found.append(name)
        out = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        if len({tensor.device.type for tensor in tensors}) > 1:
            self.found.append(name)
        return out


class InPlace(TorchDispatchMode):
    """Leaves out operations that only write what they are given, and that fake tensors lack."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        fused = function.overloadpacket.__name__ in ("_fused_sgd_", "_fused_adamw_")
        return None if fused else function(*args, **(kwargs or {}))


def converted(self: nn.Module, convert: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`nn.Module._apply`, which can't put a fake parameter into the place of another."""
    for module in self.modules():
        for name, parameter in module._parameters.items():
            module._parameters[name] = None if parameter is None else nn.Parameter(convert(parameter))
        for name, buffer in module._buffers.items():
            module._buffers[name] = None if buffer is None else convert(buffer)
    return self


def blind(made_by: type[torch.optim.Optimizer]) -> Callable[..., torch.optim.Optimizer]:
    """An optimiser of torch's, which looks at its rate when it is made."""

    def make(parameters: Iterator[nn.Parameter], lr: Tensor, **options: Any) -> torch.optim.Optimizer:
        made = made_by(parameters, lr=1.0, **options)  # type: ignore[call-arg]
        made.param_groups[0]["lr"] = lr
        return made

    return make


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Trainer]]:
    """Makes a trainer on the device that is not there."""
    monkeypatch.setattr(nn.Module, "_apply", converted)
    monkeypatch.setattr(torch.optim, "SGD", blind(torch.optim.SGD))
    monkeypatch.setattr(torch.optim, "AdamW", blind(torch.optim.AdamW))
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)  # fake mode has none
    trainers: list[Trainer] = []

    def backward(loss: Tensor) -> None:
        for parameter in trainers[-1].model.parameters():
            given = torch.empty_like(parameter)
            parameter.grad = given if parameter.grad is None else parameter.grad.add_(given)

    monkeypatch.setattr(torch.autograd, "backward", backward)

    def make(precision: str = "fp32", **sections: dict[str, Any]) -> Trainer:
        config = tiny(**sections)
        trainers.append(Trainer(config, open_dataset(config.data), Hardware(CUDA, precision)))
        trainers[-1].pipeline.prepare(0)
        trainers[-1]._update()  # the first makes what later ones have
        return trainers[-1]

    with FakeTensorMode(allow_non_fake_inputs=True), InPlace():
        yield make


def crossings(work: Callable[[], object]) -> list[str]:
    with Crossings() as seen:
        work()
    assert seen.operations > 0
    return seen.found


NETS: list[dict[str, Any]] = [
    {"kind": "plain"},
    {"kind": "residual"},
    {"shortcut": "B"},
    {"shortcut": "C"},
    {"block": "bottleneck", "depth": 11},
    {"kind": "preact"},
    {"norm": "fixup"},
    {"norm": "none", "kind": "plain"},
    {"residual_init": "rezero"},
    {"residual_init": "zero-gamma"},
    {"drop_path": 0.3},
    {"width": 16, "depth": 20},
]
RECIPES: list[dict[str, Any]] = [
    {},
    {"warmup_lr": 0.01},
    {"microbatch": 16},
    {"schedule": "plateau"},
    {"milestones": [4, 8]},
    {"optimizer": "nesterov"},
    {"optimizer": "adamw"},
    {"optimizer": "muon"},
    {"schedule": "cosine", "warmup_steps": 4},
    {"label_smoothing": 0.1, "clip_norm": 1.0},
]


@pytest.mark.parametrize("model", NETS, ids=lambda net: "-".join(map(str, net.values())))
def test_steps_and_evaluations_of_every_net_stay_on_the_device(
    on_cuda: Callable[..., Trainer], model: dict[str, Any]
) -> None:
    trainer = on_cuda("bf16", model=model)
    assert crossings(trainer._update) == []
    trainer.model.eval()
    assert crossings(trainer._evaluator._look) == []


@pytest.mark.parametrize(
    ("recipe", "precision"),
    [
        (recipe, precision)
        for recipe in RECIPES
        for precision in ("fp32", "bf16", "fp16")
        if (recipe.get("optimizer"), precision) != ("muon", "fp16")  # which is refused
    ],
    ids=str,
)
def test_steps_and_evaluations_of_every_recipe_stay_on_the_device(
    on_cuda: Callable[..., Trainer], precision: str, recipe: dict[str, Any]
) -> None:
    trainer = on_cuda(precision, train=recipe)
    assert crossings(trainer._update) == []
    trainer.model.eval()
    assert crossings(trainer._evaluator._look) == []


def test_a_value_that_the_host_reads_shows(on_cuda: Callable[..., Trainer]) -> None:
    trainer = on_cuda()
    with Crossings() as seen, pytest.raises(DataDependentOutputException):
        trainer.schedule.rate.item()
    assert seen.found == ["_local_scalar_dense"]


@pytest.mark.parametrize("control", ["a copy from the host", "a scalar of the host", "a shape of data"])
def test_what_crosses_shows(on_cuda: Callable[..., Trainer], control: str) -> None:
    trainer = on_cuda()
    watch = trainer.schedule.update_warmup

    def crosses(error: Tensor) -> None:
        watch(error)
        if control == "a copy from the host":
            trainer.schedule.rate.copy_(torch.empty(()))
        elif control == "a scalar of the host":
            trainer.schedule.rate.mul_(torch.empty(()))
        else:
            torch.nonzero(error)

    trainer.schedule.update_warmup = crosses  # type: ignore[method-assign]
    refused = DynamicOutputShapeException if control == "a shape of data" else ()
    with Crossings() as seen, contextlib.suppress(refused):
        trainer._update()
    assert seen.found in (["copy_"], ["mul_"], ["nonzero"])
