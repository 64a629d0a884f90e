"""Checks a configuration with plug-ins by one training step on the CPU before the sweep starts."""

from __future__ import annotations

import functools
import io

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resexp.config import RunConfig
from resexp.config.plugins import find_plugin
from resexp.errors import UserError
from resexp.models import ResNet, build_model
from resexp.training.optim import Schedule, make_optimizer

IMAGES = 4


def rehearse(config: RunConfig, height: int, width: int, classes: int) -> None:
    """Build the net, take one step on random images of `height` x `width` pixels, and check shapes, gradients
    and weights.

    Torch's random state stays as it was. Raises UserError with the plug-in and what is wrong with it.
    """
    plugins = {role: find_plugin(role, ref) for role, ref in config.plugin_refs.items()}  # type: ignore[arg-type]
    if not plugins:
        return
    where = ", ".join(f"{plugin.path}: {role} {plugin.name}" for role, plugin in plugins.items())
    try:
        with torch.random.fork_rng(devices=[]):
            _step(config, height, width, classes)
    except UserError as error:
        named = tuple(f"{plugin.path}:" for plugin in plugins.values())
        raise UserError(*(line if line.startswith(named) else f"{where}: {line}" for line in error.args)) from error
    except Exception as error:
        raise UserError(f"{where}: {type(error).__name__}: {error}") from error


def _step(config: RunConfig, height: int, width: int, classes: int) -> None:
    train = config.train.for_depth(config.model.depth)
    model = build_model(config.model, classes)
    if isinstance(model, ResNet):
        _check_shapes(config, model)
    schedule = Schedule(train, torch.device("cpu"))
    optimizer = make_optimizer(train, model, schedule.rate)
    schedule.set_rate(torch.zeros(1, dtype=torch.int64))
    images, before = torch.randn(IMAGES, 3, height, width), torch.get_rng_state()
    logits = model.train()(images)
    if not torch.equal(before, torch.get_rng_state()):
        raise UserError(
            "the net draws PyTorch's random numbers, which a continued run can't draw again; use Dropout or "
            "CounterRandom of resexp.models.layers"
        )
    if logits.shape != (IMAGES, classes):
        raise UserError(f"the net returns {tuple(logits.shape)} for {IMAGES} images of {classes} classes")
    loss = F.cross_entropy(logits, torch.arange(IMAGES) % classes)
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            raise UserError(f"{name} is frozen (requires_grad is False); register it as a buffer")
        if parameter.grad is None:
            raise UserError(f"{name} has no gradient; the net's output does not depend on it")
        if not parameter.grad.isfinite().all():
            raise UserError(f"the gradient of {name} is not finite in the first step")
    if any(isinstance(group.get("lr"), float) for group in optimizer.param_groups):
        raise UserError("the optimizer has a number as lr, which no schedule changes; give it the tensor `rate`")
    optimizer.step()
    if not all(parameter.isfinite().all() for parameter in model.parameters()):
        raise UserError("the weights are not finite after the first step")
    try:  # as a checkpoint is
        torch.save((model.state_dict(), optimizer.state_dict()), stream := io.BytesIO())
        optimizer.load_state_dict(torch.load(io.BytesIO(stream.getvalue()), weights_only=True)[1])
    except Exception as error:
        raise UserError(
            f"its state can't be saved and read again ({type(error).__name__}); keep tensors, numbers, text, lists and "
            "mappings in it"
        ) from error


def _check_shapes(config: RunConfig, model: ResNet) -> None:
    """Let every block raise UserError where it returns another shape than the next one takes."""
    for number, stage in enumerate(model.stages):
        for index, block in enumerate(stage.children()):
            stride = 2 if number and not index else 1
            channels = (config.model.width << number) * int(block.expansion)  # type: ignore[arg-type]
            block.register_forward_hook(functools.partial(_check_shape, f"stages.{number}.{index}", channels, stride))


def _check_shape(
    name: str, channels: int, stride: int, block: nn.Module, inputs: tuple[Tensor, ...], output: object
) -> None:
    images, _, height, width = inputs[0].shape
    expected = (images, channels, -(-height // stride), -(-width // stride))
    got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
    if got != expected:
        raise UserError(f"{name} returns {got}, and the net needs {expected}")
