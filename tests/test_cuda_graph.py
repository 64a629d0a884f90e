"""A CUDA graph on a CPU: the operations of one call are written down, and done again with the same tensors.

As on a GPU, capturing has no effect of its own, no Python runs in a replay, and every replay reads and writes the
tensors of the captured call.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from resexp.config import RunConfig
from resexp.data import open_dataset
from resexp.device.concurrent import run_to_completion
from resexp.device.cuda_graph import CALLS_BEFORE_CAPTURE, CudaGraphed
from resexp.device.hardware import Hardware
from resexp.evaluation.evaluator import Evaluation
from resexp.models.layers import BatchNorm
from resexp.training.trainer import Trainer
from tests.test_training import CPU, tiny


class Tape(TorchDispatchMode):
    """Stands for torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        super().__init__()
        self._calls: list[tuple[Any, Any, Any, list[Tensor | None]]] = []
        self._made: set[int] = set()
        self._before: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [tensor for tensor in tree_leaves((args, kwargs)) if isinstance(tensor, Tensor)]
        for tensor in given:  # schemas do not name all that is written: BN's averages, for one
            if tensor.untyped_storage()._cdata not in self._made:
                self._before.setdefault(id(tensor), (tensor, tensor.clone()))
        out = function(*args, **kwargs)
        there = {tensor.untyped_storage()._cdata for tensor in given}
        tensors = [tensor for tensor in tree_leaves(out) if isinstance(tensor, Tensor)]
        new = [None if tensor.untyped_storage()._cdata in there else tensor for tensor in tensors]
        self._made |= {tensor.untyped_storage()._cdata for tensor in new if tensor is not None}
        writes = any(argument.alias_info and argument.alias_info.is_write for argument in function._schema.arguments)
        if writes or any(tensor is not None for tensor in new):  # else a view: it shows what its tensor holds
            self._calls.append((function, args, kwargs, new))
        return out

    def undo(self) -> None:
        """Leave no effect of the capture."""
        with torch._C._AutoDispatchBelowAutograd():
            for tensor, values in reversed(self._before.values()):
                tensor.copy_(values)

    def replay(self) -> None:
        # A graph knows kernels, not what led to them.
        with torch.inference_mode(), torch._C._AutoDispatchBelowAutograd():
            for function, args, kwargs, new in self._calls:
                out = [tensor for tensor in tree_leaves(function(*args, **kwargs)) if isinstance(tensor, Tensor)]
                for there, value in zip(new, out, strict=True):
                    if there is not None:
                        there.copy_(value)


SGD = torch.optim.SGD


@pytest.fixture(autouse=True)
def _graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.contextmanager
    def graph(tape: Tape, stream: object) -> Iterator[None]:
        with tape:
            yield
        tape.undo()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Tape)
    monkeypatch.setattr(torch.cuda, "graph", graph)
    # The optimiser of a GPU; that of a CPU reads its rate on the host.
    monkeypatch.setattr(torch.optim, "SGD", lambda *args, **kwargs: SGD(*args, **{**kwargs, "fused": True}))


def trainer(config: RunConfig, precision: str, *, graphs: bool) -> Trainer:
    return Trainer(config, open_dataset(config.data), Hardware(CPU, precision, graphs=graphs))


def life(one: Trainer) -> tuple[list[Any], list[Evaluation]]:
    """Steps over a warm-up's end, milestones and an epoch's end, with evaluations between, and BN's statistics."""
    records, found = [], []
    for until in (6, 11, 16):
        run_to_completion(one.advance(until, lambda: False))
        records += one.read()
        for split in ("train", "test", "train", "test"):  # of two batches or more, so that all but the first replay
            found.append(run_to_completion(one.evaluate(split, lambda: False)))
        if until == 11:
            if one.config.train.schedule == "plateau":
                one.schedule.add_milestone(one.step)
            run_to_completion(one.recompute_bn(150, lambda: False))
            found.append(run_to_completion(one.evaluate("train", lambda: False)))
    return records, found


RECIPES: dict[str, dict[str, Any]] = {
    "milestones": {"milestones": [5, 13]},
    "warm-up": {"warmup_lr": 0.001, "warmup_until_error": 0.9, "milestones": [9]},
    "plateaus": {"schedule": "plateau", "eval_every": 3},
    "pieces": {"microbatch": 8},
}


@pytest.mark.parametrize(
    ("recipe", "precision"),
    [*((recipe, "fp32") for recipe in RECIPES), ("warm-up", "bf16"), ("milestones", "fp16"), ("pieces", "fp16")],
)
def test_replayed_steps_are_steps_to_the_last_bit(recipe: str, precision: str) -> None:
    config = tiny(train={"steps": 16, "lr": 0.05, **RECIPES[recipe]}, data={"train_images": 200, "test_images": 300})
    replayed, eager = (trainer(config, precision, graphs=graphs) for graphs in (True, False))
    ours, theirs = life(replayed), life(eager)
    assert isinstance(replayed._train_step._graph, Tape)
    assert isinstance(replayed._evaluator._step._graph, Tape)
    assert ours[0] == theirs[0]
    for one, other in zip(ours[1], theirs[1], strict=True):
        assert (one.error, one.loss) == (other.error, other.loss)
        assert torch.equal(one.logits, other.logits)
    for one, other in zip(replayed.model.state_dict().values(), eager.model.state_dict().values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("model", [{"kind": "plain"}, {"drop_path": 0.3}, {"kind": "preact"}, {"norm": "fixup"}])
def test_replayed_steps_of_every_kind_are_steps_to_the_last_bit(model: dict[str, Any]) -> None:
    config = tiny(train={"steps": 16}, model=model)
    replayed, eager = (trainer(config, "fp32", graphs=graphs) for graphs in (True, False))
    assert life(replayed)[0] == life(eager)[0]


# -- what must fail


def outcomes(change: Callable[[Trainer], None], **recipe: Any) -> tuple[Any, Any]:
    """What a trainer that is changed comes to with graphs and without."""
    config, found = tiny(train={"steps": 16, "lr": 0.05, **recipe}), []
    for graphs in (True, False):
        one = trainer(config, "fp32", graphs=graphs)
        change(one)
        records, evaluations = life(one)
        found.append((records, [evaluation.loss for evaluation in evaluations]))
    return found[0], found[1]


def test_a_rate_that_python_works_out_shows() -> None:
    def change(one: Trainer) -> None:
        one.schedule.set_rate = lambda step: one.schedule.rate.fill_(one.schedule.rate_at(int(step), warming_up=False))  # type: ignore[method-assign, assignment]

    replayed, eager = outcomes(change, milestones=[9])
    assert replayed != eager


def test_a_momentum_that_the_host_changes_between_steps_shows() -> None:
    def change(one: Trainer) -> None:
        update = one._train_step._function

        def changed() -> None:
            for norm in one.model.modules():
                if isinstance(norm, BatchNorm):
                    norm.running_mean.mul_(1 - 0.01 * one.step)  # type: ignore[union-attr]
            update()

        one._train_step._function = changed

    replayed, eager = outcomes(change)
    assert replayed != eager


def test_an_evaluation_of_other_statistics_shows() -> None:
    """A graph holds on to the tensors that it was captured with."""

    def change(one: Trainer) -> None:
        advance = one.advance

        def exchanging(*args: Any) -> Any:
            yield from advance(*args)
            for norm in one.model.modules():
                if isinstance(norm, BatchNorm):
                    norm.running_mean = norm.running_mean.clone()  # type: ignore[union-attr]

        one.advance = exchanging  # type: ignore[method-assign]

    replayed, eager = outcomes(change)
    assert replayed != eager


def test_capturing_has_no_effect() -> None:
    total = torch.zeros(())
    replayed = CudaGraphed(lambda: total.add_(1), Hardware(CPU, "fp32", graphs=True))  # type: ignore[arg-type, return-value]
    for call in range(1, CALLS_BEFORE_CAPTURE + 5):
        replayed()
        assert total == call


@pytest.mark.parametrize("clip", [{}, {"clip_norm": 1.0}])
def test_in_fp16_an_optimiser_whose_step_waits_for_the_scaler_is_not_captured(
    monkeypatch: pytest.MonkeyPatch, clip: dict[str, Any]
) -> None:
    """Such as one of a plug-in. The scaler reads on the host whether gradients overflowed, which a capture refuses."""
    monkeypatch.setattr(torch.optim, "SGD", lambda *args, **kwargs: SGD(*args, **{**kwargs, "fused": False}))
    config = tiny(train={"steps": 16, "lr": 0.01, **clip})
    waiting, eager = (trainer(config, "fp16", graphs=graphs) for graphs in (True, False))
    for one in (waiting, eager):
        run_to_completion(one.advance(8, lambda: False))
    assert waiting._train_step._graph is None
    assert waiting.read() == eager.read()
    waiting = trainer(config, "bf16", graphs=True)  # nothing to scale
    run_to_completion(waiting.advance(8, lambda: False))
    assert isinstance(waiting._train_step._graph, Tape)
