"""A run in memory: it can be advanced by any number of steps, evaluated, and asked for its whole state."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from resexp.config import RunConfig
from resexp.data import Dataset
from resexp.data.loader import Plan, Stream, augment, normalise
from resexp.models import build_model
from resexp.training.hardware import Hardware
from resexp.training.optim import learning_rate, make_optimizer

EVAL_BATCH = 500
RUNNING_DECAY = 0.99
"""Of the moving average of the training error that ends the warm-up: about the last 100 steps."""


class Stopped(Exception):
    """Raised out of an evaluation that was asked to stop; nothing of it counts."""


class Trainer:
    """Model, optimiser and data of one run, on one device. Errors are fractions in [0, 1]."""

    def __init__(self, config: RunConfig, dataset: Dataset, hardware: Hardware) -> None:
        self.config, self.dataset, self.hardware = config, dataset, hardware
        device = hardware.device
        torch.manual_seed(config.seed)  # initial weights are made on the CPU: the same on every device
        self.model = build_model(config.model, len(dataset.classes)).to(memory_format=torch.channels_last).to(device)
        self.optimizer = make_optimizer(config.train, self.model, device)
        self.autocast = torch.autocast(device.type, hardware.dtype, enabled=hardware.precision != "fp32")
        self.scaler = torch.amp.GradScaler(device.type, enabled=hardware.precision == "fp16")
        images, labels = dataset.train()
        self.images, self.labels = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
        self.mean = torch.from_numpy(dataset.mean()).to(device)
        self.stream = Stream(dataset.train_index, config.seed, config.data.pad, config.data.flip)
        self.step = 0
        self.warming_up = config.train.warmup_lr is not None
        self.running_error = 1.0
        self.seconds = 0.0
        self._clear_window()

    def _clear_window(self) -> None:
        self.window_start = self.step
        self.loss_sum = torch.zeros((), device=self.hardware.device)
        self.wrong_sum = torch.zeros((), dtype=torch.int64, device=self.hardware.device)

    def advance(self, until: int, pause: Callable[[], bool]) -> None:
        """Train until step `until`, or until `pause()` after a step."""
        started = time.perf_counter()
        self.model.train()
        while self.step < until:
            loss, wrong = self._update()
            self.loss_sum += loss
            self.wrong_sum += wrong
            if self.warming_up:
                self._watch_warmup(wrong)
            self.step += 1
            if pause():
                break
        self.loss_sum.item()  # on a GPU: wait for the work, to time what is done and not what is queued
        self.seconds += time.perf_counter() - started

    def _update(self) -> tuple[Tensor, Tensor]:
        """One step on one batch; returns the loss and the number of wrong predictions, on the device."""
        rate = learning_rate(self.config.train, self.step, warming_up=self.warming_up)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        plan = self.stream.batch(self.step, self.config.train.batch_size)
        plan = Plan(*(column.to(self.hardware.device, non_blocking=True) for column in plan))
        x, y = augment(self.images, self.mean, plan, self.config.data.pad), self.labels[plan.image]
        self.optimizer.zero_grad()
        with self.autocast:
            logits = self.model(x)
            loss = F.cross_entropy(logits, y)
        torch.autograd.backward(self.scaler.scale(loss))
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return loss.detach(), (logits.detach().argmax(1) != y).sum()

    def _watch_warmup(self, wrong: Tensor) -> None:
        """End the warm-up when the running training error is low enough, for good (section 4.2, n = 18)."""
        error = wrong.item() / self.config.train.batch_size
        self.running_error = RUNNING_DECAY * self.running_error + (1 - RUNNING_DECAY) * error
        if self.running_error < self.config.train.warmup_until:
            self.warming_up = False

    def read_window(self) -> dict[str, Any]:
        """Mean loss and running training error since the last call, and the rate of the last step."""
        steps = self.step - self.window_start
        record = {
            "step": self.step,
            "epoch": self.step * self.config.train.batch_size / len(self.dataset.train_index),
            "lr": self.optimizer.param_groups[0]["lr"],
            "train_loss": self.loss_sum.item() / steps,
            "train_error": self.wrong_sum.item() / (steps * self.config.train.batch_size),
        }
        self._clear_window()
        return record

    def is_finite(self) -> bool:
        """Whether every parameter and every loss since the last `read_window` is a number."""
        with torch.no_grad():
            norm = torch.nn.utils.get_total_norm(self.model.parameters())
        return bool(torch.isfinite(norm + self.loss_sum))

    def evaluate(self, split: str, pause: Callable[[], bool], model: nn.Module | None = None) -> tuple[float, float]:
        """Error and loss in eval mode, without augmentation, on "train", "val" or "test"; of `model`, if given.

        Raises Stopped if `pause()` between batches.
        """
        model = model or self.model
        if split == "test":
            images, labels = map(torch.from_numpy, self.dataset.test())
            index = np.arange(len(images))
        else:
            images, labels = self.images, self.labels
            index = self.dataset.train_index if split == "train" else self.dataset.val_index
        device = self.hardware.device
        loss_sum, wrong_sum = torch.zeros((), device=device), torch.zeros((), dtype=torch.int64, device=device)
        model.eval()
        with torch.inference_mode(), self.autocast:
            for part in torch.split(torch.from_numpy(index).to(images.device), EVAL_BATCH):
                x, y = normalise(images[part].to(device), self.mean), labels[part].to(device)
                logits = model(x).float()
                loss_sum += F.cross_entropy(logits, y, reduction="sum")
                wrong_sum += (logits.argmax(1) != y).sum()
                if pause():
                    raise Stopped
        return wrong_sum.item() / len(index), loss_sum.item() / len(index)

    def state(self) -> dict[str, Any]:
        """All that a continuation needs; batches and rates follow from the step."""
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "warming_up": self.warming_up,
            "running_error": self.running_error,
            "window": [self.window_start, self.loss_sum.item(), self.wrong_sum.item()],
            "seconds": self.seconds,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from what `state` returned."""
        self.step = state["step"]
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state["scaler"])
        self.warming_up, self.running_error = state["warming_up"], state["running_error"]
        self.window_start = state["window"][0]
        self.loss_sum.fill_(state["window"][1])
        self.wrong_sum.fill_(state["window"][2])
        self.seconds = state["seconds"]
