"""Sweeps on real Ray clusters, in a network of their own: what comes out, and what the death of a node costs."""

from __future__ import annotations

import importlib.util
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest

from resexp.config import ExecutorConfig
from resexp.config.study import load
from resexp.errors import UserError
from resexp.executors import make_executor
from resexp.runs.store import Run
from resexp.sweeping import run_folders
from tests.conftest import command, wait_until
from tests.test_plugins import on_an_executor
from tests.test_sweep import break_run, runs_of, states
from tests.test_training import assert_same

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not importlib.util.find_spec("ray"), reason="ray is not installed"),
    pytest.mark.timeout(600),
]

Write = Callable[..., Path]
HEAD = "127.0.0.1:6379"
GRID = {"model.depth": [8, 14]}
LONG = {"steps": 400, "log_every": 1, "eval_every": 400, "checkpoint_steps": 20}


class Network:
    """Processes that see a network, process numbers and a Ray folder of their own."""

    def __init__(self) -> None:
        ready = "ip link set lo up && mkdir -p /tmp/ray && mount -t tmpfs ray /tmp/ray && echo ready && exec cat"
        spaces = ["unshare", "-n", "-p", "-m", "-f", "--mount-proc", "--kill-child"]
        # It ends when its input does: with us, whatever ends us.
        self.first = subprocess.Popen(
            [*spaces, "bash", "-c", ready], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.first.stdout
        self.usable = self.first.stdout.readline() == "ready\n"

    def start(self, *words: object, **environment: str) -> subprocess.Popen[str]:
        """A process in it."""
        (inside,) = Path(f"/proc/{self.first.pid}/task/{self.first.pid}/children").read_text().split()
        return subprocess.Popen(
            ["nsenter", "-t", inside, "-n", "-p", "-m", f"--wdns={Path.cwd()}", *map(str, words)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "RAY_AUTH_MODE": "disabled", **environment},
        )

    def run(self, *words: object, **environment: str) -> tuple[int, str]:
        """The exit code of a process in it, and what it printed."""
        process = self.start(*words, **environment)
        said, _ = process.communicate(timeout=400)
        return process.returncode, said

    def add_node(self, *words: object, cpus: int = 1, hide: Path | None = None) -> None:
        """A node of a cluster: its head, or one that is given the address."""
        node = ["ray", "start", f"--num-cpus={cpus}", "--node-ip-address=127.0.0.1", "--object-store-memory=80000000"]
        node[:1] = [sys.executable, "-m", "ray.scripts.scripts"]
        hiding = ["unshare", "-m", "bash", "-c", 'mount -t tmpfs hidden "$0" && exec "$@"', str(hide)] if hide else []
        code, said = self.run(*hiding, *node, "--disable-usage-stats", *words)
        assert code == 0, said

    def kill_node_of(self, worker: str) -> None:
        """Kill a worker and its raylet, and with it the node; but for the head, which the sweep is connected to."""
        unless_head = 'node=$(ps -o ppid= -p $0 | tr -d " "); grep -q -e --head /proc/$node/cmdline || kill -9 $node $0'
        self.run("bash", "-c", unless_head, worker)

    def end(self) -> None:
        self.first.kill()  # and all that is in it dies
        self.first.wait()


@pytest.fixture
def network() -> Iterator[Network]:
    network = Network()
    try:
        if not network.usable:
            pytest.skip("making a network namespace is not allowed here")
        yield network
    finally:
        network.end()


@pytest.fixture
def cluster(network: Network) -> Network:
    """Two nodes with a core each."""
    network.add_node("--head", "--port=6379", "--include-dashboard=false")
    network.add_node(f"--address={HEAD}")
    return network


def sweep(study: Path, *words: object) -> list[str]:
    return command("sweep", "--config", study, "--executor", "ray", *words)


def on_the_cluster(study: Path) -> list[str]:
    return sweep(study, "--set", f"executor.ray.address={HEAD}")


def equal_to_local(study: Path, *, but: int = 0) -> None:
    """The runs, but for the first few, are those of a sweep on this machine, bit for bit."""
    done = subprocess.run(command("sweep", "--config", study, "--results", "local"), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    for run, other in list(zip(runs_of(study), runs_of(study, Path("local")), strict=True))[but:]:
        assert_same(run, other)


def summary(results: str) -> pd.DataFrame:
    (folder,) = Path(results).iterdir()
    assert subprocess.run(command("report", folder), stdout=subprocess.DEVNULL).returncode == 0
    table = pd.read_csv(folder / "report" / "summary.csv")
    return table[[column for column in table if "second" not in column and "time" not in column]]


def written(run: Run) -> int:
    """Lines of metrics."""
    return run.metrics_path.read_bytes().count(b"\n") if run.metrics_path.exists() else 0


def test_a_cluster_of_its_own_trains_what_this_machine_would(write_study: Write, network: Network) -> None:
    study = write_study(grid=GRID)
    code, said = network.run(*sweep(study, "--set", "executor.runs_per_job=2"))
    assert code == 0, said
    assert "2 trained, 0 finished before, 0 not finished" in said
    equal_to_local(study)
    pd.testing.assert_frame_equal(summary("results"), summary("local"))


def test_tasks_load_the_plugin_that_the_sweep_was_given(write_study: Write, cluster: Network) -> None:
    """The workers of a running cluster do not inherit the environment of the sweep."""
    on_an_executor(
        write_study,
        lambda *words: cluster.run(
            *command("sweep", *words, "--executor", "ray", "--set", f"executor.ray.address={HEAD}")
        ),
    )


def test_a_run_goes_on_elsewhere_when_its_node_dies_and_one_that_fails_does_not(
    write_study: Write, cluster: Network
) -> None:
    study = write_study(grid={"model.depth": [8, 14, 20]}, train=LONG)
    cell, broken = run_folders(*load(str(study)), Path("results"))[0]
    break_run(cell, broken)
    process = cluster.start(*on_the_cluster(study))
    longer = runs_of(study)[1:]  # these begin, one on each node
    wait_until(process, lambda: all(written(run) > 30 for run in longer))
    for run in longer:
        cluster.kill_node_of(run.lock_path.read_text().split()[1])
    said, _ = process.communicate(timeout=150)
    assert process.returncode == 1, said
    assert len(re.findall(r"-(?:14|20) seed 0, at step \d+: Ray lost its worker .*; tried again", said)) == 1
    assert "failed at step 0: TypeError: unsupported operand type(s) for +=" in said
    assert "Traceback" not in said
    assert states(study) == ["failed", "finished", "finished"]
    equal_to_local(study, but=1)


def test_ctrl_c_saves_and_the_next_sweep_goes_on(write_study: Write, cluster: Network) -> None:
    study = write_study(grid={"model.depth": [8, 14, 20]}, train={**LONG, "checkpoint_steps": None})
    process = cluster.start(*on_the_cluster(study))
    begun = runs_of(study)[1:]
    wait_until(process, lambda: all(written(run) > 10 for run in begun))
    (inside,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(inside), signal.SIGINT)
    said, _ = process.communicate(timeout=150)
    assert process.returncode == 130, said
    assert "1 not started" in said
    assert states(study) == ["pending", "interrupted", "interrupted"]
    assert all(run.status().step >= 10 and run.checkpoint_path.exists() for run in begun)
    code, said = cluster.run(*on_the_cluster(study))
    assert code == 0, said
    assert all(run.manifest().attempts[1].from_step >= 10 for run in begun)  # type: ignore[union-attr]
    equal_to_local(study)


def test_a_node_that_does_not_see_the_results_is_named(write_study: Write, network: Network, tmp_path: Path) -> None:
    study = write_study()
    results = tmp_path / "results"
    results.mkdir()
    network.add_node("--head", "--port=6379", "--include-dashboard=false", cpus=0)
    network.add_node(f"--address={HEAD}", hide=results)
    code, said = network.run(*on_the_cluster(study))
    (run,) = runs_of(study)
    assert code == 1
    assert f"{run.folder.absolute()} is not there on {os.uname().nodename}: all nodes of a Ray cluster must" in said
    assert "tried again" not in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("127.0.0.1:1", "no Ray cluster answers at 127.0.0.1:1: [Errno 111] Connection refused"),
        ("ray://head:10001", "ray://head:10001; expected auto, or HOST:PORT of a cluster that we are a node of"),
        ("head", "head; expected auto, or HOST:PORT of a cluster that we are a node of"),
    ],
)
def test_a_cluster_that_can_not_be_reached_is_one_line(tmp_path: Path, address: str, words: str) -> None:
    config = ExecutorConfig.model_validate({"name": "ray", "ray": {"address": address}})
    with pytest.raises(UserError, match=f"^{re.escape(f'executor.ray.address: {words}')}$"):
        make_executor(config, set()).make_jobs([(Run(tmp_path / "seed0"), 1.0)])


def test_without_ray_its_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "resexp.executors.ray", raising=False)
    with pytest.raises(UserError, match=r"ray is not installed; pip install 'resexp\[ray\]'"):
        make_executor(ExecutorConfig(name="ray"), set())
