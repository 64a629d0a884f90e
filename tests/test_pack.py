"""Several runs in one process: each as if it were alone, whatever becomes of the others."""

from __future__ import annotations

import gc
import itertools
import traceback
import weakref
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from resexp.device import hardware as hardware_module
from resexp.device.hardware import Hardware, release_stream, with_stream
from resexp.errors import DeviceFailedError, DeviceOutOfMemoryError
from resexp.runs.records import Status
from resexp.runs.store import Run
from resexp.training import concurrent_runs as pack_module
from resexp.training.concurrent_runs import Concurrency, ConcurrentRuns
from resexp.training.train import train
from resexp.training.trainer import Trainer
from resexp.utils.logs import logged_to
from tests.test_training import after, assert_same, tiny

MODELS = [{"kind": "plain", "depth": 8}, {"kind": "residual", "depth": 8}, {"kind": "residual", "depth": 14}]


class Packed:
    """A pack and what was heard of it."""

    def __init__(self, runs: list[Run], size: int | None = 3, stop: Callable[[], bool] = lambda: False) -> None:
        self.began: list[Run] = []
        self.outcome: dict[str, Status | Exception] = {}
        self.side_by_side = 0
        self.said: list[str] = []
        pack = ConcurrentRuns(runs, size=size, threads=1, stop=stop)
        with logged_to(self.said.append):
            for run, outcome in itertools.chain.from_iterable(pack.turns()):
                if outcome is None:
                    self.began.append(run)
                    self.side_by_side = max(self.side_by_side, len(self.began) - len(self.outcome))
                else:
                    self.outcome[run.folder.parent.name.rpartition("-")[0]] = outcome

    @property
    def states(self) -> list[str]:
        return [run.status().state for run in dict.fromkeys(self.began)]


def make(folder: Path, **sections: dict[str, Any]) -> list[Run]:
    configs = [tiny(**{**sections, "model": {**sections.get("model", {}), **model}}) for model in MODELS]
    runs = [Run(folder / config.folder) for config in configs]
    for run, config in zip(runs, configs, strict=True):
        run.create(config)
    return runs


def alone(folder: Path, **sections: dict[str, Any]) -> list[Run]:
    runs = make(folder, **sections)
    for run in runs:
        train(run, threads=1)
    return runs


@pytest.mark.parametrize("size", [1, 2, 8])
def test_packed_runs_equal_runs_alone_bit_for_bit(tmp_path: Path, size: int) -> None:
    sections = {"data": {"split": "holdout"}, "train": {"warmup_lr": 0.02, "warmup_until_error": 0.95}}
    runs = make(tmp_path / "packed", **sections)
    packed = Packed(runs, size)
    assert packed.states == ["finished"] * 3
    assert packed.began == runs
    assert packed.side_by_side == min(size, 3)
    for run, other in zip(runs, alone(tmp_path / "alone", **sections), strict=True):
        assert_same(run, other)


def test_members_of_a_pack_take_turns(tmp_path: Path) -> None:
    """While the pack trains, each has done about as many steps as the others."""
    steps: dict[int, int] = {}
    apart = []

    def counted(self: Trainer) -> None:
        steps[id(self)] = self.step
        apart.append(max(steps.values()) - min(steps.values()))
        update(self)

    update = Trainer._update
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_update", counted)
        Packed(make(tmp_path))
    assert len(steps) == 3
    assert max(apart) <= 2


def test_a_stopped_pack_goes_on_where_it_was(tmp_path: Path) -> None:
    runs = make(tmp_path / "packed")
    packed = Packed(runs, stop=after(15))
    assert "interrupted" in packed.states
    Packed([run for run in runs if run.status().state != "finished"])
    for run, other in zip(runs, alone(tmp_path / "alone"), strict=True):
        assert_same(run, other)


def test_work_that_is_due_at_other_steps_leaves_the_neighbours_alone(tmp_path: Path) -> None:
    """Four runs, with a pause in the middle; a fifth one fails while others evaluate, are probed and saved."""
    data = {"split": "holdout", "train_images": 100, "test_images": 100}
    due: list[dict[str, Any]] = [
        {"train": {"eval_every": 2}},
        {"train": {"eval_every": 3, "checkpoint_steps": 5}, "probes": {"gradients": [2, -1], "tta": ["ten-crop"]}},
        {"train": {"eval_every": 5, "precise_bn_images": 70}, "probes": {"lesion": [4], "branches": [7]}},
        {
            "train": {"eval_every": 4, "schedule": "plateau", "patience": 1},
            "probes": {"landscape": [6], "responses": [9]},
        },
        {"train": {"eval_every": 7, "warmup_lr": 0.02, "warmup_until_error": 0.95}, "probes": {"signals": [0, 9]}},
    ]
    configs = [tiny(**sections, data=data, model={"depth": 8, "drop_path": 0.1 * n}) for n, sections in enumerate(due)]
    runs: dict[str, list[Run]] = {
        where: [Run(tmp_path / where / str(n) / config.folder) for n, config in enumerate(configs)]
        for where in ("packed", "alone")
    }
    for where in runs:
        for run, config in zip(runs[where], configs, strict=True):
            run.create(config)
    for run in runs["alone"][1:]:
        assert train(run, threads=1).state == "finished"
    update = Trainer._update

    def broken(self: Trainer) -> None:
        if self.config.train.eval_every == 2 and self.step == 5:
            raise ZeroDivisionError
        update(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_update", broken)
        assert "interrupted" in Packed(runs["packed"], 4, stop=after(40)).states
        left = [run for run in runs["packed"] if run.status().state in ("interrupted", "pending")]
        Packed(left, 4)
    assert [run.status().state for run in runs["packed"]] == ["failed"] + ["finished"] * 4
    for run, other in zip(runs["packed"][1:], runs["alone"][1:], strict=True):
        assert_same(run, other)
        names = [sorted(path.name for path in one.probe_folder.glob("*")) for one in (run, other)]
        assert names[0] == names[1]


def break_step(patch: pytest.MonkeyPatch, model: dict[str, Any], error: Exception, times: int = 1) -> None:
    """Let a step of the net that `model` describes fail, so many times."""
    update, left = Trainer._update, itertools.count(1)

    def broken(self: Trainer) -> None:
        here = self.config.model
        if (here.kind, here.depth) == (model["kind"], model["depth"]) and self.step == 5 and next(left) <= times:
            raise error
        update(self)

    patch.setattr(Trainer, "_update", broken)


def test_a_run_that_fails_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = alone(tmp_path / "alone")
    break_step(monkeypatch, MODELS[1], ZeroDivisionError("broken"))
    runs = make(tmp_path / "packed")
    packed = Packed(runs)
    assert packed.states == ["finished", "failed", "finished"]
    assert isinstance(packed.outcome["residual-8"], ZeroDivisionError)
    assert_same(runs[0], others[0])
    assert_same(runs[2], others[2])


def test_a_run_that_diverges_leaves_the_others_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    update = Trainer._update

    def exploding(self: Trainer) -> None:
        update(self)
        if self.config.model.kind == "plain" and self.step == 5:
            with torch.no_grad():
                next(self.model.parameters()).fill_(float("nan"))

    monkeypatch.setattr(Trainer, "_update", exploding)
    packed = Packed(make(tmp_path))
    assert packed.states == ["diverged", "finished", "finished"]


def test_out_of_memory_is_tried_again_alone_with_a_smaller_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = alone(tmp_path / "alone")
    break_step(monkeypatch, MODELS[1], torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))
    runs = make(tmp_path / "packed")
    packed = Packed(runs)
    assert packed.said == ["residual-8 seed 0: out of memory; tried again alone, the others 2 at a time"]
    assert packed.began == [*runs, runs[1]]
    assert packed.states == ["finished"] * 3
    for run, other in zip(runs, others, strict=True):
        assert_same(run, other)


def test_out_of_memory_alone_is_said_and_the_run_can_go_on_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_step(monkeypatch, MODELS[1], torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."), times=2)
    runs = make(tmp_path)
    packed = Packed(runs)
    error = packed.outcome["residual-8"]
    assert isinstance(error, DeviceOutOfMemoryError)
    assert "out of GPU memory; free some, or lower train.batch_size or model.width" in str(error)
    assert packed.states == ["finished", "interrupted", "finished"]
    assert train(runs[1]).state == "finished"


def test_a_stream_is_used_again_on_its_own_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware_module, "_idle_streams", defaultdict(list))
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: f"stream of {device}")
    on = [Hardware(torch.device("cuda", number), "fp32") for number in (0, 1)]
    first, second = (with_stream(each) for each in on)
    release_stream(first)
    assert (second.stream, with_stream(on[1]).stream) == ("stream of cuda:1",) * 2
    assert with_stream(on[0]).stream is first.stream


def test_a_run_that_was_alone_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_step(monkeypatch, MODELS[1], torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."))
    runs = make(tmp_path)
    packed = Packed(runs, size=1)
    assert isinstance(packed.outcome["residual-8"], DeviceOutOfMemoryError)
    assert packed.began == runs
    assert not any("tried again" in line for line in packed.said)
    assert packed.states == ["finished", "interrupted", "finished"]


@pytest.mark.parametrize("size", [1, 3])
def test_nothing_of_a_failed_run_is_kept_while_others_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """The exception, whose traceback is logged later, is all that is left; a GPU's memory would not be free."""
    gc.disable()  # what is only freed some time later does not count
    try:
        failed: list[weakref.ref[Trainer]] = []
        update, alive = Trainer._update, list[bool]()

        def failing(self: Trainer) -> None:
            if (self.config.model.kind, self.step) == ("plain", 5):
                failed.append(weakref.ref(self))
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            alive.extend(trainer() is not None for trainer in failed)
            update(self)

        monkeypatch.setattr(Trainer, "_update", failing)
        pack = ConcurrentRuns(make(tmp_path), size=size, threads=1, stop=lambda: False)
        outcomes = list(itertools.chain.from_iterable(pack.turns()))
        (error,) = {outcome for _, outcome in outcomes if isinstance(outcome, Exception)}
        assert "in failing" in "".join(traceback.format_exception(error))
        assert alive
        assert not any(alive)
    finally:
        gc.enable()


def test_a_device_that_disappears_leaves_every_run_to_be_continued(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After such an error every call fails; runs that were not begun are not even tried."""

    def gone(self: Trainer) -> None:
        if self.step >= 5:
            raise torch.AcceleratorError("CUDA error: unspecified launch failure\nmore")
        update(self)

    update = Trainer._update
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_update", gone)
        runs = make(tmp_path)
        packed = Packed(runs, size=2)
    assert [run.status().state for run in runs] == ["interrupted", "interrupted", "pending"]
    assert "the GPU failed (CUDA error: unspecified launch failure)" in str(packed.outcome["plain-8"])
    assert packed.began == runs[:2]
    assert Packed(runs).states == ["finished"] * 3


def test_what_does_not_fit_beside_the_others_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU with room for any two of these nets, but not for three."""
    monkeypatch.setattr(pack_module, "_free_memory", lambda run: int(2.5 * pack_module._memory_needed(run)))
    runs = make(tmp_path)
    packed = Packed(runs, size=8)
    assert packed.side_by_side == 2
    assert packed.said == ["the GPU's memory holds 2 of these runs at a time; the others wait"]
    assert packed.states == ["finished"] * 3


def test_a_net_whose_memory_cant_be_estimated_fails_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As that of a plug-in does: the estimate makes the net."""
    runs = make(tmp_path)

    def need(run: Run) -> int:
        if run is runs[1]:
            raise ZeroDivisionError("of the plug-in")
        return 1

    monkeypatch.setattr(pack_module, "_free_memory", lambda run: 10)
    monkeypatch.setattr(pack_module, "_memory_needed", need)
    break_step(monkeypatch, MODELS[1], ZeroDivisionError("of the plug-in"))
    packed = Packed(runs)
    assert packed.states == ["finished", "failed", "finished"]
    assert packed.side_by_side > 1


def grow(steps_per_second: Callable[[int], float], runs: int = 40, seconds: int = 400) -> Concurrency:
    """Let a pack grow on a device that does so many steps a second, of all runs together, 16 of one run at a time."""
    size, steps = Concurrency(None), [0.0]
    for tenth in range(10 * seconds):
        members = min(size.size, runs)
        steps += [0.0] * (members - len(steps))
        steps = [n + 0.1 * steps_per_second(members) / members for n in steps[:members]]
        size.observe([int(n) // 16 * 16 for n in steps], [1.0] * members, tenth / 10)
    return size


@pytest.mark.parametrize("speed", [30, 300, 3000])
@pytest.mark.parametrize(("fills_it", "grows_to"), [(1, 1), (2, 2), (5, 8), (8, 8), (9, 8), (16, 16)])
def test_a_pack_doubles_for_as_long_as_the_device_does_more(fills_it: int, grows_to: int, speed: int) -> None:
    """9 runs of 16 that fill it: a gain of 9/8 might be noise, and is not if 16 were measured exactly."""
    size = grow(lambda members: speed * min(members, fills_it)).size
    assert size == grows_to or (fills_it == 9 and size == 16)


def test_a_pack_of_a_given_size_stays_so() -> None:
    size = Concurrency(3)
    for now in range(100):
        size.observe([100 * now] * 3, [1.0] * 3, float(now))
    assert size.size == 3


def test_nothing_is_concluded_while_a_run_begins() -> None:
    size = Concurrency(None)
    for now in range(100):
        size.observe([10], [1.0], float(now))
    assert size.size == 1


def test_a_pack_is_never_of_no_run() -> None:
    size = Concurrency(None)
    for now in range(10):
        size.observe([1000 + 320 * now], [0.0], 100.0 * now)  # as if it did nothing
    assert size.size == 1


@pytest.mark.parametrize(
    ("error", "meant"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"), DeviceOutOfMemoryError),
        (torch.AcceleratorError("CUDA error: out of memory"), DeviceOutOfMemoryError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), DeviceOutOfMemoryError),
        (RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling cublasCreate"), DeviceOutOfMemoryError),
        (RuntimeError("FIND was unable to find an engine to execute this computation"), DeviceOutOfMemoryError),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), DeviceOutOfMemoryError),
        (torch.AcceleratorError("CUDA error: device-side assert triggered"), DeviceFailedError),
        (RuntimeError("shapes do not match"), RuntimeError),
        (ZeroDivisionError("division by zero"), ZeroDivisionError),
    ],
)
def test_what_the_errors_of_a_device_mean(tmp_path: Path, error: Exception, meant: type[Exception]) -> None:
    run = make(tmp_path)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_update", lambda self: (_ for _ in ()).throw(error))
        with pytest.raises(meant) as caught:
            train(run)
    assert type(caught.value) is meant
    if meant is DeviceOutOfMemoryError:  # the memory of the computer, or that of the GPU
        assert ("out of GPU memory" in str(caught.value)) == ("CPU" not in str(error))
    assert run.status().state == ("failed" if meant is type(error) else "interrupted")
