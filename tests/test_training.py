"""Training one run: the recipe, resuming bit for bit, divergence, and damaged folders."""

from __future__ import annotations

import copy
import os
import re
import signal
import statistics
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from resexp.config import RunConfig, TrainConfig
from resexp.data import open_dataset
from resexp.data.loader import Batches, augment, normalise, pixel_mean
from resexp.device.concurrent import Task, run_to_completion
from resexp.device.hardware import Hardware, choose_hardware
from resexp.distributed import Ranks
from resexp.errors import UserError
from resexp.evaluation.evaluator import Evaluation, rank_of
from resexp.models import build_model
from resexp.report.summary import summarise
from resexp.runs import checkpoint, logits
from resexp.runs.records import PlannedRun, Status, StudyPlan, json_text
from resexp.runs.store import Run, StudyFolder
from resexp.training import train as train_module
from resexp.training.optim import Schedule
from resexp.training.train import train
from resexp.training.trainer import Trainer
from tests.conftest import TINY, command, fill, wait_until

CPU = torch.device("cpu")


def tiny(**sections: dict[str, Any]) -> RunConfig:
    base: dict[str, Any] = {name: TINY[name] for name in ("data", "model", "train")}
    return RunConfig.model_validate(
        {**base, **{name: {**base.get(name, {}), **value} for name, value in sections.items()}}
    )


@pytest.fixture
def make_run(tmp_path: Path) -> Callable[..., Run]:
    def make(name: str = "run", **sections: dict[str, Any]) -> Run:
        config = tiny(**sections)
        run = Run(tmp_path / name / config.folder)
        run.create(config)
        return run

    return make


def after(calls: int) -> Callable[[], bool]:
    """A stop that asks at its `calls`-th question; training asks after every step."""
    left = iter(range(calls))
    return lambda: next(left, None) is None


def measured(run: Run) -> list[dict[str, Any]]:
    """The metrics without what depends on the clock."""
    clock = ("images_per_second", "train_seconds")
    return [{k: v for k, v in record.items() if k not in clock} for record in run.metrics()]


def weights(run: Run) -> dict[str, torch.Tensor]:
    state, _ = checkpoint.load(run, CPU)
    assert state is not None
    model: dict[str, torch.Tensor] = state["trainer"]["model"]
    return model


def assert_same(run: Run, other: Run) -> None:
    """Bit for bit: metrics, weights and logits."""
    assert measured(run) == measured(other)
    assert run.logits_path.read_bytes() == other.logits_path.read_bytes()
    ours, theirs = weights(run), weights(other)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


# -- the recipe -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "rate"), [(0, 0.1), (31_999, 0.1), (32_000, 0.01), (47_999, 0.01), (48_000, 0.001), (63_999, 0.001)]
)
def test_the_papers_learning_rates(step: int, rate: float) -> None:
    assert Schedule(TrainConfig(), torch.device("cpu")).rate_at(step, warming_up=False) == pytest.approx(
        rate, rel=1e-12
    )


def test_the_rate_while_warming_up() -> None:
    assert Schedule(TrainConfig(warmup_lr=0.01), torch.device("cpu")).rate_at(0, warming_up=True) == 0.01
    assert Schedule(TrainConfig(warmup_lr=0.01), torch.device("cpu")).rate_at(400, warming_up=False) == 0.1


def test_plateaus_count_after_a_warm_up_only() -> None:
    """A warm-up has a rate of its own; drops of the other one would be used up in vain."""
    ramp = Schedule(TrainConfig(schedule="plateau", patience=1, warmup_steps=3), CPU)
    assert [ramp.observe_error(0.5, step) for step in range(1, 6)] == [False, False, False, True, True]
    low = Schedule(TrainConfig(schedule="plateau", patience=1, warmup_lr=0.01), CPU)
    assert not any(low.observe_error(0.5, step) for step in range(1, 6))


def test_a_plateau_is_so_many_evaluations_without_a_new_least_error() -> None:
    schedule = Schedule(TrainConfig(schedule="plateau", patience=2, max_lr_drops=2), CPU)
    told = []
    for step, error in enumerate([0.5, 0.4, 0.4, 0.3, 0.35, 0.31, 0.32, 0.3, 0.2, 0.2, 0.2, 0.2], 1):
        if schedule.observe_error(error, step):
            schedule.add_milestone(step)
            told.append(step)
    assert told == [6, 8]  # and no third time
    assert [schedule.rate_at(step, warming_up=False) for step in (5, 6, 7, 8)] == pytest.approx(
        [0.1, 0.01, 0.01, 0.001]
    )
    rates = []
    for step in (5, 6, 8):
        schedule.set_rate(torch.tensor([step]))
        rates.append(schedule.rate.item())
    assert rates == pytest.approx([0.1, 0.01, 0.001])


def test_a_run_finds_its_own_milestones_and_finds_them_again(make_run: Callable[..., Run]) -> None:
    """At such a rate nothing is learnt: two evaluations after the first, and two after that, bring no lesser error."""
    settings = {"schedule": "plateau", "patience": 2, "eval_every": 1, "lr": 1e-9, "checkpoint_steps": 1}
    run, other = (make_run(name, model={"norm": "none"}, train=settings) for name in ("one", "other"))
    train(run)
    while train(other, stop=after(5)).state == "interrupted":
        pass
    assert measured(run) == measured(other)
    lines = run.metrics()
    assert [line["step"] for line in lines if line["event"] == "milestone"] == [3, 5]
    assert {line["step"]: line["lr"] for line in lines if line["event"] == "train"} == pytest.approx(
        {step: 1e-9 * 0.1 ** ((step > 3) + (step > 5)) for step in range(1, 13)}
    )
    late = [line["train_error"] for line in lines if line["event"] == "train" and line["step"] > 5]
    assert lines[-1]["running_train_error"] == pytest.approx(statistics.mean(late))


def test_the_last_evaluation_lowers_nothing(make_run: Callable[..., Run]) -> None:
    settings = {"schedule": "plateau", "patience": 1, "eval_every": 6, "lr": 1e-9}
    run = make_run(model={"norm": "none"}, train=settings)
    train(run)
    assert [line["step"] for line in run.metrics() if line["event"] == "milestone"] == []
    late = [line["train_error"] for line in run.metrics() if line["event"] == "train" and line["step"] > 9]
    assert run.metrics()[-1]["running_train_error"] == pytest.approx(statistics.mean(late))


def test_of_equal_scores_the_first_classes_are_likelier() -> None:
    """As `argmax` and `Logits.top_error` have it: in bf16 many scores are equal."""
    scores = torch.tensor([[0.0, 2.0, 1.0, 2.0, 1.0]]).expand(5, 5)
    assert rank_of(scores, torch.arange(5)).tolist() == [4, 0, 2, 1, 3]
    labels = torch.randint(0, 20, (500,))
    coarse = torch.randint(0, 6, (500, 20)).float()
    wrong = (rank_of(coarse, labels) >= 5).float().mean().item()
    assert wrong == pytest.approx(logits.Logits(coarse.numpy(), labels.numpy(), "").top_error(5))


def test_pieces_that_no_process_has_are_refused() -> None:
    ranks = Ranks()
    ranks.world_size = 4
    config = tiny(train={"microbatch": 16})
    with pytest.raises(UserError, match=r"8 images on each device can't be cut into pieces of 16; start fewer"):
        Trainer(config, open_dataset(config.data), Hardware(CPU, "fp32", ranks=ranks))


def test_a_batch_in_pieces_is_the_batch_but_for_bn(make_run: Callable[..., Run]) -> None:
    whole, pieces = (
        make_run(name, model={"norm": "none"}, train={"microbatch": size}) for name, size in (("a", None), ("b", 8))
    )
    train(whole)
    train(pieces)
    ours, theirs = checkpoint.last_weights(pieces)[1], checkpoint.last_weights(whole)[1]
    assert all(torch.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-6) for name in ours)
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_training_is_sgd_with_momentum_and_decay_on_the_streams_batches(make_run: Callable[..., Run]) -> None:
    """Against the update written out: v = 0.9 v + (g + 1e-4 w), w = w - lr v."""
    config = tiny(train={"steps": 4, "milestones": [2]})
    dataset = open_dataset(config.data)
    trainer = Trainer(config, dataset, Hardware(CPU, "fp32"))
    torch.manual_seed(config.seed)
    model = build_model(config.model).to(memory_format=torch.channels_last).train()
    velocity = [torch.zeros_like(p) for p in model.parameters()]
    batches = Batches(dataset.train_index, config.data, config.seed, 32, CPU)
    images, labels = (torch.from_numpy(a) for a in dataset.train())
    mean = pixel_mean(images, torch.from_numpy(dataset.train_index))
    for step in range(4):
        batches.prepare(step)
        plan = batches.plan(torch.tensor([step]))
        loss = F.cross_entropy(model(augment(images, mean, plan, 1)), labels[plan.image])
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for p, v, g in zip(model.parameters(), velocity, gradients, strict=True):
                v.mul_(0.9).add_(g + 1e-4 * p)
                p.sub_((0.1 if step < 2 else 0.01) * v)
    run_to_completion(trainer.advance(4, lambda: False))
    for ours, written_out in zip(trainer.model.parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours, written_out, atol=1e-6)


def test_momentum_begins_at_zero_and_not_in_the_first_step() -> None:
    """The fused optimiser of a GPU would leave it unwritten, should fp16 overflow in that step."""
    config = tiny()
    trainer = Trainer(config, open_dataset(config.data), Hardware(CPU, "fp32"))
    momenta = [state["momentum_buffer"] for state in trainer.optimizer.state.values()]
    assert len(momenta) == len(list(trainer.model.parameters()))
    assert not any(momentum.any() for momentum in momenta)


def test_a_run_can_go_on_on_another_kind_of_device() -> None:
    """Which kernels update the weights, and where the rate lies, is the device's affair and not the checkpoint's."""
    config = tiny()
    here, there = (Trainer(config, open_dataset(config.data), Hardware(CPU, "fp32")) for _ in range(2))
    run_to_completion(there.advance(3, lambda: False))
    state = copy.deepcopy(there.state())
    state["optimizer"]["param_groups"][0] |= {"fused": True, "lr": torch.tensor(7.0)}
    here.load(state)
    (group,) = here.optimizer.param_groups
    assert group["fused"] is False
    assert group["lr"] is here.schedule.rate
    run_to_completion(here.advance(6, lambda: False))
    run_to_completion(there.advance(6, lambda: False))
    assert all(map(torch.equal, here.model.parameters(), there.model.parameters()))


def test_a_run_records_what_a_reader_needs(make_run: Callable[..., Run]) -> None:
    run = make_run(data={"split": "holdout"})
    status = train(run)
    events = [(record["event"], record["step"]) for record in run.metrics()]
    # Every 4 steps, at the milestones 6 and 9, and at the end.
    assert events == [
        *[("train", 4), ("train", 6), ("eval", 6), ("train", 8), ("train", 9)],
        *[("train", 12), ("eval", 12), ("test", 12)],
    ]
    last = run.metrics()[-1]
    assert (status.state, status.step, status.test_error) == ("finished", 12, last["test_error"])
    final = [record["train_error"] for record in run.metrics() if record["event"] == "train" and record["step"] > 9]
    assert last["running_train_error"] == pytest.approx(statistics.mean(final))
    evals = {r["step"]: r["val_error"] for r in run.metrics() if r["event"] == "eval"}
    assert last["best_val_error"] == min(evals.values()) == evals[last["best_step"]]
    manifest = run.manifest()
    assert manifest is not None
    assert manifest.data.fingerprint == open_dataset(tiny().data).fingerprint
    assert manifest.attempts[0].to_step == 12
    assert manifest.attempts[0].torch == torch.__version__
    assert manifest.attempts[0].cpu_capability == torch.backends.cpu.get_cpu_capability()
    known = Path("/proc/cpuinfo")
    if names := re.findall(r"^model name\s*: (.*)$", known.read_text() if known.exists() else "", re.MULTILINE):
        assert (manifest.attempts[0].cpu or "").startswith(f"{names[0]}, cpu family ")


def test_the_test_set_is_read_once_at_the_end(make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    evaluate = Trainer.evaluate

    def watched(self: Trainer, split: str, *rest: Any) -> Task[Evaluation]:
        if split == "test":
            read.append(self.step)
        return evaluate(self, split, *rest)

    monkeypatch.setattr(Trainer, "evaluate", watched)
    train(make_run())
    assert read == [12]


def test_recorded_errors_and_logits_are_those_of_the_final_weights(make_run: Callable[..., Run]) -> None:
    """Not those of the best weights, and in the order of the data set; 100 test images are read in two batches."""
    run = make_run(data={"split": "holdout"}, train={"eval_every": 1, "batch_size": 16})
    assert train(run, stop=after(5)).state == "interrupted"
    assert not run.logits_path.exists()
    train(run)
    dataset, stored = open_dataset(tiny().data), logits.read(run.logits_path)
    images, labels = dataset.test()
    model = build_model(tiny().model)
    model.load_state_dict(weights(run))
    index = open_dataset(tiny(data={"split": "holdout"}).data).train_index
    mean = pixel_mean(torch.from_numpy(dataset.train()[0]), torch.from_numpy(index))
    expected = model.eval()(normalise(torch.from_numpy(images), mean)).detach()
    assert stored.values.dtype == np.float32
    assert torch.allclose(torch.from_numpy(stored.values), expected, atol=1e-5)
    assert stored.labels.tolist() == labels.tolist()
    assert stored.fingerprint == dataset.fingerprint
    last = run.metrics()[-1]
    assert last["best_step"] < 12
    assert stored.error == last["test_error"] == run.status().test_error
    images, labels = (torch.from_numpy(array[index]) for array in dataset.train())
    error = (model(normalise(images, mean)).argmax(1) != labels).float().mean().item()
    clean = [record["clean_train_error"] for record in run.metrics() if "clean_train_error" in record]
    assert clean[-1] == pytest.approx(error, abs=1e-6)


def test_warm_up_ends_for_good_when_the_running_error_is_low_enough(make_run: Callable[..., Run]) -> None:
    """At an error of 90 % the average is 0.9 + 0.1 * 0.99**n: above 0.99 at n = 10, below at n = 11."""
    schedule = Schedule(TrainConfig(warmup_lr=0.02, warmup_until_error=0.99), CPU)
    for _ in range(10):
        schedule.update_warmup(torch.tensor(0.9))
    assert schedule.warming_up
    schedule.update_warmup(torch.tensor(0.9))
    assert not schedule.warming_up
    schedule.update_warmup(torch.tensor(1.0))
    assert not schedule.warming_up
    run = make_run(train={"warmup_lr": 0.02, "warmup_until_error": 0.1, "log_every": 1})
    train(run)
    assert {r["lr"] for r in run.metrics() if r["event"] == "train"} == {0.02}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_reduced_precision_trains_to_nearly_the_same_loss(make_run: Callable[..., Run], precision: str) -> None:
    runs = [make_run(p, train={"precision": p, "lr": 0.01}) for p in ("fp32", precision)]
    for run in runs:
        train(run)
    losses = [next(r["train_loss"] for r in reversed(run.metrics()) if "train_loss" in r) for run in runs]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
    assert losses[0] != losses[1]


def test_cuda_asked_for_where_there_is_none() -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(
        UserError, match=r"train.device: cuda asked for, but torch finds no GPU.*set train.device to auto"
    ):
        choose_hardware(TrainConfig(device="cuda"))


# -- stopping and continuing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stops", [[1], [4], [6], [12], [3, 1, 1, 5]], ids=str)
def test_an_interrupted_run_equals_an_uninterrupted_one(make_run: Callable[..., Run], stops: list[int]) -> None:
    """Stopped at a log, at an evaluation, at the end, mid-epoch, and again and again; with warm-up and validation."""
    sections = {"data": {"split": "holdout"}, "train": {"warmup_lr": 0.02, "warmup_until_error": 0.95}}
    whole, pieces = make_run("whole", **sections), make_run("pieces", **sections)
    train(whole)
    for calls in stops:
        assert train(pieces, stop=after(calls)).state == "interrupted"
        assert pieces.status().state == "interrupted"
    assert train(pieces).state == "finished"
    assert_same(whole, pieces)
    manifest = pieces.manifest()
    assert manifest is not None
    assert len(manifest.attempts) == len(stops) + 1


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_a_signal_saves_the_step_and_says_how_to_go_on(make_run: Callable[..., Run], number: int, code: int) -> None:
    run = make_run(train={"steps": 100_000, "log_every": 1, "checkpoint_seconds": 1000.0})
    process = subprocess.Popen(command("train", run.folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_until(process, lambda: len(run.metrics()) >= 5)
    with pytest.raises(UserError, match=f"is in use by process {process.pid} on "):
        train(run)
    assert run.status().state == "running"
    process.send_signal(number)
    said, complained = process.communicate()
    assert process.returncode == code
    assert "the same command continues" in said
    assert complained == ""
    state, _ = checkpoint.load(run, CPU)
    assert state is not None
    assert state["trainer"]["step"] == run.status().step >= 5


def test_a_finished_run_is_not_trained_again_and_keeps_its_configuration(
    make_run: Callable[..., Run], here: Callable[..., Any]
) -> None:
    run = make_run()
    train(run)
    before = run.metrics_path.read_bytes(), run.config_path.read_bytes()
    make_run(train={"log_every": 7})
    done = here("train", run.folder)
    assert (done.returncode, "already finished; nothing to do" in done.stdout) == (0, True)
    assert (run.metrics_path.read_bytes(), run.config_path.read_bytes()) == before


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_divergence_ends_the_run_and_keeps_the_last_good_state(make_run: Callable[..., Run]) -> None:
    run = make_run(train={"steps": 400, "lr": 1e18, "milestones": [], "checkpoint_steps": 1, "log_every": 100})
    status = train(run)
    assert status.state == "diverged"
    assert "not finite" in status.message
    assert run.metrics()[-1] == {"event": "diverged", "step": status.step}
    assert all(torch.isfinite(w).all() for w in weights(run).values())
    assert all(record["train_loss"] < float("inf") for record in run.metrics() if "train_loss" in record)


def test_a_run_whose_evaluation_loss_overflows_is_continued_finished_and_reported(make_run: Callable[..., Run]) -> None:
    """A step at rate 1 makes weights large; BN's moving averages lag behind, so evaluation grows layer by layer."""
    model = {"kind": "plain", "depth": 122}
    run = make_run(model=model, train={"steps": 4, "log_every": 1, "eval_every": 1, "lr": 1.0})
    assert train(run, stop=after(10)).state == "interrupted"
    first = next(record for record in run.metrics() if record["event"] == "eval")
    assert first == {"event": "eval", "step": 1, "clean_train_error": 0.9, "clean_train_loss": None}
    assert train(run).state == "finished"
    evaluations = [record for record in run.metrics() if record["event"] != "train"]
    losses = [value for record in evaluations for name, value in record.items() if name.endswith("_loss")]
    assert losses == [None] * 5
    study = StudyFolder(run.folder.parents[1])
    study.write_plan(
        StudyPlan(name="deep", runs=[PlannedRun(folder=str(run.folder.relative_to(study.folder)), label="p")])
    )
    (net,) = summarise(study).nets
    assert net.errors["clean"].mean == 90.0


def test_no_record_holds_nan(make_run: Callable[..., Run]) -> None:
    bad = float("nan")
    assert json_text({"a": bad, "b": [float("inf"), 1.5], "c": {"d": (-bad, "NaN")}}) == (
        '{"a": null, "b": [null, 1.5], "c": {"d": [null, "NaN"]}}'
    )
    run = make_run()
    with run.leased() as held:
        status = held.status()
        status.train_error, status.images_per_second = bad, float("inf")
        held.write_status(status)
    assert '"train_error": null' in run.status_path.read_text()
    assert (run.status().train_error, run.status().images_per_second) == (None, None)


def halves(run: Run) -> None:
    content = run.checkpoint_path.read_bytes()
    run.checkpoint_path.write_bytes(content[: len(content) // 2])


def test_a_checkpoint_of_another_configuration_is_refused(make_run: Callable[..., Run]) -> None:
    run, other = make_run("a"), make_run("b", train={"lr": 0.05})
    train(run, stop=after(5))
    train(other, stop=after(5))
    other.checkpoint_path.write_bytes(run.checkpoint_path.read_bytes())
    before = copy.copy(other.metrics_path.read_bytes())
    with pytest.raises(UserError, match=r"checkpoint of another configuration .* delete it to begin anew"):
        train(other)
    assert other.metrics_path.read_bytes() == before


@pytest.mark.parametrize("wrong", ["test", "best"])
def test_a_stop_while_the_test_set_is_read_changes_nothing(make_run: Callable[..., Run], wrong: str) -> None:
    """StopRequested in the pass with the final weights, or in the pass with the best ones, which are other weights."""
    sections = {"data": {"split": "holdout"}, "train": {"eval_every": 1}}
    whole, stopped = make_run("whole", **sections), make_run("stopped", **sections)
    train(whole)
    reads = []
    evaluate = Trainer.evaluate

    def stopping(self: Trainer, split: str, pause: Callable[[], bool]) -> Task[Evaluation]:
        if split == "test":
            reads.append(self.step)
        asked = len(reads) == (1 if wrong == "test" else 2)
        return evaluate(self, split, (lambda: True) if asked else pause)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "evaluate", stopping)
        assert train(stopped).state == "interrupted"
    assert train(stopped).state == "finished"
    assert_same(whole, stopped)


def test_death_after_the_last_save_does_not_read_the_test_set_again(make_run: Callable[..., Run]) -> None:
    whole, killed = make_run("whole"), make_run("killed")
    train(whole)
    train(killed)
    killed.status_path.unlink()  # as if the process had died before it could write that the run is finished
    kept = killed.logits_path.rename(killed.folder / "kept.npz")
    assert train(killed).state == "finished"
    assert not killed.logits_path.exists()
    kept.rename(killed.logits_path)
    assert_same(whole, killed)
    assert killed.status() == whole.status().model_copy(
        update={n: getattr(killed.status(), n) for n in ("images_per_second", "seconds_per_step")}
    )


def test_a_damaged_checkpoint_is_never_kept_as_the_previous(make_run: Callable[..., Run]) -> None:
    """Death in the first save after falling back must leave the good checkpoint where it is."""
    run = make_run()
    train(run, stop=after(5))
    before = run.status().step
    train(run, stop=after(4))
    halves(run)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "pack", lambda *_: pytest.fail("died"))
        with pytest.raises(pytest.fail.Exception):
            train(run)
    state, _ = checkpoint.load(run, CPU)
    assert state is not None
    assert state["trainer"]["step"] == before > 0


def test_a_changed_config_is_noticed(make_run: Callable[..., Run]) -> None:
    run = make_run()
    run.config_path.write_text(run.config_path.read_text().replace("lr: 0.1", "lr: 0.2"))
    with pytest.raises(UserError, match=r"config.yaml: describes residual-8-\w+/seed0: it was changed, .*; restore it"):
        train(run)


def test_a_full_disk_costs_nothing_but_time(make_run: Callable[..., Run], small_disk: Path) -> None:
    whole, run = make_run("whole"), make_run(f"{small_disk}/results")
    train(whole)
    train(run, stop=after(5))
    ballast = fill(small_disk)
    with pytest.raises(OSError, match="No space left on device"):
        train(run)
    assert run.status().state == "interrupted"
    ballast.unlink()
    assert train(run).state == "finished"
    assert_same(whole, run)


def test_a_run_goes_on_with_the_threads_and_the_precision_it_began_with(make_run: Callable[..., Run]) -> None:
    run = make_run()
    train(run, stop=after(3), threads=2)
    manifest = run.manifest()
    assert manifest is not None
    manifest.attempts[0].precision = "bf16"  # as if begun on a GPU
    run.write_manifest(manifest)
    train(run, threads=1)
    assert torch.get_num_threads() == 1
    manifest = run.manifest()
    assert manifest is not None
    assert [(attempt.threads, attempt.precision) for attempt in manifest.attempts] == [(2, "bf16")] * 2


@pytest.mark.parametrize(("first", "then"), [("bf16", "fp16"), ("fp16", "bf16")])
def test_a_run_goes_on_in_another_precision_where_the_device_lacks_its_own(
    make_run: Callable[..., Run], monkeypatch: pytest.MonkeyPatch, first: str, then: str
) -> None:
    run = make_run(train={"precision": first})
    train(run, stop=after(3))
    hardware = train_module.choose_hardware
    monkeypatch.setattr(train_module, "choose_hardware", lambda *args: replace(hardware(*args), precision=then))
    assert train(run).state == "finished"
    manifest = run.manifest()
    assert manifest is not None
    assert [attempt.precision for attempt in manifest.attempts] == [first, then]


def test_lines_may_fall_due_at_other_steps_when_a_run_goes_on(make_run: Callable[..., Run]) -> None:
    run = make_run(train={"log_every": 100})
    train(run, stop=after(4))
    step = run.status().step
    again = make_run(train={"log_every": step})
    assert again.folder == run.folder
    assert train(again).state == "finished"
    lines = [r["step"] for r in run.metrics() if r["event"] == "train"]
    assert lines == sorted({6, 9, 12} | set(range(2 * step, 13, step)))


def test_an_unexpected_error_closes_the_attempt_and_is_recorded(make_run: Callable[..., Run]) -> None:
    run = make_run()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "advance", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            train(run)
    manifest = run.manifest()
    assert manifest is not None
    assert (manifest.attempts[0].state, manifest.attempts[0].to_step) == ("failed", 0)
    assert manifest.attempts[0].ended
    status = run.status()
    assert (status.state, status.message) == ("failed", "ZeroDivisionError: division by zero")
    assert "Traceback" in status.traceback


def test_a_warm_up_that_never_ended_is_remarked(make_run: Callable[..., Run]) -> None:
    run = make_run(train={"warmup_lr": 0.02, "warmup_until_error": 0.1})
    assert train(run).message == ("its warm-up never ended: the moving average of the training error stayed over 10%")
    assert make_run("other").status().message == ""


def test_a_checkpoint_that_would_run_code_is_not_loaded(make_run: Callable[..., Run]) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return (os.mkdir, ("ran",))

    run = make_run()
    run.checkpoint_path.write_bytes(checkpoint.pack({"step": Evil()}))
    with pytest.raises(Exception, match=r"[Ww]eights.only"):
        checkpoint.load(run, CPU)
    assert not Path("ran").exists()


def test_a_torn_last_line_is_ignored_and_a_damaged_one_named(make_run: Callable[..., Run]) -> None:
    run = make_run()
    train(run)
    lines = run.metrics()
    with run.metrics_path.open("ab") as file:
        file.write(b'{"event": "tra')
    assert run.metrics() == lines
    run.metrics_path.write_bytes(b"hello\n" + run.metrics_path.read_bytes())
    with pytest.raises(UserError, match=r"metrics.jsonl:1: no event with its numbers"):
        run.metrics()


def test_other_data_under_the_same_run_are_refused(make_run: Callable[..., Run]) -> None:
    run = make_run()
    train(run, stop=after(5))
    run.manifest_path.write_text(
        run.manifest_path.read_text().replace(open_dataset(tiny().data).fingerprint, "another")
    )
    with pytest.raises(UserError, match="begun on other data"):
        train(run)


def test_the_running_error_depends_on_no_interval_of_the_log(make_run: Callable[..., Run]) -> None:
    """Without milestones the steps that count begin within a line of a longer interval."""
    found = set()
    for number, log_every in enumerate((1, 4, 5, 12)):
        run = make_run(f"run{number}", train={"steps": 12, "log_every": log_every, "schedule": "cosine"})
        found.add(train(run).running_train_error)
    assert len(found) == 1


def test_a_run_that_begins_anew_has_no_error_of_lines_that_were_dropped(make_run: Callable[..., Run]) -> None:
    run = make_run()
    assert train(run, stop=after(8)).train_error is not None
    for path in (run.checkpoint_path, run.previous_checkpoint_path):
        path.unlink(missing_ok=True)
    seen = list[Status]()
    train(run, stop=after(1), on_status=seen.append)
    assert seen[-1].step < 4
    assert seen[-1].train_error is None


@pytest.mark.parametrize(("power", "says"), [(-900, "inf"), (900, "0")])
def test_a_rate_of_no_use_is_one_line(power: int, says: str) -> None:
    lr = {"at_depth": 20, "value": 0.1, "power": power}
    with pytest.raises(UserError, match=rf"train\.lr: {says} at depth 8; choose a power nearer to zero"):
        TrainConfig.model_validate({"lr": lr}).for_depth(8)
