"""The record of how a run was made, one entry for every attempt."""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy
import torch

import resexp
from resexp.config import plugins
from resexp.device.hardware import Hardware
from resexp.runs.records import Attempt, DataRecord, Manifest
from resexp.runs.store import Run
from resexp.training.trainer import Trainer


def begin_attempt(run: Run, trainer: Trainer) -> Manifest:
    """Add an attempt to the run's manifest. Raises UserError if earlier attempts had other data."""
    config, dataset = trainer.config, trainer.dataset
    before = run.check_data(dataset.fingerprint)
    manifest = Manifest(
        signature=config.signature,
        parameters=sum(p.numel() for p in trainer.model.parameters()),
        data=DataRecord(
            source=str(config.data.source),
            name=dataset.name,
            fingerprint=dataset.fingerprint,
            classes=len(dataset.classes),
            train_images=len(dataset.train_index),
            val_images=dataset.val_images,
            decoder=dataset.decoder,
            findings=dataset.findings,
        ),
        plugins=plugins.texts({ref.digest for ref in config.plugin_refs.values()}),
        attempts=[*(before.attempts if before else []), new_attempt(trainer.hardware, trainer.step)],
    )
    run.write_manifest(manifest)
    return manifest


def new_attempt(hardware: Hardware, from_step: int) -> Attempt:
    """Versions, device, commit, command and time, as of now."""
    return Attempt(
        started=now(),
        from_step=from_step,
        command=shlex.join(["resexp", *sys.argv[1:]]),
        resexp=resexp.__version__,
        commit=COMMIT,
        python=platform.python_version(),
        torch=torch.__version__,
        cuda=torch.version.cuda if hardware.device.type == "cuda" else None,
        numpy=numpy.__version__,
        platform=platform.system(),
        device=hardware.name,
        precision=hardware.precision,
        threads=torch.get_num_threads(),
        cpu_capability=torch.backends.cpu.get_cpu_capability(),
        cpu=CPU,
        world=hardware.ranks.world_size,
    )


def now() -> str:
    """The current time as an ISO 8601 string, UTC, whole seconds."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def _commit() -> str | None:
    """The commit of resexp's own source, with a plus where it was changed since; None outside a checkout."""
    source = Path(resexp.__file__).parent
    git = ["git", "-C", str(source)]
    if not (source.parent / ".git").exists():
        return None
    try:
        commit = subprocess.check_output([*git, "rev-parse", "--short=12", "HEAD"], stderr=subprocess.PIPE, text=True)
        changed = subprocess.check_output([*git, "status", "--porcelain", "--", "."], stderr=subprocess.PIPE)
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit.strip() + ("+" if changed.strip() else "")


def _cpu() -> str | None:
    """Its name, and the numbers that tell processors of one name apart: ``AMD EPYC, cpu family 25, model 1``."""
    try:
        lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    except OSError:
        return None
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    found = [facts.get("model name"), *(f"{key} {facts[key]}" for key in ("cpu family", "model") if key in facts)]
    return ", ".join(filter(None, found)) or None


CPU = _cpu()
COMMIT = _commit()
"""Commit of the imported code; read once, not by every process of a sweep."""
