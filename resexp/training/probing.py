"""Runs probes: during training, on a checkpoint, or on an untrained net."""

from __future__ import annotations

import contextlib
import copy
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

import resexp
from resexp.config.study import load_run
from resexp.data import open_dataset
from resexp.data.input import open_input
from resexp.device.concurrent import Task, run_to_completion
from resexp.device.hardware import Hardware, choose_device, tune_process
from resexp.errors import StopRequested, UserError
from resexp.models import build_model
from resexp.probes import PROBES, ProbeInput, Probing
from resexp.runs import checkpoint
from resexp.runs.records import json_text
from resexp.runs.store import Run
from resexp.training.trainer import Trainer
from resexp.training.warm_start import warm_start
from resexp.utils.files import write_alone


def probe_input(trainer: Trainer) -> ProbeInput:
    """A ProbeInput that shares the run's own net; changes to it change the run."""
    images, labels, index = trainer.pipeline.sample()
    return ProbeInput(trainer.config.model, trainer.model, images, labels, trainer.pipeline.mean, index)


def snapshot(trainer: Trainer) -> ProbeInput:
    """The net of a run in training, as it is now."""
    return replace(probe_input(trainer), model=copy.deepcopy(trainer.model))


def run_probe(run: Run, name: str, step: int, probing: Probing, stop: Callable[[], bool]) -> Task[None]:
    """Carry out a probe and write its result into the run folder. Raises StopRequested if `stop()` before its end."""
    began = time.perf_counter()
    try:
        while True:
            yield next(probing)
            if stop():
                raise StopRequested
    except StopIteration as end:
        result, seconds = end.value, round(time.perf_counter() - began, 3)
    write_record(run, {"probe": name, "step": step, **result, "seconds": seconds})


def write_record(run: Run, record: dict[str, Any]) -> None:
    """Keep what was found in the run folder."""
    path = run.probe_path(record["probe"], record["step"])
    path.parent.mkdir(exist_ok=True)
    content = json_text({"resexp": resexp.__version__, **record})
    if run.lease:
        run.publish(path, content)
    else:
        write_alone(path, content)


def probe(run: Run, name: str, *, initial: bool = False, stop: Callable[[], bool] = lambda: False) -> int:
    """Run the probe `name` on a run's last weights or, with `initial`, on its initial weights, recreated from the seed.

    Returns the step; the result is in the run folder. Raises UserError if the probe makes no sense for the
    net, or there are no weights; StopRequested if asked to stop.
    """
    config = load_run(run.config_path)
    if reason := PROBES[name].why_not(config.model):
        raise UserError(f"{run.folder}: {reason}, so there is nothing to probe for {name}; name another run")
    tune_process()
    torch.manual_seed(config.seed)
    dataset = open_dataset(config.data)
    run.check_data(dataset.fingerprint)
    hardware, model = Hardware(choose_device(config.train), "fp32"), build_model(config.model, len(dataset.classes))
    with contextlib.closing(open_input(config, dataset, hardware)) as pipeline:
        images, labels, index = pipeline.sample()
    model = model.to(memory_format=torch.channels_last).to(hardware.device)
    of, step = ProbeInput(config.model, model, images, labels, pipeline.mean, index), 0
    if not initial:
        step, weights = checkpoint.last_weights(run)
        checkpoint.load_into(model, weights, run.folder)
    elif config.train.init_from:
        warm_start(config, of, len(dataset.classes))
    run_to_completion(run_probe(run, name, step, PROBES[name].measure(of), stop))
    return step
