"""Who trains where: cores and GPUs shared out so that all of them are busy to the end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from resexp.config.study import load
from resexp.executors.schedule import SLACK, SPEEDUP, Job, _makespan, in_chunks, on_cores, on_gpus, priorities, share
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
    assert share(costs, [0] * len(costs), cores) == threads


RUN = st.tuples(st.floats(1, 1000), st.integers(0, 4))
"""A cost and a seed."""


@given(st.lists(RUN, min_size=1, max_size=30), st.integers(1, 32))
def test_sharing_never_makes_a_sweep_longer(runs: list[tuple[float, int]], cores: int) -> None:
    costs, seeds = [cost for cost, _ in runs], [seed for _, seed in runs]
    threads = share(costs, seeds, cores)
    assert all(1 <= n <= cores for n in threads)
    assert _makespan(costs, seeds, threads, cores)[0] <= _makespan(costs, seeds, [1] * len(costs), cores)[0]


@given(st.lists(RUN, min_size=1, max_size=30), st.integers(1, 32), st.booleans())
def test_seed_by_seed_a_sweep_is_at_most_a_tenth_longer(runs: list[tuple[float, int]], cores: int, wide: bool) -> None:
    """Than with the costliest run first."""
    costs, seeds, first = [cost for cost, _ in runs], [seed for _, seed in runs], [0] * len(runs)
    turns, threads = priorities(costs, seeds, cores, wide=wide)
    costliest = share(costs, first, cores) if wide else [1] * len(runs)
    longest = SLACK * _makespan(costs, first, costliest, cores)[0]
    assert _makespan(costs, turns, threads, cores)[0] <= longest
    assert wide or set(threads) == {1}


@pytest.mark.parametrize(("study", "seeds"), [("cifar10/cpu-small", 5), ("cifar10/width", 3), ("cifar10/table6", 5)])
def test_the_first_seed_of_every_net_comes_first(study: str, seeds: int) -> None:
    """On two cores, as soon as a share of one in the number of seeds is done, and the run that is at work then."""
    cells = load(study)[1]
    todo = [(Run(Path("results") / cell.config.folder), cell.config.cost) for cell in cells]
    runs = [run for job in on_cores(todo, 2, None) for run in job.runs]
    assert len(runs) == len(cells)
    assert [run.seed for run in runs] == sorted(cell.config.seed for cell in cells)
    costs = dict(todo)
    for seed in range(seeds):
        of_seed = [costs[run] for run in runs if run.seed == seed]
        assert of_seed == sorted(of_seed, reverse=True)
        assert len(of_seed) == len(cells) / seeds


def test_a_long_run_does_not_wait_for_its_seed() -> None:
    """Behind the short runs of seed 0 it would be at work alone: 4 + 10, rather than 10, on two cores."""
    todo = [(Run(Path(f"net-{i}/seed0")), 1.0) for i in range(8)] + [(Run(Path("net-9/seed1")), 10.0)]
    for jobs in (on_cores(todo, 2, 2), on_gpus(todo, ["0", "1"], 2, 1)):
        assert next(job for job in jobs if len(job.runs) == 1).runs[0] == todo[-1][0]
    assert on_cores(todo, 2, 2)[0].runs[0] == todo[-1][0]


def test_jobs_of_a_cluster_are_queued_seed_by_seed() -> None:
    todo = [(Run(Path(f"net-{depth}/seed{seed}")), float(depth)) for seed in (0, 1) for depth in (8, 20)]
    names = [["/".join(run.folder.parts) for run in chunk] for chunk in in_chunks(todo, 2)]
    assert names == [["net-20/seed0", "net-8/seed0"], ["net-20/seed1", "net-8/seed1"]]


def test_the_end_of_a_sweep_by_hand() -> None:
    """3 and 2 begin; 1 follows the 2: both cores are busy until 3. On two cores, a run of 4 takes 4 / 2**SPEEDUP."""
    assert _makespan([3, 2, 1], [0, 0, 0], [1, 1, 1], 2) == (3, 0)
    end, last = _makespan([4, 2, 1], [0, 0, 0], [2, 1, 1], 2)
    assert (end, last) == (4 / 2**SPEEDUP + 2, 1)


def test_a_run_that_has_no_step_left_gets_a_process() -> None:
    """It was stopped while it was tested at the end."""
    assert on_cores([(RUNS[0], 0.0)], 2, None) == [Job((RUNS[0],), 1, 1)]
    assert on_cores([(RUNS[0], 0.0)], 2, 1) == [Job((RUNS[0],), 1, 2)]


def test_on_cores_the_longest_run_comes_first() -> None:
    jobs = on_cores(todo(8, 20, 12), 2, None)
    assert [job.runs[0] for job in jobs] == [RUNS[1], RUNS[2], RUNS[0]]
    assert {(job.slots, job.threads) for job in jobs} == {(1, 1)}


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
    assert [(job.runs[0], job.slots, job.threads) for job in jobs] == [(RUNS[i], 1, 4) for i in (1, 2, 0)]


def test_gpus_get_queues_of_about_the_same_cost() -> None:
    jobs = on_gpus(todo(110, 56, 56, 44, 44, 32, 32, 20, 20), ["0", "3"], 2, None)
    assert [job.gpu for job in jobs] == ["0", "3"]
    assert [job.processes for job in jobs] == [2, 2]  # they share the cores
    costs = dict(todo(110, 56, 56, 44, 44, 32, 32, 20, 20))
    loads = [sum(costs[run] for run in job.runs) for job in jobs]
    assert sorted(loads) == [206, 208]
    assert sorted(run.folder for job in jobs for run in job.runs) == sorted(run.folder for run in RUNS)


def test_no_process_is_started_for_nothing() -> None:
    assert on_gpus(todo(1), ["0", "1"], 2, 4) == [Job((RUNS[0],), 1, None, "0", 4)]
