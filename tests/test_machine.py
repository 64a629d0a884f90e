"""What a process of resexp does with the machine."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from resexp.utils import machine
from resexp.utils.machine import cores

WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run `code` in a process of its own, with these variables about how threads wait and no others."""
    others = {name: value for name, value in os.environ.items() if name not in WAITING}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env={**others, **environment}, check=True)


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch has another OpenMP there")
def test_waiting_threads_sleep_soon() -> None:
    """libgomp itself says what it has understood."""
    said = python("import resexp.training.train", OMP_DISPLAY_ENV="VERBOSE").stderr
    assert "GOMP_SPINCOUNT = '2000'" in said


@pytest.mark.parametrize("given", [{"OMP_WAIT_POLICY": "active"}, {"GOMP_SPINCOUNT": "7"}])
def test_the_user_decides_how_threads_wait(given: dict[str, str]) -> None:
    code = f"import os, resexp; print({{name: os.environ[name] for name in {WAITING} if name in os.environ}})"
    assert python(code, **given).stdout.strip() == str(given)


def test_processes_that_feed_gpus_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_sharing", 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(16))
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    counts = []
    for processes in (1, 4, 32):
        machine.share_cores(processes)
        counts.append(cores())
    assert counts == [16, 4, 1]


def test_fp32_is_never_tf32() -> None:
    """Images of NVIDIA set this variable."""
    code = "import torch; from resexp.device.hardware import tune_process; tune_process(); " + (
        "print(torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)"
    )
    assert python(code, TORCH_ALLOW_TF32_CUBLAS_OVERRIDE="1").stdout.strip() == "False False"


@pytest.mark.parametrize(("given", "count"), [("1", 1), ("0", None), ("2(x3)", None), ("", None), ("text", None)])
def test_a_job_has_the_cores_that_slurm_gives_where_it_is_a_number(
    monkeypatch: pytest.MonkeyPatch, given: str, count: int | None
) -> None:
    monkeypatch.delenv("SLURM_CPUS_PER_TASK", raising=False)
    all_cores = cores()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", given)
    assert cores() == (count or all_cores)
