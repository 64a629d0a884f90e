"""Runs probes: during training, on a checkpoint, or on an untrained net."""

from __future__ import annotations

import contextlib
import copy
import os
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import resexp
from resexp.config import RunConfig
from resexp.config.study import load_run
from resexp.data import open_dataset
from resexp.data.input import InputPipeline, open_input
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


def probe_input(config: RunConfig, model: nn.Module, pipeline: InputPipeline) -> ProbeInput:
    """The net itself, on the run's training images; changes to it change the run."""
    images, labels, index = pipeline.sample()
    return ProbeInput(config.model, model, images, labels, pipeline.mean, index)


def snapshot(trainer: Trainer) -> ProbeInput:
    """The net of a run in training, as it is now."""
    return probe_input(trainer.config, copy.deepcopy(trainer.model), trainer.pipeline)


def run_probe(run: Run, name: str, step: int, probing: Probing, stop: Callable[[], bool]) -> Task[None]:
    """Carry out a probe and write its result into the run folder. Raises StopRequested if `stop()` before its end."""
    began = time.perf_counter()
    try:
        while True:
            yield next(probing)
            if stop():
                raise StopRequested
    except StopIteration as end:
        seconds = round(time.perf_counter() - began, 3)
        write_record(run, {"probe": name, "step": step, **end.value, "seconds": seconds})


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
    run.probe_folder.mkdir(exist_ok=True)
    if not os.access(run.probe_folder, os.W_OK):
        raise UserError(f"{run.probe_folder}: can't be written to; allow it, or copy the study elsewhere")
    tune_process()
    torch.manual_seed(config.seed)
    dataset = open_dataset(config.data)
    run.check_data(dataset.fingerprint)
    device, step = choose_device(config.train), 0
    model = build_model(config.model, len(dataset.classes)).to(memory_format=torch.channels_last).to(device)
    with contextlib.closing(open_input(config, dataset, Hardware(device, "fp32"))) as pipeline:
        net = probe_input(config, model, pipeline)
    if not initial:
        step, weights = checkpoint.last_weights(run)
        checkpoint.load_into(model, weights, run.folder)
    elif config.train.init_from:
        warm_start(config, net, dataset)
    run_to_completion(run_probe(run, name, step, PROBES[name].measure(net), stop))
    return step
