"""A real Slurm of two nodes on this machine, in a folder and on ports of its own: no systemd, no cgroups."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
MISSING = [name for name in DAEMONS if not shutil.which(name, path=f"{os.environ.get('PATH')}:/usr/sbin:/sbin")]
MISSING += [] if find_spec("submitit") else ["submitit"]
NODES = ("n1", "n2")
DEADLINE_S = 120.0

CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthInfo=socket={folder}/munge.sock
SlurmctldPort={port}
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,bf_interval=1,sched_interval=1
SlurmdParameters=config_overrides
SlurmdTimeout=10
ReturnToService=2
KillWait=2
GresTypes=gpu
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs=2 RealMemory=1000 Gres=gpu:2\n"


class Cluster:
    """Its daemons are children of this process, so that nothing of it can be left behind."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": f"{folder}/slurm.conf"}
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        folder.chmod(0o755)  # munge's socket is for everybody
        for name in ("state", *NODES):
            (folder / name).mkdir()
        (folder / "munge.key").write_bytes(os.urandom(1024))
        (folder / "munge.key").chmod(0o600)
        control, *nodes = free_ports(1 + len(NODES))
        host = socket.gethostname().partition(".")[0]
        text = CONFIGURATION.format(host=host, user=getpass.getuser(), folder=folder, port=control)
        text += "".join(NODE.format(name=name, host=host, port=port) for name, port in zip(NODES, nodes, strict=True))
        (folder / "slurm.conf").write_text(text)
        (folder / "gres.conf").write_text(f"NodeName={','.join(NODES)} Name=gpu File=/dev/tty[0-1]\n")

    def start(self) -> None:
        socket_path = self.folder / "munge.sock"
        paths = {"key-file": "munge.key", "pid-file": "munged.pid", "log-file": "munged.log", "seed-file": "munge.seed"}
        options = [f"--{name}={self.folder / path}" for name, path in paths.items()]
        self._daemon("munged", "munged", "--foreground", f"--socket={socket_path}", *options)
        wait_for(lambda: self.alive() and socket_path.exists(), "munged")
        self._daemon("slurmctld", "slurmctld", "-D", "-c")
        for name in NODES:
            self.start_node(name)
        self.wait_for_nodes()

    def wait_for_nodes(self) -> None:
        wait_for(lambda: self.alive() and self("sinfo", "-hN", "-t", "idle").count("\n") == len(NODES), "the nodes")

    def alive(self) -> bool:
        for name, daemon in self.daemons.items():
            assert daemon.poll() is None, f"{name} ended: {(self.folder / f'{name}.out').read_text()}"
        return True

    def start_node(self, name: str) -> None:
        self._daemon(name, "slurmd", "-D", "-c", "-N", name)

    def lose_node(self, name: str) -> None:
        """Kill its daemon and nothing else: Slurm takes the node for dead, and what runs there goes on unseen."""
        self.daemons[name].kill()
        self.daemons.pop(name).wait()
        self("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=lost")  # else it takes SlurmdTimeout

    def kill_jobs(self) -> None:
        """Kill all that runs in jobs, those first who would tell."""
        ours = {process: marks for process in Path("/proc").glob("[0-9]*") if (marks := self._marks(process))}
        for process in sorted(ours, key=lambda process: "SLURM_JOB_ID" in ours[process]):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(process.name), signal.SIGKILL)

    def _marks(self, process: Path) -> set[str]:
        """The variables of a process that runs in a job of this cluster, or starts it."""
        try:
            environment = (process / "environ").read_bytes().decode(errors="replace").split("\0")
            starts = (process / "cmdline").read_bytes().startswith(b"slurmstepd")
        except OSError:
            return set()
        names = {word.partition("=")[0] for word in environment}
        ours = f"SLURM_CONF={self.environment['SLURM_CONF']}" in environment
        return names if ours and (starts or "SLURM_JOB_ID" in names) else set()

    def stop(self) -> None:
        for daemon in self.daemons.values():
            daemon.terminate()
        for daemon in self.daemons.values():
            daemon.wait(timeout=20)
        self.kill_jobs()

    def __call__(self, *command: str) -> str:
        """What one of Slurm's commands prints."""
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60).stdout

    def queue(self) -> dict[str, str]:
        """The state of every job in the queue."""
        return dict(line.split() for line in self("squeue", "-hr", "-o", "%i %T").splitlines())

    def _daemon(self, name: str, program: str, *options: str) -> None:
        found = shutil.which(program, path=f"{os.environ.get('PATH')}:/usr/sbin:/sbin")
        log = (self.folder / f"{name}.out").open("ab")
        # Should the tests be killed, it is, too.
        command = ["setpriv", "--pdeathsig", "KILL", str(found), *options]
        self.daemons[name] = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        log.close()


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [int(each.getsockname()[1]) for each in sockets]
    for each in sockets:
        each.close()
    return ports


def wait_for(condition: Callable[[], bool], what: str) -> None:
    """Look again and again until `condition()`."""
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_S:.0f} s for {what}"
        time.sleep(0.1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster; commands that tests start find it."""
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder, pytest.MonkeyPatch.context() as patch:
        cluster = Cluster(Path(folder))
        try:
            cluster.start()
            patch.setenv("SLURM_CONF", cluster.environment["SLURM_CONF"])
            yield cluster
        finally:
            cluster.stop()
