"""Asked to stop, at any moment: by SIGTERM with a grace period, as preemption does, and by Ctrl-C once and twice."""

from __future__ import annotations

import multiprocessing
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from resexp.runs import checkpoint
from resexp.runs.store import Run
from resexp.training import loop
from resexp.training.train import train
from resexp.training.trainer import Trainer
from resexp.utils.interrupts import Stop
from tests.conftest import command, wait_until
from tests.faults.operations import in_a_process
from tests.faults.processes import Sweep, descendants, kill
from tests.faults.test_every_operation import assert_nothing_lost, make
from tests.test_sweep import runs_of
from tests.test_training import assert_same, tiny

Survived = Callable[..., None]
SIGTERM_EXIT, SIGINT_EXIT = 143, 130
FINISHED, KILLED, NOT_YET_LISTENING = 0, -signal.SIGKILL, -signal.SIGTERM


def train_until_asked(run: Run) -> None:
    """What `resexp train` does, without the seconds that an interpreter takes to start."""
    stop = Stop().install()
    if train(run, stop=stop).state != "finished":
        sys.exit(stop.exit_code)


@pytest.mark.parametrize("times", [pytest.param(100, marks=pytest.mark.faults), 6])
def test_sigterm_at_any_moment_and_sigkill_after_the_grace_period(
    tmp_path: Path, times: int, survived: Survived
) -> None:
    """Asked again and again until the run is finished: while it is set up, trained, probed, evaluated, and saved."""
    whole = make(tmp_path / "whole")
    assert in_a_process(lambda: train(whole)) == 0
    chance, ended, number = random.Random(1), Counter[int](), 0
    while ended.total() < times:
        number += 1
        run, code = make(tmp_path / f"run{number}"), None
        while code != FINISHED:  # a run can be finished and then killed, before its attempt has tidied up
            process = multiprocessing.get_context("fork").Process(target=lambda run=run: train_until_asked(run))
            process.start()
            process.join(chance.uniform(0, 0.6))
            kill(process.pid or 0, number=signal.SIGTERM)
            process.join(chance.uniform(0, 1.5))  # the grace period, at times too short
            process.kill()
            process.join()
            code = process.exitcode
            assert code is not None
            ended[code] += 1
            if code == SIGTERM_EXIT:
                begun = run.checkpoint_path.exists()  # else it was stopped while its images were decoded
                assert run.status().state == ("interrupted" if begun else "pending")
                assert run.status().message == "stopped by a signal; the same command continues"
        assert_nothing_lost(run, whole)
    assert ended.keys() <= {FINISHED, SIGTERM_EXIT, NOT_YET_LISTENING, KILLED}
    assert ended[SIGTERM_EXIT] > times / 5
    survived("SIGTERM at a random moment of a run", ended.total() - ended[KILLED])
    survived("SIGTERM at a random moment of a run, then SIGKILL", ended[KILLED])


PHASES: dict[str, tuple[Any, str, str]] = {
    "the set-up": (Trainer, "__init__", ""),
    "training": (Trainer, "advance", ""),
    "the evaluation of the training images": (Trainer, "evaluate", "train"),
    "the evaluation of the validation images": (Trainer, "evaluate", "val"),
    "the test": (Trainer, "evaluate", "test"),
    "BN's new averages": (Trainer, "recompute_bn", ""),
    "a probe": (loop, "run_probe", ""),
    "a save": (checkpoint, "save", ""),
}
"""What begins each of them, and with which argument."""


@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGTERM, SIGTERM_EXIT), pytest.param(signal.SIGINT, SIGINT_EXIT, marks=pytest.mark.faults)],
)
def test_a_signal_in_every_phase_saves_and_ends_with_its_code(
    tmp_path: Path, number: int, code: int, survived: Survived
) -> None:
    whole = make(tmp_path / "whole")
    assert in_a_process(lambda: train(whole)) == 0
    for phase, (owner, name, argument) in PHASES.items():
        run = make(tmp_path / phase)

        def signalled(run: Run = run, owner: Any = owner, name: str = name, argument: str = argument) -> None:
            begins, signals = getattr(owner, name), iter([number])

            def signals_once(*given: object, **options: object) -> object:
                if not argument or argument in given:
                    for once in signals:
                        signal.raise_signal(once)
                return begins(*given, **options)

            setattr(owner, name, signals_once)
            train_until_asked(run)

        assert in_a_process(signalled) == code, phase
        assert run.status().state == "interrupted"
        assert in_a_process(lambda run=run: train(run)) == 0
        assert_nothing_lost(run, whole)
    survived(f"{signal.Signals(number).name} in a phase of a run", len(PHASES))


SLOW = {"data": {"size": 32}, "model": {"width": 48, "depth": 56}, "train": {"batch_size": 200, "steps": 3}}
"""Steps of several seconds: whoever waits for the end of one is not immediate."""


@pytest.mark.faults
def test_a_second_ctrl_c_does_not_wait_for_the_step(tmp_path: Path, survived: Survived) -> None:
    config = tiny(**SLOW)
    run = Run(tmp_path / config.folder)
    run.create(config)
    process = subprocess.Popen(
        command("train", run.folder), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    wait_until(process, run.checkpoint_path.exists)  # of the initial weights; now the first step goes on
    saved = run.checkpoint_path.read_bytes()
    process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.2)
    process.send_signal(signal.SIGINT)
    said, complained = process.communicate(timeout=100)
    assert process.returncode == SIGINT_EXIT, said
    assert complained == ""
    assert run.checkpoint_path.read_bytes() == saved
    assert (run.status().state, run.status().step) == ("interrupted", 0)
    survived("Ctrl-C twice")


@pytest.mark.faults
def test_a_second_ctrl_c_of_a_sweep_leaves_no_process_behind(
    write_study: Callable[..., Path], survived: Survived
) -> None:
    study = write_study(
        grid={"model.depth": [8, 14]},
        train={"steps": 400, "log_every": 1, "eval_every": 400, "checkpoint_steps": 20, "milestones": []},
    )
    undisturbed = Sweep(study, Path("undisturbed"))
    assert undisturbed.process.wait() == 0, undisturbed.said()
    sweep = Sweep(study, Path("results"), "--jobs", 2)
    runs = runs_of(study)
    wait_until(sweep.process, lambda: all(run.metrics() for run in runs))
    started = descendants(sweep.process.pid)
    workers = sweep.workers(runs)
    kill(*workers, number=signal.SIGSTOP)  # they can't hear that they are to stop
    sweep.process.send_signal(signal.SIGINT)
    with pytest.raises(subprocess.TimeoutExpired):
        sweep.process.wait(1)
    sweep.process.send_signal(signal.SIGINT)
    sweep.said()
    assert sweep.process.returncode == SIGINT_EXIT
    wait_until(None, lambda: not any(Path(f"/proc/{pid}").exists() for pid in started))
    again = Sweep(study, Path("results"))
    assert again.process.wait() == 0, again.said()
    for run, other in zip(runs, runs_of(study, Path("undisturbed")), strict=True):
        assert_same(run, other)
    survived("Ctrl-C twice")
