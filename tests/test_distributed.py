"""One run trained by several processes: real ones, as torchrun starts them, that talk over Gloo on the CPU."""

from __future__ import annotations

import itertools
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from typer.testing import CliRunner

from resexp.cli import app
from resexp.config import FolderData, RunConfig
from resexp.data import open_dataset
from resexp.data.loader import Batches, augment, pixel_mean
from resexp.device.concurrent import run_to_completion
from resexp.device.hardware import Hardware, choose_hardware
from resexp.distributed import Ranks, lost_rank
from resexp.errors import UserError
from resexp.models import build_model
from resexp.models.layers import BatchNorm, Dropout, StochasticDepth
from resexp.runs import logits
from resexp.runs.store import Run
from resexp.training.train import train
from resexp.training.trainer import Trainer
from resexp.utils.interrupts import Stop
from tests.conftest import command, wait_until
from tests.test_training import CPU, assert_same, measured, tiny, weights

STEPS = {"steps": 24, "eval_every": 12, "lr": 0.02}
"""Long enough for momentum, two milestones and two evaluations, and too short for rounding to grow."""
LIKE_ONE = {
    "no BN": {"model": {"norm": "none"}},
    "fixup": {"model": {"norm": "fixup"}},
    "validated": {"model": {"norm": "none"}, "data": {"split": "holdout"}},
    "warm-up": {"model": {"norm": "none"}, "train": {"warmup_lr": 0.001, "warmup_until_error": 0.89}},
    "left-out branches": {"model": {"norm": "none", "drop_path": 0.5}},
    "pieces": {"train": {"microbatch": 8}},
    "plateaus": {"model": {"norm": "none"}, "train": {"schedule": "plateau", "patience": 1, "eval_every": 3}},
    "synced BN": {"train": {"sync_bn": True}},
    "synced and recomputed BN": {"train": {"sync_bn": True, "precise_bn_images": 150}, "data": {"split": "holdout"}},
    "dropout": {
        "model": {"kind": "vgg", "depth": 16, "width": 1},
        "data": {"size": 32, "train_images": 100},
        "train": {"steps": 3, "batch_size": 16, "lr": 0.002},
    },
}
"""Runs that several processes train to the same weights as one."""
APART: dict[str, Any] = {"model": {"kind": "plain"}}
"""A run with BN, whose statistics each process takes by itself."""
LONG: dict[str, Any] = {"train": {"steps": 240, "eval_every": 120, "checkpoint_steps": 10}}
"""Long enough to be killed in the middle, twice."""


def config(sections: dict[str, Any]) -> RunConfig:
    return tiny(**{**sections, "train": {**STEPS, **sections.get("train", {})}})


def create(folder: Path, config: RunConfig) -> Run:
    run = Run(folder / config.folder)
    run.create(config)
    return run


def torchrun(*words: object, restarts: int = 0) -> list[str]:
    """A command on two processes."""
    options = ["--standalone", "--nproc-per-node=2", f"--max-restarts={restarts}", "--monitor-interval=0.1"]
    return [sys.executable, "-m", "torch.distributed.run", *options, "-m", *map(str, words)]


def start(run: Run, **options: Any) -> subprocess.Popen[str]:
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    return subprocess.Popen(
        torchrun("resexp", "train", run.folder, **options),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment,
    )  # fmt: skip


def process_of(rank: int, parent: subprocess.Popen[str]) -> int:
    children = Path(f"/proc/{parent.pid}/task/{parent.pid}/children").read_text().split()
    return next(int(pid) for pid in children if f"\0RANK={rank}\0" in Path(f"/proc/{pid}/environ").read_text())


def exit_code(said: str) -> int:
    """That of the rank which ended first; the others have it too, or torchrun's SIGTERM met them while they ended."""
    first, *others = map(int, reversed(re.findall(r"exitcode  : (-?\d+)", said)))
    assert set(others) <= {first, -signal.SIGTERM}, said
    return first


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Run]:
    """Runs that two processes have trained, by name; one of them on images that only rank 0 finds."""
    folder = tmp_path_factory.mktemp("together")
    configs = {name: config(sections) for name, sections in {**LIKE_ONE, "apart": APART, "long": LONG}.items()}
    configs["without data"] = config({}).model_copy(update={"data": FolderData(source="folder", path="images")})
    runs = {name: create(folder / name, config) for name, config in configs.items()}
    for split, word in itertools.product(("train", "test"), ("cat", "dog")):
        (folder / "images" / split / word).mkdir(parents=True)
        Image.new("RGB", (8, 8), {"cat": "red", "dog": "blue"}[word]).save(folder / "images" / split / word / "0.png")
    environment = {**os.environ, "RESEXP_DATA": str(folder / "data")}
    words = torchrun("tests.together", *(run.folder for run in runs.values()))
    done = subprocess.run(words, capture_output=True, text=True, env=environment, cwd=folder, timeout=200)
    assert done.returncode == 0, done.stderr
    return runs.__getitem__


def close(ours: Any, theirs: Any) -> bool:
    return np.allclose(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", LIKE_ONE)
@pytest.mark.torchrun
def test_two_processes_train_the_weights_that_one_trains(
    together: Callable[[str], Run], name: str, tmp_path: Path
) -> None:
    both, one = together(name), create(tmp_path, config(LIKE_ONE[name]))
    train(one)
    assert both.status().state == "finished"
    ours, theirs = weights(both), weights(one)
    assert list(ours) == list(theirs)
    assert all(close(ours[key], theirs[key]) for key in ours)
    assert any(not torch.equal(ours[key], theirs[key]) for key in ours), "the sums were not shared out at all"
    for record, expected in zip(measured(both), measured(one), strict=True):
        assert record["event"] == expected["event"]
        assert all(close(record[key], value) for key, value in expected.items() if key != "event")
    assert close(logits.read(both.logits_path).values, logits.read(one.logits_path).values)


@pytest.mark.torchrun
def test_weights_are_shared_in_few_messages_and_only_where_they_differ(together: Callable[[str], Run]) -> None:
    """Two evaluations of a run with BN; without it nothing differs between ranks."""
    assert (together("apart").folder / "broadcasts").read_text() == "4"
    assert (together("no BN").folder / "broadcasts").read_text() == "0"


@pytest.mark.torchrun
def test_bn_by_each_process_is_bn_over_parts_of_the_batch(together: Callable[[str], Run]) -> None:
    """Against the halves of each batch, one after the other; the moving averages are those of the first."""
    run, settings = together("apart"), config(APART)
    dataset = open_dataset(settings.data)
    torch.manual_seed(settings.seed)
    model = build_model(settings.model).to(memory_format=torch.channels_last).train()
    norms = [module for module in model.modules() if isinstance(module, BatchNorm)]
    batches = Batches(dataset.train_index, settings.data, settings.seed, 32, CPU)
    images, labels = (torch.from_numpy(a) for a in dataset.train())
    mean = pixel_mean(images, torch.from_numpy(dataset.train_index))
    optimizer = torch.optim.SGD(model.parameters(), momentum=0.9, weight_decay=1e-4)
    for step in range(24):
        batches.prepare(step)
        plan = batches.plan(torch.tensor([step]))
        x, y = augment(images, mean, plan, 1), labels[plan.image]
        optimizer.param_groups[0]["lr"] = 0.02 * 0.1 ** ((step >= 12) + (step >= 18))
        optimizer.zero_grad()
        for half, momentum in ((slice(16), 0.1), (slice(16, 32), 0.0)):
            for norm in norms:
                norm.momentum = momentum
            torch.autograd.backward(F.cross_entropy(model(x[half]), y[half]) / 2)
        optimizer.step()
    trained = weights(run)
    assert all(close(trained[key], value) for key, value in model.state_dict().items())


def test_the_parts_of_a_batch_make_up_the_batch() -> None:
    def plan(ranks: Ranks) -> np.ndarray[Any, Any]:
        batches = Batches(np.arange(50), tiny().data, 0, 24, CPU, ranks)
        batches.prepare(3)
        return np.array([column.tolist() for column in batches.plan(torch.tensor([3]))])

    parts = [plan(one_of(3, rank)) for rank in range(3)]
    assert [part.shape for part in parts] == [(4, 8)] * 3
    assert np.array_equal(np.concatenate(parts, axis=1), plan(Ranks()))


def one_of(world: int, rank: int = 0) -> Ranks:
    """A process that believes in others."""
    ranks = Ranks()
    ranks.world_size, ranks.rank, ranks.local_rank = world, rank, rank
    return ranks


def test_each_part_of_a_batch_drops_what_one_process_would_drop_there() -> None:
    torch.manual_seed(0)
    whole, parts = Dropout(), [Dropout() for _ in range(2)]
    for rank, part in enumerate(parts):
        part.load_state_dict(whole.state_dict())
        part.ranks = one_of(2, rank)
    for _ in range(2):
        x = torch.rand(8, 5)
        assert torch.equal(whole(x), torch.cat([part(half) for part, half in zip(parts, x.split(4), strict=True)]))


def test_each_piece_of_a_rank_drops_what_one_process_would_drop_there() -> None:
    """With `train.microbatch`: four pieces by one process, or two by each of two. A branch goes for a whole batch."""
    torch.manual_seed(0)
    for kind in (Dropout, lambda: StochasticDepth(0.5)):
        whole, halves = kind(), [kind() for _ in range(2)]
        whole.parts = 4
        for rank, half in enumerate(halves):
            half.load_state_dict(whole.state_dict())
            half.parts = 2
            if isinstance(half, Dropout):
                half.ranks = one_of(2, rank)
        for _ in range(8):
            pieces = torch.ones(8, 5, 1, 1).split(2)
            ours = [whole(piece) for piece in pieces]
            theirs = [halves[number // 2](piece) for number, piece in enumerate(pieces)]
            assert torch.equal(torch.cat(ours), torch.cat(theirs))
            if isinstance(whole, StochasticDepth):
                assert len(torch.cat(ours).unique()) == 1


def test_a_batch_in_other_pieces_is_continued_with_the_same_branches() -> None:
    """As where two processes trained it with a piece each, and one goes on with two."""
    whole = tiny(model={"drop_path": 0.5}, train={"batch_size": 16, "microbatch": 16})
    before, after = (
        Trainer(whole.with_train(microbatch=images), open_dataset(whole.data), Hardware(CPU, "fp32"))
        for images in (16, 8)
    )
    run_to_completion(before.advance(3, lambda: False))
    after.load(before.state())
    for trainer in (before, after):
        assert trainer._droppers
        assert {int(dropper.draws.calls) // dropper.parts for dropper in trainer._droppers} == {3}


@pytest.mark.torchrun
def test_what_is_killed_and_restarted_ends_as_if_nothing_had_happened(
    together: Callable[[str], Run], tmp_path: Path
) -> None:
    """First rank 1, then rank 0, which writes; torchrun starts both again."""
    run = create(tmp_path, config(LONG))
    process = start(run, restarts=3)
    wait_until(process, lambda: run.status().step >= 20)
    os.kill(process_of(1, process), signal.SIGKILL)
    wait_until(process, lambda: len(attempts(run)) == 2 and run.status().step >= attempts(run)[1].from_step + 20)
    os.kill(process_of(0, process), signal.SIGKILL)
    output = process.communicate(timeout=120)
    assert process.returncode == 0, output
    first, second, third = attempts(run)
    assert (first.state, second.state, third.state) == ("interrupted", None, "finished")
    assert 0 < first.from_step + 10 <= second.from_step < third.from_step
    assert_same(together("long"), run)


def attempts(run: Run) -> list[Any]:
    manifest = run.manifest()
    return manifest.attempts if manifest else []


@pytest.mark.torchrun
def test_a_signal_saves_and_another_number_of_processes_is_refused_unless_allowed(
    together: Callable[[str], Run], tmp_path: Path, resexp: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    run = create(tmp_path, config(LONG))
    process = start(run)
    wait_until(process, lambda: run.status().step >= 20)
    os.kill(process_of(1, process), signal.SIGTERM)  # whichever receives it
    output, errors = process.communicate(timeout=120)
    assert process.returncode == 1
    assert exit_code(errors) == 143
    assert "stopped by a signal; the same command continues" in output
    (stopped,) = attempts(run)
    assert (stopped.state, stopped.world) == ("interrupted", 2)
    assert stopped.to_step >= 20
    refused = resexp("train", run.folder)
    assert refused.returncode == 2
    assert refused.stderr == (
        f"resexp: {run.folder}: trained by 2 processes so far, now by 1; start as many as before, or add "
        "--allow-world-size-change\n"
    )
    assert resexp("train", run.folder, "--allow-world-size-change").returncode == 0
    assert [(attempt.world, attempt.state) for attempt in attempts(run)] == [(2, "interrupted"), (1, "finished")]
    assert attempts(run)[1].from_step == stopped.to_step


@pytest.mark.torchrun
def test_rank_0_alone_says_what_is_wrong_and_all_end_as_it_does(tmp_path: Path) -> None:
    run = create(tmp_path, config({"train": {"batch_size": 33}}))
    process = start(run)
    _, errors = process.communicate(timeout=120)
    assert errors.count("resexp: train.batch_size: 33 images can't be shared out evenly among 2 processes; start") == 1
    assert exit_code(errors) == 2
    assert run.status().state == "pending"


def test_an_environment_that_is_half_torchruns_gets_a_line(tmp_path: Path) -> None:
    run = create(tmp_path, config({}))
    done = subprocess.run(
        command("train", run.folder),
        env={**os.environ, "TORCHELASTIC_RUN_ID": "left", "WORLD_SIZE": "2"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("resexp: rank None: can't reach rank 0 (")
    assert "variable RANK expected" in line


@pytest.mark.torchrun
def test_a_sweep_is_not_for_torchrun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    done = CliRunner().invoke(app, ["sweep"])
    assert isinstance(done.exception, UserError)
    assert done.exception.args[0].startswith("sweep: torchrun is for one run")


def test_an_error_of_rank_0_in_the_middle_ends_all_ranks_with_one_line(tmp_path: Path) -> None:
    """Where it writes what a probe found, there is a file instead of a folder. The other rank waits meanwhile."""
    run = create(tmp_path, config({"probes": {"gradients": [12]}}))
    run.probe_folder.write_text("")
    process = start(run)
    _, errors = process.communicate(timeout=120)
    said = f"resexp: {run.probe_folder}: not a folder; move it elsewhere, or name another folder"
    assert [line for line in errors.splitlines() if "resexp: " in line] == [said]
    assert exit_code(errors) == 2
    assert run.status().state == "interrupted"


@pytest.mark.torchrun
def test_what_keeps_another_rank_from_beginning_is_said_by_rank_0(together: Callable[[str], Run]) -> None:
    status = together("without data").status()
    assert status.state == "pending"
    assert status.message.startswith(f"rank 1 on {os.uname().nodename}: images: ")


def test_a_signal_that_reaches_all_ranks_insists_on_none_of_them() -> None:
    """One may have heard of it from another before; only a second one of its own is a second one."""
    stop = Stop()
    stop.ask(signal.SIGINT)
    stop._handle(signal.SIGINT, None)
    assert stop.exit_code == 130
    with pytest.raises(KeyboardInterrupt):
        stop._handle(signal.SIGINT, None)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (RuntimeError("[/b/gloo/transport/tcp/pair.cc:545] Connection closed by peer [::1]:7"), "Connection closed by"),
        (torch.distributed.DistBackendError("NCCL error in: x.cpp:1, remote process exited"), "NCCL error in"),
        (RuntimeError("shapes differ"), ""),
        (UserError("Connection closed"), ""),
    ],
)
def test_errors_of_the_network_are_told_from_others(error: Exception, said: str) -> None:
    assert bool(lost_rank(error)) == bool(said)
    assert lost_rank(error).startswith(said)


def test_a_device_for_each_process_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for device in ("cuda:1", "mps"):
        with pytest.raises(UserError, match=f"{device} is one device, for 2 processes; set it to cuda or cpu"):
            choose_hardware(tiny(train={"device": device}).train, ranks=one_of(2))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(UserError, match="cuda:2 asked for, but it has 2 GPUs"):
        choose_hardware(tiny(train={"device": "cuda"}).train, ranks=one_of(3, rank=2))


def test_synced_bn_is_for_nets_that_have_bn_and_is_part_of_the_signature() -> None:
    with pytest.raises(ValueError, match="sync_bn is about BN's statistics, and this net has no BN; leave it out"):
        tiny(model={"norm": "none"}, train={"sync_bn": True})
    assert tiny(train={"sync_bn": True}).signature != tiny().signature == tiny(train={"sync_bn": False}).signature


def test_synced_bn_by_one_process_is_plain_bn() -> None:
    trainers = [
        Trainer(config, open_dataset(config.data), Hardware(CPU, "fp32"))
        for config in (tiny(train={"sync_bn": True}), tiny())
    ]
    for trainer in trainers:
        for _ in trainer.advance(3, lambda: False):
            pass
    assert all(map(torch.equal, *(trainer.model.state_dict().values() for trainer in trainers)))


def test_no_gpu_is_asked_anything_before_its_rank_has_named_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the beginning of an attempt: whatever asks one earlier makes a context on the first."""

    class NamedError(Exception):
        pass

    def name(device: torch.device) -> None:
        asked.append(device)
        raise NamedError

    asked: list[object] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "_lazy_init", lambda: asked.append("context"))
    monkeypatch.setattr(torch.cuda, "set_device", name)
    ranks = one_of(2)
    ranks.local_rank = 1
    with pytest.raises(NamedError):
        train(create(tmp_path, config({"train": {"device": "cuda"}})), ranks=ranks)
    assert asked == [torch.device("cuda:1")]
