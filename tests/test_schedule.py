"""Who trains where: cores and GPUs shared out so that all of them are busy to the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resexp.executors.schedule import SPEEDUP, Job, _makespan, on_cores, on_gpus, share
from resexp.runs.store import Run

RUNS = [Run(Path(f"net-{i}/seed0")) for i in range(9)]


def todo(*costs: float) -> list[tuple[Run, float]]:
    return list(zip(RUNS, costs, strict=False))


@pytest.mark.parametrize(
    ("costs", "cores", "threads"),
    [
        ([1, 1, 1, 1], 2, [1, 1, 1, 1]),
        ([1, 1, 1], 2, [1, 1, 2]),  # one after the other on both cores, and then two side by side
        ([5], 4, [4]),
        ([1, 1], 16, [8, 8]),
        ([20, 20, 8, 8], 2, [1, 1, 1, 1]),
        ([110, 56, 56, 44, 44, 32, 32, 20, 20], 16, [5, 2, 2, 2, 2, 1, 1, 1, 1]),  # Fig. 6 on 16 cores
        ([], 4, []),
    ],
)
def test_cores_for_each_run(costs: list[float], cores: int, threads: list[int]) -> None:
    assert share(costs, cores) == threads


@given(st.lists(st.floats(1, 1000), min_size=1, max_size=30), st.integers(1, 32))
def test_sharing_never_makes_a_sweep_longer(costs: list[float], cores: int) -> None:
    threads = share(costs, cores)
    assert all(1 <= n <= cores for n in threads)
    assert _makespan(costs, threads, cores)[0] <= _makespan(costs, [1] * len(costs), cores)[0]


def test_the_end_of_a_sweep_by_hand() -> None:
    """3 and 2 begin; 1 follows the 2: both cores are busy until 3. On two cores, a run of 4 takes 4 / 2**SPEEDUP."""
    assert _makespan([3, 2, 1], [1, 1, 1], 2) == (3, 0)
    end, last = _makespan([4, 2, 1], [2, 1, 1], 2)
    assert (end, last) == (4 / 2**SPEEDUP + 2, 1)


def test_a_run_that_has_no_step_left_gets_a_process() -> None:
    """It was stopped while it was tested at the end."""
    assert on_cores([(RUNS[0], 0.0)], 2, None) == [Job((RUNS[0],), 1, 1)]
    assert on_cores([(RUNS[0], 0.0)], 2, 1) == [Job((RUNS[0],), 1, 2)]


def test_on_cores_the_longest_run_comes_first() -> None:
    jobs = on_cores(todo(8, 20, 12), 2, None)
    assert [job.runs[0] for job in jobs] == [RUNS[1], RUNS[2], RUNS[0]]
    assert {(job.cores, job.threads) for job in jobs} == {(1, 1)}


def test_runs_of_less_than_a_hundredth_of_a_cores_work_share_a_process() -> None:
    """On 2 cores, 1,000 equal runs are 500 for each, so 5 are a hundredth; with 4 long ones more, 7."""
    many = [Run(Path(f"net-{i}/seed0")) for i in range(1000)]
    jobs = on_cores([(run, 1.0) for run in many], 2, None)
    assert {len(job.runs) for job in jobs} == {5}
    assert [run for job in jobs for run in job.runs] == many
    jobs = on_cores([*((run, 1.0) for run in many), *((run, 100.0) for run in RUNS[:4])], 2, None)
    assert [len(job.runs) for job in jobs[:5]] == [1, 1, 1, 1, 7]


def test_so_many_at_a_time_share_the_cores_evenly() -> None:
    jobs = on_cores(todo(8, 20, 14), 8, 2)
    assert [(job.runs[0], job.cores, job.threads) for job in jobs] == [(RUNS[i], 1, 4) for i in (1, 2, 0)]


def test_gpus_get_queues_of_about_the_same_cost() -> None:
    jobs = on_gpus(todo(110, 56, 56, 44, 44, 32, 32, 20, 20), ["0", "3"], 2, None)
    assert [job.gpu for job in jobs] == ["0", "3"]
    costs = dict(todo(110, 56, 56, 44, 44, 32, 32, 20, 20))
    loads = [sum(costs[run] for run in job.runs) for job in jobs]
    assert sorted(loads) == [206, 208]
    assert sorted(run.folder for job in jobs for run in job.runs) == sorted(run.folder for run in RUNS)


def test_no_process_is_started_for_nothing() -> None:
    assert on_gpus(todo(1), ["0", "1"], 2, 4) == [Job((RUNS[0],), 1, None, "0", 4)]
