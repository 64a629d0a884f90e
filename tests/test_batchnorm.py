"""BN's statistics recomputed over many training images, once training has ended."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from resexp.config import RunConfig
from resexp.data import open_dataset
from resexp.data.loader import normalise, pixel_mean, plan_epoch
from resexp.device.concurrent import run_to_completion
from resexp.device.hardware import Hardware
from resexp.errors import UserError
from resexp.models import build_model
from resexp.runs.store import Run
from resexp.training.train import train
from resexp.training.trainer import Trainer
from tests import test_training
from tests.test_training import CPU, after, assert_same, tiny, weights

make_run = test_training.make_run

STATISTICS = ("running_mean", "running_var")


def trained(config: RunConfig) -> Trainer:
    trainer = Trainer(config, open_dataset(config.data), Hardware(CPU, "fp32"))
    run_to_completion(trainer.advance(4, lambda: False))
    return trainer


def never() -> bool:
    return False


def inputs(config: RunConfig, count: int) -> Tensor:
    """The images that are to be used, as the net gets them."""
    dataset = open_dataset(config.data)
    images = torch.from_numpy(dataset.train()[0])
    mean = pixel_mean(images, torch.from_numpy(dataset.train_index))
    order = plan_epoch(dataset.train_index, config.seed, 0, config.data.pad, config.data.flip)[0]
    return normalise(images[order[:count]], mean)


def statistics(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items() if name.endswith(STATISTICS)}


@pytest.mark.parametrize(("count", "sizes"), [(50, [50]), (64, [64]), (100, [50, 50]), (190, [64, 63, 63])])
def test_the_first_layers_statistics_are_those_of_what_it_reads(count: int, sizes: list[int]) -> None:
    """Batches of up to 64, four times those of training: the mean is that of all images, the variance its mean."""
    config = tiny(train={"batch_size": 16, "precise_bn_images": count})
    trainer = trained(config)
    before = statistics(trainer.model)
    assert run_to_completion(trainer.recompute_bn(count, never)) == len(sizes)
    read = trainer.model.conv(inputs(config, count)).detach().double().transpose(0, 1)  # (C, N, H, W)
    variances = [part.flatten(1).var(1) * size for part, size in zip(read.split(sizes, 1), sizes, strict=True)]
    assert torch.allclose(trainer.model.bn.running_mean.double(), read.flatten(1).mean(1), atol=1e-6)
    assert torch.allclose(trainer.model.bn.running_var.double(), sum(variances) / count, rtol=1e-5)
    assert torch.allclose(trainer.model.bn.running_var.double(), read.flatten(1).var(1), rtol=0.02)
    now = statistics(trainer.model)
    assert not any(torch.allclose(before[name], now[name]) for name in before)


def test_with_the_statistics_of_one_batch_a_net_says_of_it_what_it_says_while_training() -> None:
    """In every layer; but for the variance's n - 1, and n is 64 images of 2x2 pixels in the last."""
    config = tiny(train={"precise_bn_images": 64})
    trainer = trained(config)
    x = inputs(config, 64)
    run_to_completion(trainer.recompute_bn(64, never))
    with torch.no_grad():
        evaluated = trainer.model.eval()(x)
        assert torch.allclose(evaluated, trainer.model.train()(x), atol=0.02 * float(evaluated.std()))


def test_nothing_but_the_statistics_changes_and_nothing_before_is_left_in_them() -> None:
    config = tiny(train={"precise_bn_images": 150})
    trainer = trained(config)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    run_to_completion(trainer.recompute_bn(150, never))
    once = statistics(trainer.model)
    for name, value in trainer.model.state_dict().items():
        assert name in once or torch.equal(value, before[name])
    for name, value in trainer.model.state_dict().items():
        if name in once:
            value.fill_(float("inf"))
    run_to_completion(trainer.recompute_bn(150, never))
    assert all(torch.equal(value, once[name]) for name, value in statistics(trainer.model).items())
    assert {module.momentum for module in trainer.model.modules() if isinstance(module, torch.nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize("split", ["full", "holdout"])
def test_a_run_is_evaluated_with_the_recomputed_statistics(make_run: Callable[..., Run], split: str) -> None:
    """Training is the same without them; the errors at its end are those of the stored weights."""
    usual = make_run("usual", data={"split": split}, train={"eval_every": 3})
    run = make_run("recomputed", data={"split": split}, train={"eval_every": 3, "precise_bn_images": 150})
    train(usual)
    train(run)
    ours, theirs = weights(run), weights(usual)
    assert {name for name in ours if not torch.equal(ours[name], theirs[name])} == set(ours) & {
        name for name in ours if name.endswith(STATISTICS)
    }
    assert [record for record in run.metrics() if record["event"] == "bn"] == [
        {"event": "bn", "step": 12, "precise_bn_images": 150, "bn_batches": 2}
    ]
    events = [record["event"] for record in run.metrics()]
    assert events[-3:] == ["bn", "eval", "test"]
    trainer = Trainer(
        tiny(data={"split": split}), open_dataset(tiny(data={"split": split}).data), Hardware(CPU, "fp32")
    )
    trainer.model.load_state_dict(ours)
    assert run_to_completion(trainer.evaluate("train", never)).error == run.status().clean_train_error
    assert run_to_completion(trainer.evaluate("test", never)).error == run.status().test_error


def test_the_best_weights_are_tested_with_statistics_of_their_own(make_run: Callable[..., Run]) -> None:
    run = make_run(data={"split": "holdout"}, train={"eval_every": 1, "precise_bn_images": 150})
    tested: list[dict[str, Tensor]] = []
    evaluate = Trainer.evaluate

    def watched(self: Trainer, split: str, *rest: Any) -> Any:
        if split == "test":
            tested.append({name: value.clone() for name, value in self.model.state_dict().items()})
        return evaluate(self, split, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "evaluate", watched)
        train(run)
    assert run.metrics()[-1]["best_step"] < 12
    config = tiny(data={"split": "holdout"})
    _, best = tested
    model = build_model(config.model)
    model.load_state_dict(best)
    read = model.conv(inputs(config, 150)).detach()
    assert torch.allclose(best["bn.running_mean"], read.mean((0, 2, 3)), atol=1e-6)
    assert not torch.equal(best["bn.running_mean"], weights(run)["bn.running_mean"])


def test_wherever_a_run_is_stopped_its_statistics_are_recorded_once(make_run: Callable[..., Run]) -> None:
    """A stop between two of their batches, in the evaluation after them, and in each pass over the test set.

    One before the end of the evaluation leaves no line of either, and both are done again.
    """
    sections = {"data": {"split": "holdout"}, "train": {"batch_size": 16, "precise_bn_images": 150, "eval_every": 6}}
    whole, questions = make_run("whole", **sections), itertools.count()
    train(whole, stop=lambda: next(questions) < 0)
    last_lines = set()
    for calls in range(next(questions)):
        run = make_run(str(calls), **sections)
        assert train(run, stop=after(calls)).state == "interrupted"
        if run.status().step == 12:
            last_lines.add(run.metrics()[-1]["event"])
            assert train(run).state == "finished"
            assert_same(whole, run)
    assert last_lines == {"train", "eval"}


def test_more_images_than_are_trained_on_are_refused_before_the_first_step(make_run: Callable[..., Run]) -> None:
    run = make_run(data={"split": "holdout"}, train={"precise_bn_images": 200})
    with pytest.raises(UserError, match="200 asked for, but only 180 are trained on; set it to 180 or"):
        train(run)
    assert run.metrics() == []
