"""Checks a configuration with plug-ins by one training step on the CPU before the sweep starts."""

from __future__ import annotations

import functools
import io

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resexp.config import RunConfig
from resexp.config.plugins import PluginRef, find_plugin
from resexp.errors import UserError
from resexp.models import ResNet, build_model
from resexp.training.optim import Schedule, load_optimizer, make_optimizer

IMAGES = 4


def rehearse(config: RunConfig, height: int, width: int, classes: int) -> str:
    """Build the net, take one step on random images of `height` x `width` pixels, check shapes, gradients and weights,
    and that a copy made from what a checkpoint holds takes the same next step.

    Returns a remark about the depth, if there is one. Torch's random state stays as it was. Raises UserError with the
    plug-in and what is wrong with it.
    """
    plugins = {role: find_plugin(role, ref) for role, ref in config.plugin_refs.items()}  # type: ignore[arg-type]
    if not plugins:
        return ""
    where = ", ".join(f"{plugin.path}: {role} {plugin.name}" for role, plugin in plugins.items())
    try:
        with torch.random.fork_rng(devices=[]):
            model = _step(config, height, width, classes)
    except UserError as error:
        named = tuple(f"{plugin.path}:" for plugin in plugins.values())
        raise UserError(*(line if line.startswith(named) else f"{where}: {line}" for line in error.args)) from error
    except Exception as error:
        how = "; an optimizer is made with (parameters, rate, train)" * ("optimizer" in plugins)
        raise UserError(f"{where}: {type(error).__name__}: {error}{how}") from error
    if (plugin := plugins.get("block")) and isinstance(model, ResNet):
        block = next(model.stages[0].children())
        modules = [module for name, module in block.named_modules() if "shortcut" not in name]
        count = sum(isinstance(module, nn.Conv2d) for module in modules)
        if count != block.layers:
            found = f"{count} convolutions, and counts as {block.layers} layers of the net's depth (`layers`)"
            return f"{plugin.path}: block {plugin.name} has {found}"
    return ""


def _step(config: RunConfig, height: int, width: int, classes: int) -> nn.Module:
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
    twin = build_model(config.model, classes)
    continued = make_optimizer(train, twin, schedule.rate)
    try:  # as a checkpoint is
        torch.save((model.state_dict(), optimizer.state_dict()), stream := io.BytesIO())
        weights, state = torch.load(io.BytesIO(stream.getvalue()), weights_only=True)
        twin.load_state_dict(weights)
        load_optimizer(continued, state, is_plugin=isinstance(train.optimizer, PluginRef))
    except Exception as error:
        raise UserError(
            f"its state can't be saved and read again ({type(error).__name__}); keep tensors, numbers, text, lists and "
            "mappings in it"
        ) from error
    with torch.no_grad():
        output, again = (one.eval()(images) for one in (model, twin))
    if not torch.allclose(output, again, rtol=1e-4, atol=1e-5):
        raise UserError(
            "the net gives other outputs after it was saved and read again; register what it keeps as a parameter or a "
            "buffer"
        )
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        ours.grad = torch.randn_like(ours)
        theirs.grad = ours.grad.clone()
    for one in (optimizer, continued):
        one.step()
    if not all(map(torch.equal, model.parameters(), twin.parameters())):
        raise UserError(
            "the optimizer takes another step after its state was saved and read again; keep what it remembers in "
            "self.state or in its groups, and draw no random numbers"
        )
    return model


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
