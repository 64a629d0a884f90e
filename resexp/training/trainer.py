"""A run in memory: it can be advanced by any number of steps, evaluated, and asked for its whole state."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resexp.config import RunConfig
from resexp.data import Dataset
from resexp.data.loader import Batches, augment, normalise, pixel_mean, plan_epoch
from resexp.errors import UserError
from resexp.models import build_model
from resexp.models.layers import BatchNorm, Dropout, across
from resexp.training.checkpoint import fits, into
from resexp.training.graph import Replayed, compile_blocks
from resexp.training.hardware import Hardware
from resexp.training.optim import Schedule, learning_rate, make_optimizer
from resexp.training.work import Pace, Work

EVAL_BATCH = 500
MEMORY = 4096
"""Steps whose losses the device keeps until they are read."""
NO_CLASS = -100
"""Label of the places in an evaluation's last batch that hold no image."""


class Stopped(Exception):
    """Raised out of an evaluation that was asked to stop; nothing of it counts."""


class StepRecord(NamedTuple):
    """What is kept of one step: the batch's mean loss, its wrong predictions, and the learning rate."""

    loss: float
    wrong: int
    lr: float


class Evaluation(NamedTuple):
    """What a pass over a split found: the error, a fraction in [0, 1], and the mean loss."""

    error: float
    loss: float
    logits: Tensor
    """float32 (N, classes), in the order of the images; of the test images only, else (0, classes)."""


class Trainer:
    """Model, optimiser and data of one run, on one device. Errors are fractions in [0, 1].

    A step reads nothing from the host: the device counts steps, finds the batch and the rate by the count, and keeps
    what is to be recorded. So it can be replayed as a CUDA graph, and the host need not wait for it.

    Where several ranks train the run, each has a trainer and takes its part of every batch, and of what is evaluated.
    What is done with that of rank 0 is done with all (see `follow`), and what it records and finds is of all.
    """

    def __init__(
        self, config: RunConfig, dataset: Dataset, hardware: Hardware, say: Callable[[str], None] = lambda line: None
    ) -> None:
        self.config, self.dataset, self.hardware = config, dataset, hardware
        device, train, ranks = hardware.device, config.train, hardware.ranks
        if train.batch_size % ranks.world:
            raise UserError(
                f"train.batch_size: {train.batch_size} images can't be shared out evenly among {ranks.world} "
                f"processes; start as many as divide it"
            )
        if train.bn_images and train.bn_images > len(dataset.train_index):
            raise UserError(
                f"train.bn_images: {train.bn_images} asked for, but only {len(dataset.train_index)} images are trained "
                f"on; set it to {len(dataset.train_index)} or less"
            )
        torch.manual_seed(config.seed)  # initial weights are made on the CPU: the same on every device
        self.model = build_model(config.model, len(dataset.classes)).to(memory_format=torch.channels_last).to(device)
        if train.compile:
            compile_blocks(self.model)
        self.net: nn.Module = self.model
        """What computes a step; see `join`."""
        self._of_batches = [
            module
            for module in self.model.modules()
            if isinstance(module, Dropout) or (train.sync_bn and isinstance(module, BatchNorm))
        ]
        self.schedule = Schedule(train, device)
        self.optimizer = make_optimizer(train, self.model, self.schedule.rate)
        self.autocast = torch.autocast(device.type, hardware.dtype, enabled=hardware.precision != "fp32")
        self.scaler = torch.amp.GradScaler(device.type, enabled=hardware.precision == "fp16")
        self.images, self.labels = (torch.from_numpy(array).to(device) for array in dataset.train())
        self.mean = pixel_mean(self.images, torch.from_numpy(dataset.train_index).to(device))
        self.batches = Batches(dataset.train_index, config.data, config.seed, train.batch_size, device, ranks)
        self.step = self.read_to = 0
        self.seconds = 0.0
        """Wall time of training, shared with the runs that were trained side by side."""
        self._counter = torch.zeros(1, dtype=torch.int64, device=device)
        self._records = torch.zeros((3, MEMORY), device=device)
        # Nothing is kept for a backward pass: so many images take less memory than a step does.
        places = min(EVAL_BATCH, 4 * train.batch_size, len(self.images))
        self._eval_images = self.images.new_zeros((places, *self.images.shape[1:]))
        self._eval_labels = self.labels.new_zeros(places)
        self._eval_logits = torch.zeros((places, len(dataset.classes)), device=device)
        self._eval_sums = torch.zeros(2, device=device)
        self._train_step = Replayed(self._update, hardware, say)
        self._eval_step = Replayed(self._evaluate_batch, hardware, say)

    def join(self) -> None:
        """Train with the other ranks from now on, beginning with the weights of rank 0."""
        self.net = self.hardware.ranks.wrap(self.model)

    def advance(self, until: int, pause: Callable[[], bool]) -> Work[None]:
        """Train until step `until`, until `pause()`, or until the records must be read."""
        until = min(until, self.read_to + MEMORY)
        self.hardware.ranks.order("advance", until)
        started, pace = time.perf_counter(), Pace(self.hardware)
        self.model.train()
        while self.step < until:
            steps = min(pace.stride if self._train_step.settled else 1, until - self.step)
            for _ in range(steps):
                self.batches.prepare(self.step)
                self._train_step()
                self.step += 1
            paused = self.hardware.ranks.agree(pause())
            yield from pace.queued(steps, ahead=0 if paused or self.step == until else 1)
            if paused:
                break
        self.seconds += time.perf_counter() - started

    def _update(self) -> None:
        """One step on one batch."""
        ranks = self.hardware.ranks
        plan = self.batches.plan(self._counter)
        x, y = augment(self.images, self.mean, plan, self.config.data.pad), self.labels[plan.image]
        self.schedule.set_rate(self._counter)
        self.optimizer.zero_grad()
        with self.autocast, across(ranks, self._of_batches):
            logits = self.net(x)
            loss = F.cross_entropy(logits, y)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        wrong = (logits.detach().argmax(1) != y).sum().float()
        found = torch.stack((loss.detach().float() / ranks.world, wrong))
        ranks.sum_(found)
        record = torch.cat((found, self.schedule.warming_up.float()[None]))
        self._records.index_copy_(1, self._counter % MEMORY, record[:, None])
        self.schedule.watch(found[1] / self.config.train.batch_size)
        self._counter += 1

    def read(self) -> list[StepRecord]:
        """The records of the steps since the last call, in one transfer."""
        self.hardware.ranks.order("read")
        steps = range(self.read_to, self.step)
        self.read_to = self.step
        columns = self._records.cpu()[:, [step % MEMORY for step in steps]].T.tolist()
        return [
            StepRecord(loss, int(wrong), learning_rate(self.config.train, step, warming_up=bool(warming_up)))
            for step, (loss, wrong, warming_up) in zip(steps, columns, strict=True)
        ]

    @property
    def warming_up(self) -> bool:
        """Whether the next step still has the rate of the warm-up."""
        return bool(self.schedule.warming_up)

    def is_finite(self) -> bool:
        """Whether every parameter is a number."""
        with torch.no_grad():
            norm = torch.nn.utils.get_total_norm(self.model.parameters())
        return bool(torch.isfinite(norm))

    def evaluate(self, split: str, pause: Callable[[], bool]) -> Work[Evaluation]:
        """Error, loss and logits in eval mode, without augmentation, on "train", "val" or "test".

        Raises Stopped if `pause()` between batches.
        """
        ranks = self.hardware.ranks
        ranks.order("evaluate", split)
        ranks.share(self.model.state_dict().values())
        if split == "test":
            images, labels = map(torch.from_numpy, self.dataset.test())
            index = torch.arange(len(images))
        else:
            images, labels = self.images, self.labels
            index = torch.from_numpy(self.dataset.train_index if split == "train" else self.dataset.val_index)
        pace = Pace(self.hardware)
        self.model.eval()
        self._eval_sums.zero_()
        index, places = index.to(images.device), len(self._eval_labels)
        logits = self._eval_logits.new_zeros((len(index) if split == "test" else 0, len(self.dataset.classes)))
        for number, start in enumerate(range(0, len(index), places * ranks.world), 1):
            first = start + places * ranks.rank
            part = index[first : first + places]  # in the end there may be none left for the last ranks
            self._eval_images[: len(part)].copy_(images[part])
            self._eval_labels[: len(part)].copy_(labels[part])
            self._eval_labels[len(part) :].fill_(NO_CLASS)
            self._eval_step()
            if split == "test":
                logits[first : first + len(part)] = self._eval_logits[: len(part)]
            if number % pace.stride == 0:
                if ranks.agree(pause()):
                    raise Stopped
                yield from pace.queued(0, ahead=1)
        ranks.sum_(self._eval_sums)
        ranks.sum_(logits)
        yield from pace.queued(0, ahead=0)
        wrong, loss = self._eval_sums.tolist()
        return Evaluation(wrong / len(index), loss / len(index), logits)

    @torch.inference_mode()
    def _evaluate_batch(self) -> None:
        y = self._eval_labels
        with self.autocast, torch.compiler.set_stance("force_eager"):  # compiling for it would not pay
            logits = self.model(normalise(self._eval_images, self.mean)).float()
        loss = F.cross_entropy(logits, y, reduction="sum", ignore_index=NO_CLASS)
        wrong = ((logits.argmax(1) != y) & (y != NO_CLASS)).sum()
        self._eval_logits.copy_(logits)
        self._eval_sums += torch.stack((wrong.float(), loss))

    def recompute_bn(self, count: int, pause: Callable[[], bool]) -> Work[int]:
        """Replace BN's moving averages by mean and variance over `count` training images, without augmentation.

        They are the first of the first epoch. They go through the net in batches of nearly one size, each normalised
        by its own statistics, whose average over the batches is kept: what was there before has no part in it. Returns
        the number of batches. Raises Stopped if `pause()` between them, and nothing has changed.
        """
        order, *_ = plan_epoch(self.dataset.train_index, self.config.seed, epoch=0, pad=0, flip=False)
        index = torch.from_numpy(order[:count]).to(self.images.device)
        batches = torch.tensor_split(index, math.ceil(count / len(self._eval_labels)))
        norms = [module for module in self.model.modules() if isinstance(module, nn.BatchNorm2d)]
        momenta = [norm.momentum for norm in norms]
        before = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        pace, seen = Pace(self.hardware), 0
        self.model.eval()
        for norm in norms:
            norm.train().reset_running_stats()
        try:
            for batch in batches:
                if seen and pause():
                    self.model.load_state_dict(before, strict=False)
                    raise Stopped
                seen += len(batch)
                for norm in norms:
                    norm.momentum = len(batch) / seen
                with torch.no_grad(), self.autocast, torch.compiler.set_stance("force_eager"):
                    self.model(normalise(self.images[batch], self.mean))
                yield from pace.queued(0, ahead=1)
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
        yield from pace.queued(0, ahead=0)
        return len(batches)

    @contextlib.contextmanager
    def weights(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """Other weights, for as long as the context lasts; in place, so that what was captured holds.

        Other ranks have them once something is evaluated with them.
        """
        own = {name: value.clone() for name, value in self.model.state_dict().items()}
        into(self.model, weights, self.config.folder)
        try:
            yield
        finally:
            self.model.load_state_dict(own)
            self.share()

    def share(self) -> None:
        """Give the weights and statistics of rank 0 to the other ranks."""
        self.hardware.ranks.order("share")
        self.hardware.ranks.share(self.model.state_dict().values())

    def state(self) -> dict[str, Any]:
        """All that a continuation needs; batches and rates follow from the step."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "warming_up": self.warming_up,
            "running_error": self.schedule.running_error.item(),
            "seconds": self.seconds,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned; before the first step. Raises UserError where it is of another run."""
        momenta = state["optimizer"].get("state")
        if not 0 <= state["step"] <= self.config.train.steps or not self._are_momenta(momenta):
            raise UserError(f"{self.config.folder}: its checkpoint is of another run; delete it to begin anew")
        self.step = self.read_to = state["step"]
        self._counter.fill_(self.step)
        into(self.model, state["model"], self.config.folder)
        (own,) = ({**group} for group in self.optimizer.param_groups)  # of this device, and the rate it reads
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": momenta})
        self.optimizer.param_groups[0].update(own)
        self.scaler.load_state_dict(state["scaler"])
        self.schedule.warming_up.fill_(state["warming_up"])
        self.schedule.running_error.fill_(state["running_error"])
        self.seconds = state["seconds"]

    def _are_momenta(self, momenta: Any) -> bool:
        """Whether a checkpoint's state of the optimiser is, for some of the parameters, their momentum."""
        parameters = dict(enumerate(self.optimizer.param_groups[0]["params"]))
        return (
            isinstance(momenta, dict)
            and momenta.keys() <= parameters.keys()
            and all(isinstance(kept, dict) and kept.keys() <= {"momentum_buffer"} for kept in momenta.values())
            and all(
                value is None or fits(value, parameters[number])
                for number, kept in momenta.items()
                for value in kept.values()
            )
        )
