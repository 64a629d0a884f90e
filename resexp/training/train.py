"""Training one run folder: set up, continue where it stopped, THE loop, and the end."""

from __future__ import annotations

import contextlib
import copy
import json
import os
import time
import traceback
from collections.abc import Callable
from typing import Any

from resexp.data import open_dataset
from resexp.errors import UserError
from resexp.files import locked, naming
from resexp.store import DataRecord, Manifest, Run, State, Status
from resexp.study import load_run
from resexp.training import checkpoint, manifest
from resexp.training.hardware import choose, tune_process
from resexp.training.trainer import Stopped, Trainer


def train(
    run: Run,
    *,
    stop: Callable[[], bool] = lambda: False,
    hear: Callable[[Status], None] = lambda status: None,
    say: Callable[[str], None] = lambda line: None,
    threads: int | None = None,
) -> Status:
    """Train the run in its folder to the end, or until `stop()`; continue it if it was begun.

    `hear` receives every status, `say` every line worth reading; `threads` limits the CPU threads of a run that begins.
    A continued run has the same metrics and weights as one that was never interrupted: bit for bit on a CPU. Raises
    UserError or OSError for what can be mended from outside, which leaves the run to be begun or continued; anything
    else marks it as failed. Both are recorded in the folder.
    """
    with locked(run.lock_path, run.name):
        status = run.status().model_copy(update={"state": "running", "message": "", "traceback": ""})
        session = None
        try:
            session = _Session(run, status, stop, hear, say, threads)
            session.run_to_end()
        except Exception as error:
            status.message = " ".join(f"{error}".split()) or type(error).__name__
            if isinstance(error, UserError | OSError):
                status.state = "interrupted" if run.checkpoint_path.exists() else "pending"
            else:
                status.state = "failed"
                status.message = f"{type(error).__name__}: {status.message}"
                status.traceback = traceback.format_exc()
            with contextlib.suppress(OSError):  # the disk may be what is wrong
                run.write_status(status)
                if session:
                    session.close_attempt(status.state)
            hear(status)
            raise
        return status


class _Session:
    """One attempt at a run: the trainer and the folder it reports to."""

    def __init__(
        self,
        run: Run,
        status: Status,
        stop: Callable[[], bool],
        hear: Callable[[Status], None],
        say: Callable[[str], None],
        threads: int | None,
    ) -> None:
        self.run, self.status, self.stop, self.hear = run, status, stop, hear
        self.config = load_run(run.config_path)
        before = run.manifest()
        # What sums are rounded to, and in which order, must not change in the middle of a run.
        tune_process(before.attempts[-1].threads if before else threads)
        self.hardware = choose(self.config.train, begun_in=before.attempts[-1].precision if before else None)
        self.dataset = open_dataset(self.config.data, say)
        self.trainer = Trainer(self.config, self.dataset, self.hardware)
        self.evaluated, self.tested = 0, False
        self.best: dict[str, Any] | None = None
        self._continue(say)
        self._begin_attempt(before)

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
            metrics_bytes = state["metrics_bytes"]
        size = run.metrics_path.stat().st_size if run.metrics_path.exists() else 0
        if size < metrics_bytes:
            raise UserError(
                f"{run.metrics_path}: {size} bytes, but the checkpoint was written after {metrics_bytes}; "
                f"restore the file, or delete the run folder to begin anew"
            )
        if size:
            os.truncate(run.metrics_path, metrics_bytes)
        for record in run.metrics():
            for name in ("train_error", "clean_train_error", "val_error", "test_error"):
                setattr(self.status, name, record.get(name, getattr(self.status, name)))

    def _begin_attempt(self, before: Manifest | None) -> None:
        dataset = self.dataset
        data = DataRecord(
            source=self.config.data.source,
            name=dataset.name,
            fingerprint=dataset.fingerprint,
            classes=len(dataset.classes),
            train_images=len(dataset.train_index),
            val_images=len(dataset.val_index),
        )
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
            attempts=[*(before.attempts if before else []), self.attempt],
        )
        self.run.write_manifest(self.manifest)

    # -- the loop -------------------------------------------------------------------------------------------------

    def run_to_end(self) -> None:
        """THE loop: whatever is due at this step, then train until the next thing is due."""
        train, trainer = self.config.train, self.trainer
        self.checkpoint_at = time.monotonic() + train.checkpoint_seconds
        self.mark = (trainer.step, trainer.seconds)  # where the speed is measured from
        self.status.steps = train.steps
        self._tell()
        with self.run.metrics_path.open("ab") as self.metrics:
            if trainer.step == 0:
                self._save()  # the last good state of a run that diverges at once
            try:
                while True:
                    step, ended = trainer.step, trainer.step == train.steps
                    if not trainer.is_finite():
                        self._append("diverged", {"step": step})
                        return self._end("diverged", f"loss or weights not finite by step {step}")
                    if step > trainer.window_start and (self._is_due(train.log_every) or step in train.milestones):
                        self._log()
                    if step > self.evaluated and self._is_due(train.eval_every):
                        self._evaluate()
                    if ended:
                        if not self.tested:
                            self._test()
                        self._save()
                        return self._end("finished", self._remark())
                    if self._checkpoint_due():
                        self._save()
                    if self.stop():
                        break
                    trainer.advance(self._next_due(), lambda: self.stop() or self._checkpoint_due())
            except Stopped:
                pass
            self._save()
            return self._end("interrupted", "stopped by a signal; the same command continues")

    def _is_due(self, every: int) -> bool:
        return self.trainer.step % every == 0 or self.trainer.step == self.config.train.steps

    def _next_due(self) -> int:
        train, step = self.config.train, self.trainer.step
        periods = [train.log_every, train.eval_every, train.checkpoint_steps or train.steps]
        milestones = [milestone for milestone in train.milestones if milestone > step]
        return min(train.steps, *milestones, *((step // every + 1) * every for every in periods))

    def _checkpoint_due(self) -> bool:
        every = self.config.train.checkpoint_steps
        at_step = every is not None and self.trainer.step > 0 and self.trainer.step % every == 0
        return at_step or time.monotonic() >= self.checkpoint_at

    def _log(self) -> None:
        trainer, batch = self.trainer, self.config.train.batch_size
        steps, seconds = trainer.step - self.mark[0], trainer.seconds - self.mark[1]
        self.mark = (trainer.step, trainer.seconds)
        record = trainer.read_window()
        if steps:  # none, where another attempt filled the window and now lines are due at other steps
            self.status.seconds_per_step = seconds / steps
            self.status.images_per_second = record["images_per_second"] = round(steps * batch / seconds, 1)
        self._append("train", record)
        self.status.train_error = record["train_error"]
        self._tell()

    def _evaluate(self) -> None:
        trainer = self.trainer
        error, loss = trainer.evaluate("train", self.stop)
        record: dict[str, Any] = {"step": trainer.step, "clean_train_error": error, "clean_train_loss": loss}
        self.status.clean_train_error = error
        if len(self.dataset.val_index):
            error, loss = trainer.evaluate("val", self.stop)
            record |= {"val_error": error, "val_loss": loss}
            self.status.val_error = error
            if self.best is None or error < self.best["val_error"]:
                weights = {name: value.clone() for name, value in trainer.model.state_dict().items()}
                self.best = {"step": trainer.step, "val_error": error, "model": weights}
        self._append("eval", record)
        self.evaluated = trainer.step
        self._tell()

    def _test(self) -> None:
        """Read the test set, once: with the final weights and, where there is validation, with the best ones."""
        error, loss = self.trainer.evaluate("test", self.stop)
        record = {"step": self.trainer.step, "test_error": error, "test_loss": loss}
        if self.best:
            model = copy.deepcopy(self.trainer.model)
            model.load_state_dict(self.best["model"])
            best_error, _ = self.trainer.evaluate("test", self.stop, model)
            record |= {"best_step": self.best["step"], "best_val_error": self.best["val_error"]}
            record["best_test_error"] = best_error
        record["train_seconds"] = round(self.trainer.seconds, 3)
        self._append("test", record)
        self.tested = True
        self.status.test_error = error

    # -- what the folder hears ------------------------------------------------------------------------------------

    def _append(self, event: str, record: dict[str, Any]) -> None:
        with naming(self.run.metrics_path):
            self.metrics.write(json.dumps({"event": event, **record}).encode() + b"\n")
            self.metrics.flush()

    def _save(self) -> None:
        os.fsync(self.metrics.fileno())  # the checkpoint must never know of lines that a crash could take away
        checkpoint.save(
            self.run,
            {
                "signature": self.config.signature,
                "seed": self.config.seed,
                "trainer": self.trainer.state(),
                "evaluated": self.evaluated,
                "tested": self.tested,
                "best": self.best,
                "metrics_bytes": self.metrics.tell(),
            },
        )
        self.checkpoint_at = time.monotonic() + self.config.train.checkpoint_seconds

    def close_attempt(self, state: State) -> None:
        """Record how the attempt ended."""
        self.attempt.ended, self.attempt.to_step, self.attempt.state = manifest.now(), self.trainer.step, state
        self.run.write_manifest(self.manifest)

    def _remark(self) -> str:
        """What a reader of the finished run's numbers must know."""
        if self.trainer.warming_up:
            return f"its warm-up never ended: the training error stayed over {self.config.train.warmup_until:.0%}"
        return ""

    def _tell(self) -> None:
        self.status.step = self.trainer.step
        self.run.write_status(self.status)
        self.hear(self.status)

    def _end(self, state: State, message: str = "") -> None:
        self.close_attempt(state)
        self.status.state, self.status.message = state, message
        self._tell()
