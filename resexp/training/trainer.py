"""The training state of one run in memory: model, optimiser, schedule and images."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from resexp.config import RunConfig
from resexp.config.plugins import PluginRef
from resexp.data import Dataset, ImageNet
from resexp.data.input import open_input
from resexp.data.loader import plan_epoch
from resexp.device.concurrent import HostThrottle, Task
from resexp.device.cuda_graph import CudaGraphed, compile_blocks
from resexp.device.hardware import Hardware
from resexp.errors import UserError, sanitize
from resexp.evaluation.evaluator import EVAL_BATCH, Evaluation, Evaluator
from resexp.models import build_model
from resexp.models.layers import BN_MOMENTUM, BatchNorm, Dropout, StochasticDepth, batch_over_ranks
from resexp.runs.checkpoint import load_into
from resexp.training.optim import Schedule, is_optimizer_state, load_optimizer, make_optimizer

RECORDED_STEPS = 4096
"""Steps whose losses the device keeps until they are read."""


class StepRecord(NamedTuple):
    """What is kept of one step: the batch's mean loss, its wrong predictions, and the learning rate."""

    loss: float
    wrong: int
    lr: float


class Trainer:
    """Model, optimiser and images of one run, on one device. Errors are fractions in [0, 1].

    A step needs nothing from the host: the device counts the steps, derives batch and learning rate from the count, and
    stores the records. So it can be replayed as a CUDA graph, and the host need not wait for it.

    Where several ranks train the run, each has a trainer and takes its part of every batch, and of what is evaluated.
    All of them do the same steps and evaluations; records and results cover all ranks.
    """

    def __init__(self, config: RunConfig, dataset: Dataset | ImageNet, hardware: Hardware) -> None:
        self.config, self.dataset, self.hardware = config, dataset, hardware
        device, ranks = hardware.device, hardware.ranks
        train = config.train.for_depth(config.model.depth)
        if train.batch_size % ranks.world_size:
            raise UserError(
                f"train.batch_size: {train.batch_size} images can't be shared out evenly among {ranks.world_size} "
                f"processes; start as many as divide it"
            )
        self._rank_batch = train.batch_size // ranks.world_size
        self._microbatch = train.microbatch or self._rank_batch
        if self._rank_batch % self._microbatch:
            raise UserError(
                f"train.microbatch: {self._rank_batch} images on each device can't be cut into pieces of "
                f"{self._microbatch}; start "
                f"fewer processes, or set it to a divisor of {self._rank_batch}, with BN's statistics over that many"
            )
        if train.precise_bn_images and train.precise_bn_images > (images := len(dataset.train_index)):
            raise UserError(
                f"train.precise_bn_images: {train.precise_bn_images} asked for, but only {images} are trained on; set "
                f"it to {images} or less"
            )
        torch.manual_seed(config.seed)  # initial weights are made on the CPU: the same on every device
        self.model = build_model(config.model, len(dataset.classes)).to(memory_format=torch.channels_last).to(device)
        if train.compile:
            compile_blocks(self.model)
        self.step_model: nn.Module = self.model
        """The module that a step calls: `model`, or its DDP wrapper after `wrap_ddp`."""
        over_ranks = (Dropout, BatchNorm) if train.sync_bn else Dropout
        self._batch_modules = [module for module in self.model.modules() if isinstance(module, over_ranks)]
        self._parts = self._rank_batch // self._microbatch
        self._droppers = [module for module in self.model.modules() if isinstance(module, Dropout | StochasticDepth)]
        for dropper in self._droppers:
            dropper.parts = self._parts
        self._norms = [module for module in self.model.modules() if isinstance(module, BatchNorm)]
        self.schedule = Schedule(train, device)
        self.optimizer = make_optimizer(train, self.model, self.schedule.rate)
        self.autocast = torch.autocast(device.type, hardware.dtype, enabled=hardware.precision != "fp32")
        self.scaler = torch.amp.GradScaler(device.type, enabled=hardware.precision == "fp16")
        self.pipeline = open_input(config, dataset, hardware)
        self.step = self.recorded_to = 0
        self._buffers_shared_at: int | None = None
        """The step at which rank 0's BN statistics were last broadcast. They differ between ranks after the next
        training step."""
        self.seconds = 0.0
        """Wall-clock seconds of training; runs trained side by side each count the whole time."""
        self._counter = torch.zeros(1, dtype=torch.int64, device=device)
        self._records = torch.zeros((3, RECORDED_STEPS), device=device)
        images = len(dataset.train_index) + len(dataset.val_index)
        with contextlib.ExitStack() as on_error:  # the device's memory may be too small
            on_error.callback(self.pipeline.close)
            self._evaluator = Evaluator(
                self.model,
                self.pipeline,
                hardware,
                self.autocast,
                # Without a backward pass, this batch needs less memory than a step.
                batch=min(EVAL_BATCH, 4 * (train.microbatch or train.batch_size), images),
                classes=len(dataset.classes),
            )
            # Before the step of an optimiser that can't skip it by itself, the scaler asks the device for an overflow.
            asks = self.scaler.is_enabled() and not getattr(self.optimizer, "_step_supports_amp_scaling", False)
            self._train_step = CudaGraphed(self._update, replace(hardware, graphs=hardware.graphs and not asks))
            on_error.pop_all()

    def wrap_ddp(self) -> None:
        """Train with the other ranks, if any, from now on, beginning with the weights of rank 0."""
        if self.hardware.ranks.world_size > 1:
            with self.hardware.ranks.collective():
                self.step_model = ddp = DistributedDataParallel(self.model)
            # BN's averages stay each rank's own. The keyword for this has another name since torch 2.13.
            ddp.broadcast_buffers = False

    def advance(self, until: int, pause: Callable[[], bool]) -> Task[None]:
        """Train until step `until`, until `pause()` on any rank, or until the records must be read."""
        until = min(until, self.recorded_to + RECORDED_STEPS)
        started, throttle = time.perf_counter(), HostThrottle(self.hardware)
        self.model.train()
        try:
            with self.hardware.ranks.collective():
                while self.step < until:
                    steps = min(throttle.stride if self._train_step.settled else 1, until - self.step)
                    for _ in range(steps):
                        self.pipeline.prepare(self.step)
                        self._train_step()
                        self.step += 1
                    paused = self.hardware.ranks.any_rank(pause())
                    yield from throttle.limit(steps, ahead=0 if paused or self.step == until else 1)
                    if paused:
                        break
        finally:
            self.seconds += time.perf_counter() - started

    def _update(self) -> None:
        """One step on one batch, in pieces of `train.microbatch` images."""
        ranks, parts = self.hardware.ranks, self._parts
        batch = [torch.split(tensor, self._microbatch) for tensor in self.pipeline.batch(self._counter)]
        self.schedule.set_rate(self._counter)
        self.optimizer.zero_grad()
        sums = torch.zeros(2, device=self._records.device)
        for number, (x, y) in enumerate(zip(*batch, strict=True), 1):
            for norm in self._norms:  # moving averages of the first microbatch only, as DDP has those of rank 0 only
                norm.momentum = BN_MOMENTUM if number == 1 else 0.0
            # DDP averages the gradients over the ranks once, after the last microbatch.
            self.step_model.require_backward_grad_sync = number == parts  # type: ignore[assignment]
            with self.autocast, batch_over_ranks(ranks, self._batch_modules):
                logits = self.step_model(x)
                loss = F.cross_entropy(logits, y, label_smoothing=self.config.train.label_smoothing) / parts
            self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            wrong = (logits.detach().argmax(1) != y).sum().float()
            sums += torch.stack((loss.detach().float() / ranks.world_size, wrong))
        if self.config.train.clip_norm:
            self.scaler.unscale_(self.optimizer)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.train.clip_norm)
        self.scaler.step(self.optimizer)  # optimizer.step(), unless fp16 overflowed
        self.scaler.update()
        ranks.all_reduce(sums)
        record = torch.cat((sums, self.schedule.warming_up.float()[None]))
        self._records.index_copy_(1, self._counter % RECORDED_STEPS, record[:, None])
        self.schedule.update_warmup(sums[1] / self.config.train.batch_size)
        self._counter += 1

    def read(self) -> list[StepRecord]:
        """Return the records of the steps since the last call, in one transfer. Call it before
        `Schedule.add_milestone`: rates are recomputed here."""
        steps = range(self.recorded_to, self.step)
        self.recorded_to = self.step
        columns = self._records.cpu()[:, [step % RECORDED_STEPS for step in steps]].T.tolist()
        return [
            StepRecord(loss, int(wrong), self.schedule.rate_at(step, warming_up=bool(warming_up)))
            for step, (loss, wrong, warming_up) in zip(steps, columns, strict=True)
        ]

    def is_finite(self) -> bool:
        """Whether all parameters are finite."""
        with torch.no_grad():
            norm = torch.nn.utils.get_total_norm(self.model.parameters())
        return bool(torch.isfinite(norm))

    def evaluate(self, split: str, stop: Callable[[], bool]) -> Task[Evaluation]:
        """Error, loss and logits in eval mode, without augmentation, on "train", "val" or "test".

        Raises StopRequested if `stop()` between batches.
        """
        with self.hardware.ranks.collective():
            if self._buffers_shared_at != self.step:
                self.hardware.ranks.broadcast(self.model.buffers())
                self._buffers_shared_at = self.step
            return (yield from self._evaluator.evaluate(split, stop))

    def recompute_bn(self, count: int, stop: Callable[[], bool]) -> Task[int]:
        """Replace BN's moving averages by mean and variance over the first `count` training images of the first epoch.

        Returns the number of batches; see Evaluator. Raises StopRequested if `stop()` between them, changing nothing.
        """
        order, *_ = plan_epoch(self.dataset.train_index, self.config.seed, epoch=0, pad=0, flip=False)
        batches = yield from self.hardware.ranks.on_rank_0(self._evaluator.recompute_bn(order[:count], stop))
        self._buffers_shared_at = None
        return batches

    @contextlib.contextmanager
    def use_weights(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """Temporarily use other weights. They are copied in place, so that captured CUDA graphs stay valid.

        `weights` must be the same on all ranks. Call it after an evaluation, which makes BN's statistics so.
        """
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        load_into(self.model, weights, self.config.folder)
        try:
            yield
        finally:
            self.model.load_state_dict(own)

    def state(self) -> dict[str, Any]:
        """All that a continuation needs; batches and rates follow from the step."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            **self.schedule.state(),
            "seconds": self.seconds,
            "parts": self._parts,
            "unreadable": sorted(self.dataset.unreadable),
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned; before the first step. Raises UserError if it is of another run."""
        other = UserError(
            f"{self.config.folder}: its checkpoint is of other training settings, such as another optimiser; give "
            f"the study another name to begin anew"
        )
        kept, is_plugin = state["optimizer"].get("state"), isinstance(self.config.train.optimizer, PluginRef)
        known = is_plugin or is_optimizer_state(self.config.train, kept, list(self.model.parameters()))
        if not known or not 0 <= state["step"] <= self.config.train.steps:
            raise other
        self.step = self.recorded_to = state["step"]
        self._counter.fill_(self.step)
        load_into(self.model, state["model"], self.config.folder)
        for dropper in self._droppers:  # other ranks than before may divide a batch otherwise
            calls = dropper.draws.calls
            calls.copy_(calls // state.get("parts", self._parts) * self._parts)
        try:
            load_optimizer(self.optimizer, state["optimizer"], is_plugin=is_plugin)
        except (ValueError, KeyError, TypeError):
            raise other from None
        if state["scaler"]:  # empty where the attempt before was not in fp16
            self.scaler.load_state_dict(state["scaler"])
        self.schedule.load(state)
        self.seconds = state["seconds"]
        if isinstance(self.dataset, ImageNet):
            self.dataset.unreadable.update(map(sanitize, state.get("unreadable", ())))

    def close(self) -> None:
        """Close the input pipeline and drop the DDP wrapper."""
        self.step_model = self.model  # the DDP wrapper would keep Gloo's threads alive
        self.pipeline.close()
