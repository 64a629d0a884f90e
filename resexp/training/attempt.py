"""One attempt at a run: set up, continue where it stopped, THE loop, and the end."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from resexp.config import plugins
from resexp.config.study import load_run
from resexp.data import open_dataset
from resexp.device.concurrent import Task, on_stream
from resexp.device.hardware import choose, tune_process, with_stream
from resexp.distributed import Ranks
from resexp.errors import StopRequested, UserError
from resexp.evaluation.tta import UnderTest, compare
from resexp.evaluation.views import usual
from resexp.probes import PROBES
from resexp.runs import checkpoint
from resexp.runs.logits import Logits
from resexp.runs.metrics import Metrics
from resexp.runs.records import Manifest, State, Status, running_error
from resexp.runs.store import Run
from resexp.training import manifest
from resexp.training.followers import assemble
from resexp.training.probing import keep, probe_input, snapshot, write_record
from resexp.training.trainer import Trainer
from resexp.training.warm_start import warm_start

LOOK_S = 1.0
"""Seconds between reads of the device's records."""


class Session:
    """One attempt at a run: the trainer and the folder it reports to."""

    def __init__(
        self,
        run: Run,
        status: Status,
        stop: Callable[[], bool],
        on_status: Callable[[Status], None],
        say: Callable[[str], None],
        threads: int | None,
        ranks: Ranks,
        world_may_change: bool,
    ) -> None:
        self.run, self.status, self.stop, self.on_status = run, status, stop, on_status
        self.config = load_run(run.config_path)
        before = run.manifest()
        if before and (began := before.attempts[-1].world) != ranks.world and not world_may_change:
            raise UserError(
                f"{run.folder}: trained by {began} process{'es' * (began > 1)} so far, now by {ranks.world}; "
                f"start as many as before, or add --allow-world-size-change"
            )
        # What sums are rounded to, and in which order, must not change in the middle of a run.
        threads = before.attempts[-1].threads if before else threads
        tune_process(threads)
        precision = before.attempts[-1].precision if before else None
        self.hardware = replace(with_stream(choose(self.config.train, precision, say, ranks)), threads=threads)
        self.dataset = open_dataset(self.config.data, say)
        self.probes = self.config.probes.due(self.config.train.steps)
        self.evaluated, self.bn_recomputed, self.tested = 0, False, False
        self.best: dict[str, Any] | None = None
        self.window = [0, 0.0, 0]
        """The step at which the line of metrics in the making begins, and its sums of losses and wrong predictions."""
        with torch.cuda.stream(self.hardware.stream):
            self.trainer = Trainer(self.config, self.dataset, self.hardware, say)
            with contextlib.ExitStack() as undo:
                undo.callback(self.trainer.close)
                self._continue(say)
                assemble(self.trainer)
                self.trainer.pipeline.while_waiting(self._look)
                self._begin_attempt(before)
                undo.pop_all()

    # -- set-up ---------------------------------------------------------------------------------------------------

    def _continue(self, say: Callable[[str], None]) -> None:
        """Load the newest whole checkpoint and drop the metrics written after it; they will be written again."""
        run, metrics_bytes = self.run, 0
        for left_over in run.folder.glob("*.tmp"):
            left_over.unlink()  # of a process that was killed while it wrote; we hold the lock
        state, damage = checkpoint.load(run, self.hardware.device)
        if damage:
            say(f"{run.folder}: {damage}")
        if state:
            if (state["signature"], state["seed"]) != (self.config.signature, self.config.seed):
                raise UserError(
                    f"{run.checkpoint_path}: checkpoint of another configuration (signature {state['signature']} "
                    f"seed {state['seed']}, config.yaml has {self.config.signature} seed {self.config.seed}); "
                    f"delete it to begin anew"
                )
            self.trainer.load(state["trainer"])
            self.evaluated, self.tested, self.best = state["evaluated"], state["tested"], state["best"]
            self.window = state["window"]
            metrics_bytes = state["metrics_bytes"]
        elif self.config.train.init_from and (
            found := warm_start(self.config, probe_input(self.trainer), len(self.dataset.classes))
        ):
            write_record(run, found)
        self.metrics = Metrics(run, metrics_bytes, state.get("metrics_sha256") if state else None)
        for record in run.metrics():
            self.bn_recomputed |= record["event"] == "bn"
            for name in ("train_error", "clean_train_error", "val_error", "test_error"):
                setattr(self.status, name, record.get(name, getattr(self.status, name)))

    def _look(self) -> None:
        """While images are waited for: give a sign of life, and hear of a stop, unless other ranks wait as well."""
        assert self.run.lease
        self.run.lease.heartbeat()
        if self.hardware.ranks.world == 1 and self.stop():
            raise StopRequested

    def _begin_attempt(self, before: Manifest | None) -> None:
        data = manifest.of_data(self.config, self.dataset)
        if before and before.data.fingerprint != data.fingerprint:
            raise UserError(
                f"{self.run.folder}: begun on other data (fingerprint {before.data.fingerprint}, now "
                f"{data.fingerprint}); bring the old data back, or delete the run folder to begin anew"
            )
        self.attempt = manifest.new_attempt(self.hardware, self.trainer.step)
        self.manifest = Manifest(
            signature=self.config.signature,
            parameters=sum(p.numel() for p in self.trainer.model.parameters()),
            data=data,
            plugins=plugins.sources({custom.source for custom in self.config.customs.values()}),
            attempts=[*(before.attempts if before else []), self.attempt],
        )
        self.run.write_manifest(self.manifest)

    # -- the loop -------------------------------------------------------------------------------------------------

    def work(self) -> Task[None]:
        """Train to the end, or until asked to stop."""
        train, trainer = self.config.train, self.trainer
        self.checkpoint_at = time.monotonic() + train.checkpoint_seconds
        self.mark = (trainer.step, trainer.seconds)  # where the speed is measured from
        self.status.steps = train.steps
        self._tell()
        with contextlib.closing(self.metrics):
            yield from on_stream(self.hardware, self._loop())

    def _loop(self) -> Task[None]:
        """THE loop: train until something is due, read what was recorded, and do what is due."""
        train, trainer = self.config.train, self.trainer
        if trainer.step == 0:
            self._save()  # the last good state of a run that diverges at once
        try:
            while True:
                diverged = self._log()
                ended = trainer.step == train.steps
                if diverged is None and ended and not trainer.is_finite():
                    diverged = trainer.step
                if diverged is not None:
                    self.metrics.append("diverged", {"step": diverged})
                    return self._end("diverged", f"loss or weights not finite by step {diverged}", diverged)
                if ended and train.precise_bn_images and not self.bn_recomputed:
                    batches = yield from trainer.recompute_bn(train.precise_bn_images, self.stop)
                    self.metrics.append(
                        "bn",
                        {"step": trainer.step, "precise_bn_images": train.precise_bn_images, "bn_batches": batches},
                    )
                    self.bn_recomputed = True
                if trainer.step > self.evaluated and (ended or trainer.step % train.eval_every == 0):
                    yield from self._evaluate()
                yield from self._probe()
                if ended:
                    if not self.tested:
                        yield from self._test()
                    self._save()
                    yield from self._test_views()
                    return self._end("finished", self._remark())
                if self._checkpoint_due():
                    self._save()
                if self.stop():
                    break
                self.look_at = time.monotonic() + LOOK_S
                yield from trainer.advance(self._next_due(), self._pause)
        except StopRequested:
            pass
        self._save()
        return self._end("interrupted", "stopped by a signal; the same command continues")

    def _next_due(self) -> int:
        train, step = self.config.train, self.trainer.step
        regular = ((step // n + 1) * n for n in (train.eval_every, train.checkpoint_steps) if n)
        return min(train.steps, *regular, *(at for at in self.probes if at > step))

    def _pause(self) -> bool:
        return self.stop() or self._checkpoint_due() or time.monotonic() >= self.look_at

    def _checkpoint_due(self) -> bool:
        every = self.config.train.checkpoint_steps
        at_step = every is not None and self.trainer.step > 0 and self.trainer.step % every == 0
        return at_step or time.monotonic() >= self.checkpoint_at

    def _log(self) -> int | None:
        """Read the steps since the last look and write the lines that they complete; the step of a loss that is no
        number, if there was one."""
        train, trainer, batch = self.config.train, self.trainer, self.config.train.batch_size
        first, lines = trainer.read_to, 0
        steps, seconds = trainer.step - self.mark[0], trainer.seconds - self.mark[1]
        if steps:
            self.status.seconds_per_step = seconds / steps
            self.status.images_per_second = round(steps * batch / seconds, 1)
        for step, record in enumerate(trainer.read(), first + 1):
            if not math.isfinite(record.loss):
                return step
            self.window[1] += record.loss
            self.window[2] += record.wrong
            evaluated = train.schedule == "plateau" and step % train.eval_every == 0  # it may become a milestone
            if step % train.log_every == 0 or step in train.milestones or evaluated or step == train.steps:
                begin, losses, wrong = self.window
                self.window = [step, 0.0, 0]
                self.status.train_error = wrong / ((step - begin) * batch)
                self.metrics.append(
                    "train",
                    {
                        "step": step,
                        "epoch": step * batch / len(self.dataset.train_index),
                        "lr": record.lr,
                        "train_loss": losses / (step - begin),
                        "train_error": self.status.train_error,
                        "images_per_second": self.status.images_per_second,
                    },
                )
                lines += 1
        if lines:
            self.mark = (trainer.step, trainer.seconds)
        self._tell()
        return None

    def _evaluate(self) -> Task[None]:
        trainer = self.trainer
        if not trainer.is_finite():
            return  # the next loss will say so
        clean = yield from trainer.evaluate("train", self.stop)
        record: dict[str, Any] = {"step": trainer.step, **clean.record("clean_train")}
        self.status.clean_train_error = error = clean.error
        if self.dataset.val_images:
            found = yield from trainer.evaluate("val", self.stop)
            record |= found.record("val")
            self.status.val_error = error = found.error
            if len(self.dataset.val_index) and (self.best is None or error < self.best["val_error"]):
                weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
                self.best = {"step": trainer.step, "val_error": error, "model": weights}
        self.metrics.append("eval", record)
        if trainer.step < self.config.train.steps and trainer.schedule.is_plateau(error):
            trainer.reduce_lr()
            self.metrics.append("milestone", {"step": trainer.step})
        self.evaluated = trainer.step
        self._tell()

    def _probe(self) -> Task[None]:
        """Take the probes that are due at this step, of a copy of the net: training does not notice."""
        trainer = self.trainer
        for name in self.probes.get(trainer.step, []):
            if not PROBES[name].refuses(self.config.model) and not self.run.probe_path(name, trainer.step).exists():
                found = PROBES[name].take(snapshot(trainer))
                yield from keep(self.run, name, trainer.step, found, self.stop)

    def _test(self) -> Task[None]:
        """Read the test set, once: with the final weights and, where there is validation, with the best ones."""
        final = yield from self.trainer.evaluate("test", self.stop)
        record: dict[str, Any] = {"step": self.trainer.step, **final.record("test")}
        if self.best:
            with self.trainer.weights(self.best["model"]):
                if self.config.train.precise_bn_images:
                    yield from self.trainer.recompute_bn(self.config.train.precise_bn_images, self.stop)
                best = yield from self.trainer.evaluate("test", self.stop)
            record |= {"best_step": self.best["step"], "best_val_error": self.best["val_error"]}
            record["best_test_error"] = best.error
        record["running_train_error"] = running_error(self.run.metrics(), self._final_from)
        record["train_seconds"] = round(self.trainer.seconds, 3)
        logits = Logits(final.logits.cpu().numpy(), self.dataset.test_labels, self.dataset.fingerprint)
        self.run.publish(self.run.logits_path, logits.pack())
        self.metrics.append("test", record)
        self.tested = True
        self.status.test_error = final.error

    @property
    def _final_from(self) -> int:
        """The step after which the running training error counts: the last milestone, in whatever way it was found."""
        found = self.trainer.schedule.milestones
        return found[-1] if found else self.config.train.final_from

    def _test_views(self) -> Task[None]:
        """Test the final weights on several views of each image, where that was asked for and is not done yet."""
        trainer = self.trainer
        subject = UnderTest(trainer.model, trainer.pipeline.mean, trainer.autocast)
        for name in self.config.probes.tta:
            if not self.run.probe_path(name, trainer.step).exists():
                mode = usual(self.config, name, self.dataset.size)
                found = compare(self.config, self.dataset, trainer.pipeline, subject, mode)
                yield from keep(self.run, name, trainer.step, found, self.stop)

    # -- what the folder hears ------------------------------------------------------------------------------------

    def _save(self) -> None:
        """Write a checkpoint, unless the weights are no numbers: then the last one is the last good state."""
        self.checkpoint_at = time.monotonic() + self.config.train.checkpoint_seconds
        if not self.trainer.is_finite():
            return
        self.metrics.sync()  # the checkpoint must never know of lines that a crash could take away
        checkpoint.save(
            self.run,
            {
                "signature": self.config.signature,
                "seed": self.config.seed,
                "trainer": self.trainer.state(),
                "evaluated": self.evaluated,
                "tested": self.tested,
                "best": self.best,
                "window": self.window,
                **self.metrics.state(),
            },
        )

    def close_attempt(self, state: State) -> None:
        """Record how the attempt ended."""
        self.attempt.ended, self.attempt.to_step, self.attempt.state = manifest.now(), self.trainer.step, state
        self.run.write_manifest(self.manifest)

    def _remark(self) -> str:
        """What a reader of the finished run's numbers must know."""
        if self.trainer.warming_up:
            return f"its warm-up never ended: the training error stayed over {self.config.train.warmup_until_error:.0%}"
        if missing := sorted(self.dataset.unreadable):
            return f"{len(missing):,} images could not be read, and were shown to the net as grey: {missing[0]}, ..."
        return ""

    def _tell(self, step: int | None = None) -> None:
        self.status.step = self.trainer.step if step is None else step
        self.run.write_status(self.status)
        self.on_status(self.status)

    def _end(self, state: State, message: str = "", step: int | None = None) -> None:
        self.close_attempt(state)
        self.status.state, self.status.message = state, message
        self._tell(step)
