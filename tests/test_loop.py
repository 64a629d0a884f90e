"""THE loop of a sweep, over an engine whose jobs do what the test says."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from resexp.config import ExecutorConfig
from resexp.errors import UserError
from resexp.executors.base import End, Event, Handle, Job
from resexp.executors.loop import SweepLoop
from resexp.runs.records import Status
from resexp.runs.store import Run
from resexp.utils.interrupts import Stop
from resexp.utils.logs import logged_to

Script = list[Callable[["Scripted"], None]]


@dataclass
class Scripted:
    """A job that takes one action of its script between two looks at it, and then ends well."""

    job: Job
    script: Script
    end: End | None = None
    pending: list[Event] = field(default_factory=list)
    stopped: bool = False
    killed: bool = False

    def poll(self) -> tuple[list[Event], End | None]:
        if self.end is None:
            self.script.pop(0)(self) if self.script else run_to_completion(self)
        events, self.pending = self.pending, []
        return events, self.end

    def stop(self) -> None:
        self.stopped = True
        self.end = End()

    def kill(self) -> None:
        self.killed = True
        self.end = End("its process was killed by signal 9", retry=True)


def begin(handle: Scripted) -> None:
    handle.pending += [Event("run_began")]


def crash(handle: Scripted) -> None:
    handle.end = End("the machine broke", retry=True)


def give_up(handle: Scripted) -> None:
    handle.end = End("a mistake in the program")


def lose(handle: Scripted) -> None:
    handle.pending += [Event("run_ended", 0, "the GPU failed", retry=True)]


def work(handle: Scripted) -> None:
    pass


def leave(handle: Scripted) -> None:
    handle.end = End()


def run_to_completion(handle: Scripted) -> None:
    for index, run in enumerate(handle.job.runs):
        run.write_status(Status(state="finished"))
        handle.pending += [Event("run_ended", index)]
    handle.end = End()


class Machine:
    """An engine with room for `room` jobs; what the first, second, ... job of a run does is scripted by its name."""

    def __init__(self, scripts: dict[str, list[Script]], room: int = 9, size: int = 1, outlives: bool = False) -> None:
        self.scripts, self.room, self.size, self.outlives = scripts, room, size, outlives
        self.started = list[Scripted]()
        self.found = list[Handle]()
        self.most = 0

    def make_jobs(self, todo: Sequence[tuple[Run, float]]) -> tuple[list[Job], int]:
        runs = [run for run, _ in todo]
        return [Job(tuple(runs[i : i + self.size])) for i in range(0, len(runs), self.size)], self.room

    def find_jobs(self, runs: Sequence[Run]) -> list[Handle]:
        return self.found

    def start(self, jobs: Sequence[Job]) -> list[Handle]:
        handles = [Scripted(job, (self.scripts.get(job.runs[0].folder.name) or [[]]).pop(0)) for job in jobs]
        self.started += handles
        return list(handles)

    def wait(self, handles: Sequence[Handle]) -> None:
        self.most = max(self.most, len(handles))


class Sweep:
    def __init__(self, machine: Machine, folder: Path, names: str, stop: Stop | None = None, **options: Any) -> None:
        self.said: list[str] = []
        self.ended: dict[str, str] = {}
        self.runs = [Run(folder / name) for name in names]
        for run in self.runs:
            run.folder.mkdir(exist_ok=True)
        wait, fail_fast = options.pop("wait", True), options.pop("fail_fast", False)
        loop = SweepLoop(
            machine,
            ExecutorConfig(**options),
            fail_fast=fail_fast,
            stop=stop or Stop(),
            tick=lambda running: None,
            on_ended=self._ended,
        )
        with logged_to(self.said.append):
            self.left = loop.train([(run, 1.0) for run in self.runs], wait=wait)

    def _ended(self, run: Run, said: str) -> bool:
        assert run.folder.name not in self.ended, "each run is over once"
        self.ended[run.folder.name] = said
        return run.status().state == "finished"


def test_jobs_begin_as_there_is_room(tmp_path: Path) -> None:
    machine = Machine({}, room=2)
    assert Sweep(machine, tmp_path, "abcde").ended == dict.fromkeys("abcde", "")
    assert machine.most == 2


def test_a_fault_of_the_machine_is_tried_again_as_often_as_asked(tmp_path: Path) -> None:
    machine = Machine({"a": [[begin, crash] for _ in range(3)], "b": [[begin, crash], []]})
    sweep = Sweep(machine, tmp_path, "ab", retries=2)
    assert sweep.ended == {"a": "the machine broke", "b": ""}
    assert sorted(sweep.said) == sorted(
        f"{run.title}, at step 0: the machine broke; tried again ({count} of 2)"
        for run, count in zip([sweep.runs[0], sweep.runs[0], sweep.runs[1]], (1, 2, 1), strict=True)
    )


def test_a_job_that_never_began_a_run_counts_as_a_try_of_all_its_runs(tmp_path: Path) -> None:
    machine = Machine({"a": [[crash], [crash]]}, size=2)
    assert Sweep(machine, tmp_path, "ab", retries=1).ended == dict.fromkeys("ab", "the machine broke")


def test_runs_that_a_broken_job_had_not_begun_are_not_blamed(tmp_path: Path) -> None:
    machine = Machine({"a": [[begin, crash]]}, size=3)
    assert Sweep(machine, tmp_path, "abc", retries=0).ended == {"a": "the machine broke", "b": "", "c": ""}
    assert [[run.folder.name for run in handle.job.runs] for handle in machine.started] == [["a", "b", "c"], ["b", "c"]]


def test_an_error_of_the_program_is_not_tried_again(tmp_path: Path) -> None:
    sweep = Sweep(Machine({"a": [[begin, give_up]]}), tmp_path, "ab")
    assert sweep.ended == {"a": "a mistake in the program", "b": ""}
    assert not sweep.said


def test_a_run_that_lost_its_device_is_tried_again_in_another_job(tmp_path: Path) -> None:
    machine = Machine({"a": [[begin, lose, leave], []]})
    assert Sweep(machine, tmp_path, "a").ended == {"a": ""}
    assert len(machine.started) == 2


@pytest.mark.parametrize("outlives", [False, True])
def test_after_a_failure_under_fail_fast_the_others_are_stopped_and_nothing_begins(
    tmp_path: Path, outlives: bool
) -> None:
    machine = Machine({"a": [[begin, give_up]], "b": [[begin] + [work] * 9]}, room=2, outlives=outlives)
    sweep = Sweep(machine, tmp_path, "abc", fail_fast=True)
    assert sweep.ended == {"a": "a mistake in the program", "b": ""}
    assert [handle.stopped for handle in machine.started] == [False, True]


def test_nothing_is_tried_again_after_a_stop(tmp_path: Path) -> None:
    stop = Stop()
    machine = Machine({"a": [[begin, lambda handle: stop.ask(), crash]]})
    sweep = Sweep(machine, tmp_path, "a", stop=stop)
    assert list(sweep.ended) == ["a"]
    assert len(machine.started) == 1


@pytest.mark.parametrize("why", ["not waiting", "stopped"])
def test_jobs_that_outlive_the_sweep_are_left_alone(tmp_path: Path, why: str) -> None:
    stop = Stop()
    script: Script = [begin, lambda handle: stop.ask() if why == "stopped" else None, *[work] * 9]
    machine = Machine({"a": [script]}, outlives=True)
    sweep = Sweep(machine, tmp_path, "ab", stop=stop, wait=why == "stopped")
    assert sweep.left + len(sweep.ended) == 2
    assert "a" not in sweep.ended
    assert not any(handle.stopped or handle.killed for handle in machine.started)


def test_jobs_of_an_earlier_sweep_are_followed_and_not_started_again(tmp_path: Path) -> None:
    machine = Machine({})
    machine.found = [Scripted(Job((Run(tmp_path / "a"),)), [begin])]
    assert Sweep(machine, tmp_path, "ab").ended == {"a": "", "b": ""}
    assert [handle.job.runs[0].folder.name for handle in machine.started] == ["b"]


def test_a_silent_job_is_killed_and_its_run_tried_again(tmp_path: Path) -> None:
    machine = Machine({"a": [[begin] + [work] * 10**6, []]})
    sweep = Sweep(machine, tmp_path, "a", heartbeat_timeout=0.05)
    assert sweep.ended == {"a": ""}
    assert machine.started[0].killed
    assert "no heartbeat for 0 s; its job is killed" in sweep.said[0]


def test_runs_that_wait_while_another_prepares_its_images_are_no_reason_to_kill_their_job(tmp_path: Path) -> None:
    """One process trains them in turns, and one of them may decode for longer than the others may be silent."""
    attempt = tmp_path / "b" / ".attempt-1"

    def begin_both(handle: Scripted) -> None:
        handle.pending += [Event("run_began", 0), Event("run_began", 1)]
        attempt.mkdir()

    def heartbeat(handle: Scripted) -> None:
        time.sleep(0.02)
        os.utime(attempt)

    sweep = Sweep(Machine({"a": [[begin_both, *[heartbeat] * 20]]}, size=2), tmp_path, "ab", heartbeat_timeout=0.2)
    assert sweep.ended == {"a": "", "b": ""}
    assert not sweep.said


def report_start(handle: Scripted) -> None:
    handle.pending += [Event("log")]


def end_run(handle: Scripted) -> None:
    handle.pending += [Event("run_ended")]


@pytest.mark.parametrize("script", [[report_start], [report_start, begin, end_run]])
def test_a_job_that_hangs_outside_its_runs_is_killed(tmp_path: Path, script: Script) -> None:
    machine = Machine({"a": [[*script, *[work] * 10**6], []]})
    sweep = Sweep(machine, tmp_path, "a", heartbeat_timeout=0.05)
    assert list(sweep.ended) == ["a"]
    assert machine.started[0].killed
    assert "no heartbeat for 0 s; its job is killed" in sweep.said[0]


def test_a_run_that_a_pack_begins_again_is_begun_as_before(tmp_path: Path) -> None:
    assert Sweep(Machine({"a": [[begin, begin]]}), tmp_path, "a").ended == {"a": ""}


def test_what_cannot_be_started_beside_jobs_at_work_is_asked_again(tmp_path: Path) -> None:
    class Refusing(Machine):
        refusals = 2

        def start(self, jobs: Sequence[Job]) -> list[Handle]:
            if self.refusals:
                self.refusals -= 1
                raise UserError("sbatch: no answer")
            return super().start(jobs)

    machine = Refusing({})
    machine.found = [Scripted(Job((Run(tmp_path / "b"),)), [begin, *[work] * 9])]
    sweep = Sweep(machine, tmp_path, "ab")
    assert sweep.ended == {"a": "", "b": ""}
    assert sweep.said == ["sbatch: no answer; asked again"] * 2


def test_on_a_mistake_of_the_sweep_itself_jobs_are_asked_to_save(tmp_path: Path) -> None:
    def fail(handle: Scripted) -> None:
        raise OSError("no space left on the disk of the log")

    machine = Machine({"a": [[fail]]})
    with pytest.raises(OSError, match="no space left"):
        Sweep(machine, tmp_path, "ab")
    assert all(handle.stopped and not handle.killed for handle in machine.started)


def test_on_a_second_ctrl_c_all_jobs_are_killed(tmp_path: Path) -> None:
    def insist(handle: Scripted) -> None:
        raise KeyboardInterrupt

    machine = Machine({"a": [[insist]]})
    with pytest.raises(KeyboardInterrupt):
        Sweep(machine, tmp_path, "ab")
    assert all(handle.killed for handle in machine.started)
