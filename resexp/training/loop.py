"""The training loop of one run: train, evaluate, probe and save. All ranks run the same loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from resexp.device.concurrent import Task, on_stream
from resexp.errors import StopRequested
from resexp.evaluation.tta import Classifier, compare, usual
from resexp.probes import PROBES
from resexp.runs import checkpoint
from resexp.runs.logits import Logits
from resexp.runs.metrics import MetricsWriter
from resexp.runs.records import Manifest, State, Status, running_error
from resexp.runs.store import Run
from resexp.training.manifest import now
from resexp.training.probing import run_probe, snapshot
from resexp.training.trainer import Trainer
from resexp.utils.text import counted, few

READ_S = 1.0
"""Seconds between reads of the device's records."""


@dataclass
class LoopState:
    """What a checkpoint holds in addition to the trainer's state."""

    evaluated: int = 0
    """The step of the last evaluation."""
    tested: bool = False
    best: dict[str, Any] | None = None
    """The weights with the lowest validation error, that error, and the step."""
    window: list[Any] = field(default_factory=lambda: [0, 0.0, 0])
    """The current logging interval: its first step, the sum of the losses and the number of wrong predictions."""

    @classmethod
    def load(cls, state: dict[str, Any]) -> LoopState:
        """The state that a checkpoint holds, among other keys."""
        return cls(state["evaluated"], state["tested"], state["best"], state["window"])


STOPPED = "stopped by a signal; the same command continues"


class Duty(NamedTuple):
    """Work between two steps: due after every `every` steps, and after those `at`."""

    every: int | None
    at: Collection[int]
    work: Callable[[], Iterable[int]]

    def is_due(self, step: int) -> bool:
        """Whether it is due now that `step` steps are done."""
        return step in self.at or bool(self.every and step and step % self.every == 0)

    def next_after(self, step: int) -> float:
        """The next step at which it is due; infinity if there is none."""
        regular = [(step // self.every + 1) * self.every] if self.every else []
        return min([*regular, *(due for due in self.at if due > step)], default=math.inf)


@dataclass
class TrainingLoop:
    """The training of a run by one of its ranks; rank 0 alone writes into the run folder."""

    run: Run
    """Leased on rank 0."""
    status: Status
    stop: Callable[[], bool]
    on_status: Callable[[Status], None]
    trainer: Trainer
    progress: LoopState
    metrics: MetricsWriter | None = None
    """Set on rank 0 only, like `manifest`."""
    manifest: Manifest | None = None

    def __post_init__(self) -> None:
        trainer = self.trainer
        self.config, self.dataset, self.ranks = trainer.config, trainer.dataset, trainer.hardware.ranks
        train, end = self.config.train, [self.config.train.steps]
        self.probes = self.config.probes.due(train.steps)
        self.duties = [
            Duty(train.eval_every, end, self._evaluate),
            Duty(None, self.probes, lambda: self.ranks.on_rank_0(self._probe())),
            Duty(None, end, self._test),
            Duty(train.checkpoint_steps, end, self._save),
            Duty(None, end, lambda: self.ranks.on_rank_0(self._test_views())),
        ]
        """In the order in which they are done."""
        self.checkpoint_at = time.monotonic() + train.checkpoint_seconds
        self.read_at = 0.0
        self.mark = (trainer.step, trainer.seconds)
        """Where the speed is measured from."""
        if self.run.lease:
            trainer.pipeline.while_waiting(self._heartbeat)

    def work(self) -> Task[None]:
        """Train to the end, or until asked to stop."""
        self.status.steps = self.config.train.steps
        self._publish()
        yield from on_stream(self.trainer.hardware, self._loop())

    def _loop(self) -> Task[None]:
        """Alternate: train until something is due, record the finished steps, do what is due."""
        if self.trainer.step == 0:
            self._save()  # the last good state of a run that diverges at once
        try:
            while True:
                if self._has_diverged():
                    return
                for duty in self.duties:
                    if duty.is_due(self.trainer.step):
                        yield from duty.work()
                if self._at_end:
                    self._finish("finished", self._remark())
                    return
                if self.ranks.any_rank(time.monotonic() >= self.checkpoint_at):
                    self._save()
                if self.ranks.any_rank(self.stop()):
                    break
                self.read_at = time.monotonic() + READ_S
                until = int(min(duty.next_after(self.trainer.step) for duty in self.duties))
                yield from self.trainer.advance(until, self._pause)
        except StopRequested:
            if self._has_diverged():  # while a batch was awaited, there are steps since the last read
                return
        self._save()
        self._finish("interrupted", STOPPED)

    def _has_diverged(self) -> bool:
        """Record the finished steps, and whether they ended the run."""
        if (step := self._record_steps()) is None:
            return False
        self._append("diverged", {"step": step})
        self._finish("diverged", f"loss or weights not finite by step {step}", step)
        return True

    @property
    def _at_end(self) -> bool:
        return self.trainer.step == self.config.train.steps

    def _pause(self) -> bool:
        return self.stop() or time.monotonic() >= min(self.checkpoint_at, self.read_at)

    def _record_steps(self) -> int | None:
        """Read the steps since the last read and write the lines that they complete.

        Returns the first step whose loss is not finite, or the last if the weights after it are not; None if all are.
        """
        train, trainer, batch = self.config.train, self.trainer, self.config.train.batch_size
        first, lines = trainer.recorded_to, 0
        begin, loss_sum, wrong = self.progress.window
        steps, seconds = trainer.step - self.mark[0], trainer.seconds - self.mark[1]
        if steps:
            self.status.seconds_per_step = seconds / steps
            self.status.images_per_second = round(steps * batch / seconds, 1)
        for step, record in enumerate(trainer.read(), first + 1):
            if not math.isfinite(record.loss):
                return step
            loss_sum += record.loss
            wrong += record.wrong
            evaluated = train.schedule == "plateau" and step % train.eval_every == 0  # it may become a milestone
            # A line ends at `final_from`, so that the running training error does not depend on `log_every`.
            ends = step in (*train.milestones, train.final_from, train.steps)
            if step % train.log_every == 0 or ends or evaluated:
                self.status.train_error = wrong / ((step - begin) * batch)
                self._append(
                    "train",
                    {
                        "step": step,
                        "epoch": step * batch / len(self.dataset.train_index),
                        "lr": record.lr,
                        "train_loss": loss_sum / (step - begin),
                        "train_error": self.status.train_error,
                        "images_per_second": self.status.images_per_second,
                    },
                )
                begin, loss_sum, wrong = step, 0.0, 0
                lines += 1
        self.progress.window = [begin, loss_sum, wrong]
        if lines:
            self.mark = (trainer.step, trainer.seconds)
        self._publish()
        return trainer.step if self._at_end and not trainer.is_finite() else None

    def _evaluate(self) -> Task[None]:
        """Evaluate the current weights; at the end, after BN's statistics are recomputed where the study asks for it.

        A stop before the end of it leaves no line, so all of it is done again.
        """
        trainer, progress = self.trainer, self.progress
        if progress.evaluated == trainer.step or not trainer.is_finite():
            return  # done before it was interrupted; or the next loss ends the run
        bn: dict[str, Any] = {}
        if self._at_end and (images := self.config.train.precise_bn_images):
            batches = yield from trainer.recompute_bn(images, self.stop)
            bn = {"step": trainer.step, "precise_bn_images": images, "bn_batches": batches}
        clean = yield from trainer.evaluate("train", self.stop)
        record: dict[str, Any] = {"step": trainer.step, **clean.record("clean_train")}
        self.status.clean_train_error = error = clean.error
        if self.dataset.val_images:
            found = yield from trainer.evaluate("val", self.stop)
            record |= found.record("val")
            self.status.val_error = error = found.error
            if len(self.dataset.val_index) and (progress.best is None or error < progress.best["val_error"]):
                weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
                progress.best = {"step": trainer.step, "val_error": error, "model": weights}
        if bn:
            self._append("bn", bn)
        self._append("eval", record)
        if trainer.step < self.config.train.steps and trainer.schedule.observe_error(error, trainer.step):
            assert trainer.recorded_to == trainer.step  # else `read` would compute lower rates for earlier steps
            trainer.schedule.add_milestone(trainer.step)
            self._append("milestone", {"step": trainer.step})
        progress.evaluated = trainer.step
        self._publish()

    def _probe(self) -> Task[None]:
        """Run the probes due at this step on a copy of the net, so that training is unaffected."""
        trainer = self.trainer
        for name in self.probes.get(trainer.step, []):
            if not PROBES[name].why_not(self.config.model) and not self.run.probe_path(name, trainer.step).exists():
                probing = PROBES[name].measure(snapshot(trainer))
                yield from run_probe(self.run, name, trainer.step, probing, self.stop)

    def _test(self) -> Task[None]:
        """Evaluate on the test set, once: the final weights and, with a validation set, the best ones."""
        trainer, best = self.trainer, self.progress.best
        if self.progress.tested:
            return
        final = yield from trainer.evaluate("test", self.stop)
        record: dict[str, Any] = {"step": trainer.step, **final.record("test")}
        if best:
            with trainer.use_weights(best["model"]):
                if self.config.train.precise_bn_images:
                    yield from trainer.recompute_bn(self.config.train.precise_bn_images, self.stop)
                found = yield from trainer.evaluate("test", self.stop)
            record |= {"best_step": best["step"], "best_val_error": best["val_error"], "best_test_error": found.error}
        if self.run.lease:
            final_from = (trainer.schedule.milestones or [self.config.train.final_from])[-1]
            running = running_error(self.run.metrics(), final_from)
            record["running_train_error"] = self.status.running_train_error = running
            record["train_seconds"] = round(trainer.seconds, 3)
            logits = Logits(final.logits.cpu().numpy(), self.dataset.test_labels, self.dataset.fingerprint)
            self.run.publish(self.run.logits_path, logits.pack())
        self._append("test", record)
        self.progress.tested = True
        self.status.test_error = final.error

    def _test_views(self) -> Task[None]:
        """Run the test-time augmentation that `probes.tta` asks for, once, on the final weights."""
        trainer = self.trainer
        classifier = Classifier(trainer.model, trainer.pipeline.mean, trainer.autocast)
        for name in self.config.probes.tta:
            if not self.run.probe_path(name, trainer.step).exists():
                mode = usual(self.config, name, self.dataset.size)
                probing = compare(self.config, self.dataset, trainer.pipeline, classifier, mode)
                yield from run_probe(self.run, name, trainer.step, probing, self.stop)

    # -- what is written, by rank 0 -------------------------------------------------------------------------------

    def _append(self, event: str, record: dict[str, Any]) -> None:
        if self.metrics:
            self.metrics.append(event, record)

    def _save(self) -> Iterable[int]:
        """Write a checkpoint, unless a weight is NaN or infinite; then the previous checkpoint stays."""
        self.checkpoint_at = time.monotonic() + self.config.train.checkpoint_seconds
        if self.metrics and self.trainer.is_finite():
            self.metrics.sync()  # first: a checkpoint must not count lines that a crash can lose
            state = {
                "signature": self.config.signature,
                "seed": self.config.seed,
                "trainer": self.trainer.state(),
                **vars(self.progress),
                **self.metrics.state(),
            }
            checkpoint.save(self.run, state)
        return ()  # in one piece

    def close_attempt(self, state: State) -> None:
        """Record how the attempt ended."""
        if self.manifest:
            attempt = self.manifest.attempts[-1]
            attempt.ended, attempt.to_step, attempt.state = now(), self.trainer.step, state
            self.run.write_manifest(self.manifest)

    def _remark(self) -> str:
        """A caveat about the finished run, such as a warm-up that never ended; empty if there is none."""
        if self.trainer.schedule.warming_up:
            limit = f"{self.config.train.warmup_until_error:.0%}"
            return f"its warm-up never ended: the moving average of the training error stayed over {limit}"
        if missing := sorted(self.dataset.unreadable):
            # Rank 0 knows the images it has read itself, not those of other ranks.
            images = "at least " * (self.ranks.world_size > 1) + counted(len(missing), "image")
            return f"{images} could not be read, and the mean colour was put in their place: {few(missing)}"
        return ""

    def _publish(self, step: int | None = None) -> None:
        self.status.step = self.trainer.step if step is None else step
        if self.run.lease:
            self.run.write_status(self.status)
            self.on_status(self.status)

    def _finish(self, state: State, message: str, step: int | None = None) -> None:
        self.close_attempt(state)
        self.status.state, self.status.message = state, message
        self._publish(step)

    def _heartbeat(self) -> None:
        """Called while a batch is awaited: renew the lease. Raises StopRequested on a stop request if this is the only
        rank."""
        assert self.run.lease
        self.run.lease.heartbeat()
        if self.ranks.world_size == 1 and self.stop():
            raise StopRequested
