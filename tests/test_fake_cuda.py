"""A step and an evaluation on a CUDA device that is not there: FakeTensorMode keeps shapes, types and devices, no data.

What would make the host wait for the GPU, or copy between them, shows as an operation. Autograd needs a driver, so
hand-made gradients take the place of the backward pass, which no line of this project has a part in.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, DynamicOutputShapeException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from resexp.config import RunConfig
from resexp.data import open_dataset
from resexp.data.imagenet.example import make_example
from resexp.data.imagenet.loader import Loader, Pending
from resexp.data.imagenet.statistics import statistics
from resexp.device.hardware import Hardware
from resexp.training.trainer import Trainer
from tests.test_imagenet import config as of_images
from tests.test_imagenet import images_of
from tests.test_training import tiny

CUDA = torch.device("cuda:0")
OF_DATA = {"nonzero", "_unique2", "masked_select", "equal", "is_nonzero", "_local_scalar_dense"}
"""Operations whose result, or its shape, the host must read."""


class Crossings(TorchDispatchMode):
    """Notes each operation that makes the host wait, or that has tensors of host and device."""

    def __init__(self, pinned: Container[int] = ()) -> None:
        """`pinned`: storages of the host from which a copy that is not waited for may begin."""
        super().__init__()
        self.found: list[str] = []
        self.operations = 0
        self.copies = 0
        self.pinned = pinned

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        self.operations += 1
        if name in OF_DATA:
            self.found.append(name)
        out = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs, out)) if isinstance(leaf, Tensor)]
        if len({tensor.device.type for tensor in tensors}) > 1:
            host = [tensor.untyped_storage()._cdata for tensor in tensors if tensor.device.type == "cpu"]
            queued = (kwargs or {}).get("non_blocking") or (name == "copy_" and args[2:] == (True,))
            if name in ("copy_", "_to_copy") and queued and all(storage in self.pinned for storage in host):
                self.copies += 1
            else:
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

    def make(parameters: Iterator[nn.Parameter], lr: Tensor, *given: Any, **options: Any) -> torch.optim.Optimizer:
        made = made_by(parameters, 1.0, *given, **options)  # type: ignore[call-arg]
        made.param_groups[0]["lr"] = lr
        return made

    return make


PINNED: dict[int, Tensor] = {}
"""Tensors of the host, by their storage, whose memory is pinned."""


def pin(tensor: Tensor) -> Tensor:
    made = tensor.clone()
    PINNED[made.untyped_storage()._cdata] = made
    return made


@pytest.fixture
def on_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Trainer]]:
    """Makes a trainer on the device that is not there."""
    monkeypatch.setattr(nn.Module, "_apply", converted)
    monkeypatch.setattr(torch.optim, "SGD", blind(torch.optim.SGD))
    monkeypatch.setattr(torch.optim, "AdamW", blind(torch.optim.AdamW))
    monkeypatch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(Tensor, "pin_memory", pin)  # fake mode has none
    trainers: list[Trainer] = []

    def backward(loss: Tensor, *_: Any, **__: Any) -> None:
        for parameter in trainers[-1].model.parameters():
            given = torch.empty_like(parameter)
            parameter.grad = given if parameter.grad is None else parameter.grad.add_(given)

    monkeypatch.setattr(torch.autograd, "backward", backward)

    def make(precision: str = "fp32", config: RunConfig | None = None, **sections: dict[str, Any]) -> Trainer:
        config = config or tiny(**sections)
        trainers.append(Trainer(config, open_dataset(config.data), Hardware(CUDA, precision)))
        trainers[-1].pipeline.prepare(0)
        trainers[-1]._update()  # the first makes what later ones have
        return trainers[-1]

    with FakeTensorMode(allow_non_fake_inputs=True), InPlace():
        yield make
    for trainer in trainers:
        trainer.close()


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
    assert crossings(trainer._evaluator._forward) == []


@pytest.mark.parametrize(
    ("recipe", "precision"),
    [
        *((recipe, "bf16") for recipe in RECIPES),
        *((recipe, precision) for recipe in (RECIPES[0], RECIPES[2], RECIPES[-1]) for precision in ("fp32", "fp16")),
    ],
    ids=str,
)
def test_steps_and_evaluations_of_every_recipe_stay_on_the_device(
    on_cuda: Callable[..., Trainer], precision: str, recipe: dict[str, Any]
) -> None:
    trainer = on_cuda(precision, train=recipe)
    assert crossings(trainer._update) == []
    trainer.model.eval()
    assert crossings(trainer._evaluator._forward) == []


def waits(trainer: Trainer) -> list[str]:
    """What the host waits for in steps over an epoch's end, in evaluations, and in BN's statistics."""
    with Crossings(PINNED) as seen:
        for step in range(1, 10):
            trainer.pipeline.prepare(step)
        for split in ("train", "test"):
            with contextlib.suppress(DataDependentOutputException):  # the sums, in the end
                for _ in trainer.evaluate(split, lambda: False):
                    pass
            assert seen.found.pop() == "_local_scalar_dense"
        for _ in trainer.recompute_bn(30, lambda: False):
            pass
    assert seen.copies + len(seen.found) > 0
    return seen.found


def test_what_goes_to_the_device_later_is_not_waited_for(on_cuda: Callable[..., Trainer]) -> None:
    assert waits(on_cuda()) == []


@pytest.fixture
def images(tmp_path: Path) -> RunConfig:
    """A run on images that are decoded while it trains."""
    make_example(tmp_path / "images", 3, 14, 5, 0)
    made = of_images(tmp_path / "images")
    statistics(images_of(made))
    return made


@pytest.fixture
def streamed(
    images: RunConfig, on_cuda: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch
) -> Callable[[], Trainer]:
    """Makes its trainer, which believes every image to have come."""
    monkeypatch.setattr(Loader, "load", lambda self, wants, out: Pending(self, []))
    monkeypatch.setattr(Tensor, "numpy", lambda self: None)
    monkeypatch.setattr(torch.cuda, "Event", Mock)
    zeros = torch.zeros

    def made(*shape: Any, pin_memory: bool = False, **options: Any) -> Tensor:
        return pin(zeros(*shape, **options)) if pin_memory else zeros(*shape, **options)

    monkeypatch.setattr(torch, "zeros", made)
    return lambda: on_cuda(config=images)


def test_images_that_are_decoded_meanwhile_are_not_waited_for(streamed: Callable[[], Trainer]) -> None:
    assert waits(streamed()) == []


@pytest.mark.parametrize("control", ["not pinned", "waited for"])
def test_a_copy_that_waits_shows(
    on_cuda: Callable[..., Trainer], monkeypatch: pytest.MonkeyPatch, control: str
) -> None:
    trainer = on_cuda()
    if control == "not pinned":
        monkeypatch.setattr(Tensor, "pin_memory", lambda self: self)
    else:
        monkeypatch.setattr(
            "resexp.data.input.to_device", lambda array, device: pin(torch.from_numpy(array)).to(device)
        )
    assert "_to_copy" in waits(trainer)


def test_a_value_that_the_host_reads_shows(on_cuda: Callable[..., Trainer]) -> None:
    trainer = on_cuda()
    with Crossings() as seen, pytest.raises(DataDependentOutputException):
        trainer.schedule.rate.item()
    assert seen.found == ["_local_scalar_dense"]


@pytest.mark.parametrize(
    "control", ["a copy from the host", "a number of the host", "a scalar of the host", "a shape of data"]
)
def test_what_crosses_shows(on_cuda: Callable[..., Trainer], control: str) -> None:
    trainer = on_cuda()
    watch = trainer.schedule.update_warmup

    def crosses(error: Tensor) -> None:
        watch(error)
        if control == "a copy from the host":
            trainer.schedule.rate.copy_(torch.empty(()))
        elif control == "a number of the host":
            torch.tensor(0.1, device=CUDA)
        elif control == "a scalar of the host":
            trainer.schedule.rate.mul_(torch.empty(()))
        else:
            torch.nonzero(error)

    trainer.schedule.update_warmup = crosses  # type: ignore[method-assign]
    refused = DynamicOutputShapeException if control == "a shape of data" else ()
    with Crossings() as seen, contextlib.suppress(refused):
        trainer._update()
    assert seen.found in (["copy_"], ["_to_copy"], ["mul_"], ["nonzero"])
