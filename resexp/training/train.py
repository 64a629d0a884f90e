"""Training one run folder: set up, continue where it stopped, THE loop, and the end."""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from typing import Any

import torch

from resexp.config import RunConfig
from resexp.data import Dataset, open_dataset
from resexp.errors import UserError
from resexp.store import Run, State, Status, locked, write_atomic
from resexp.study import load_run
from resexp.training import checkpoint, manifest
from resexp.training.hardware import Hardware, choose
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

    `hear` receives every status, `say` every line worth reading; `threads` limits the CPU threads. A continued run has
    the same metrics and weights as one that was never interrupted: bit for bit on a CPU, given as many threads.
    Raises UserError for what the user can mend, and whatever else goes wrong, after recording it in the folder.
    """
    with locked(run.lock_path, run.name):
        if threads:
            torch.set_num_threads(threads)
        torch.set_flush_denormal(True)  # a vanishing gradient must not be a slow one
        status = run.status().model_copy(update={"state": "running", "message": "", "traceback": ""})
        try:
            session = _Session(run, status, stop, hear, say)
            session.run_to_end()
        except Exception as error:
            status.state = "failed"
            status.message = " ".join(f"{error}".split()) or type(error).__name__
            if not isinstance(error, UserError):
                status.message = f"{type(error).__name__}: {status.message}"
                status.traceback = traceback.format_exc()
            run.write_status(status)
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
    ) -> None:
        self.run, self.status, self.stop, self.hear = run, status, stop, hear
        self.config: RunConfig = load_run(run.config_path)
        self.hardware: Hardware = choose(self.config.train)
        self.dataset: Dataset = open_dataset(self.config.data, say)
        self.trainer = Trainer(self.config, self.dataset, self.hardware)
        self.evaluated, self.best_step, self.best_val_error = -1, -1, 2.0
        self.metrics_bytes = 0
        self._continue(say)
        self._begin_attempt()

    # -- set-up ---------------------------------------------------------------------------------------------------

    def _continue(self, say: Callable[[str], None]) -> None:
        """Load the newest whole checkpoint and drop the metrics written after it; they will be written again."""
        state, damage = checkpoint.load(self.run, self.hardware.device)
        if damage:
            say(f"{self.run.folder}: {damage}")
        if state:
            if (state["signature"], state["seed"]) != (self.config.signature, self.config.seed):
                raise UserError(
                    f"{self.run.checkpoint_path}: checkpoint of another configuration (signature {state['signature']} "
                    f"seed {state['seed']}, config.yaml has {self.config.signature} seed {self.config.seed}); "
                    f"restore config.yaml, or delete the run folder to begin anew"
                )
            self.trainer.load(state["trainer"])
            self.evaluated = state["evaluated"]
            self.best_step, self.best_val_error = state["best_step"], state["best_val_error"]
            self.metrics_bytes = state["metrics_bytes"]
        size = self.run.metrics_path.stat().st_size if self.run.metrics_path.exists() else 0
        if size < self.metrics_bytes:
            raise UserError(
                f"{self.run.metrics_path}: {size} bytes, but the checkpoint was written after {self.metrics_bytes}; "
                f"restore the file, or delete the run folder to begin anew"
            )
        if size:
            os.truncate(self.run.metrics_path, self.metrics_bytes)

    def _begin_attempt(self) -> None:
        record = self.run.manifest()
        data = {
            "source": self.config.data.source,
            "name": self.dataset.name,
            "fingerprint": self.dataset.fingerprint,
            "classes": len(self.dataset.classes),
            "train_images": len(self.dataset.train_index),
            "val_images": len(self.dataset.val_index),
        }
        if record and record["data"]["fingerprint"] != data["fingerprint"]:
            raise UserError(
                f"{self.run.folder}: begun on other data (fingerprint {record['data']['fingerprint']}, now "
                f"{data['fingerprint']}); bring the old data back, or delete the run folder to begin anew"
            )
        parameters = sum(p.numel() for p in self.trainer.model.parameters())
        self.attempt = manifest.new_attempt(self.hardware, self.trainer.step)
        self.manifest = {
            "signature": self.config.signature,
            "parameters": parameters,
            "data": data,
            "attempts": [*record.get("attempts", []), self.attempt],
        }
        self._write_manifest()

    def _write_manifest(self) -> None:
        write_atomic(self.run.manifest_path, json.dumps(self.manifest, indent=1))

    # -- the loop -------------------------------------------------------------------------------------------------

    def run_to_end(self) -> None:
        """THE loop: whatever is due at this step, then train until the next thing is due."""
        train, trainer = self.config.train, self.trainer
        self.checkpoint_at = time.monotonic() + train.checkpoint_seconds
        self.mark = (trainer.step, trainer.seconds)  # where the speed is measured from
        self.status.steps = train.steps
        self._tell()
        with self.run.metrics_path.open("ab") as self.metrics:
            try:
                while True:
                    ended = trainer.step == train.steps
                    if not trainer.is_finite():
                        return self._end("diverged", f"loss or weights not finite by step {trainer.step}")
                    if trainer.step > trainer.window_start and (trainer.step % train.log_every == 0 or ended):
                        self._log()
                    if trainer.step > max(self.evaluated, 0) and (trainer.step % train.eval_every == 0 or ended):
                        self._evaluate()
                    if self._checkpoint_due() and not ended:
                        self._save()
                    if ended:
                        self._test()
                        self._save()
                        return self._end("finished")
                    if self.stop():
                        break
                    trainer.advance(self._next_due(), lambda: self.stop() or self._checkpoint_due())
            except Stopped:
                pass
            self._save()
            return self._end("interrupted", "stopped by a signal; sweep or train again to continue")

    def _next_due(self) -> int:
        train = self.config.train
        periods = [train.log_every, train.eval_every, train.checkpoint_steps or train.steps]
        return min(train.steps, *((self.trainer.step // every + 1) * every for every in periods))

    def _checkpoint_due(self) -> bool:
        every = self.config.train.checkpoint_steps
        at_step = every is not None and self.trainer.step > 0 and self.trainer.step % every == 0
        return at_step or time.monotonic() >= self.checkpoint_at

    def _log(self) -> None:
        trainer, batch = self.trainer, self.config.train.batch_size
        steps, seconds = trainer.step - self.mark[0], trainer.seconds - self.mark[1]
        self.mark = (trainer.step, trainer.seconds)
        record = trainer.read_window()
        if steps:  # a window that another attempt filled has no speed of its own
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
            if error < self.best_val_error:
                self.best_step, self.best_val_error = trainer.step, error
                checkpoint.write(self.run.best_path, {"step": trainer.step, "model": trainer.model.state_dict()})
        self._append("eval", record)
        self.evaluated = trainer.step
        self._tell()

    def _test(self) -> None:
        """Read the test set, once: with the final weights and, where there is validation, with the best ones."""
        error, loss = self.trainer.evaluate("test", self.stop)
        record = {"step": self.trainer.step, "test_error": error, "test_loss": loss}
        if self.best_step >= 0:
            final = {name: value.clone() for name, value in self.trainer.model.state_dict().items()}
            self.trainer.model.load_state_dict(checkpoint.read(self.run.best_path, self.hardware.device)["model"])
            best_error, _ = self.trainer.evaluate("test", self.stop)
            self.trainer.model.load_state_dict(final)
            record |= {
                "best_step": self.best_step,
                "best_val_error": self.best_val_error,
                "best_test_error": best_error,
            }
        record["train_seconds"] = round(self.trainer.seconds, 3)
        self._append("test", record)
        self.status.test_error = error

    # -- what the folder hears ------------------------------------------------------------------------------------

    def _append(self, event: str, record: dict[str, Any]) -> None:
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
                "best_step": self.best_step,
                "best_val_error": self.best_val_error,
                "metrics_bytes": self.metrics.tell(),
            },
        )
        self.checkpoint_at = time.monotonic() + self.config.train.checkpoint_seconds

    def _tell(self) -> None:
        self.status.step = self.trainer.step
        self.run.write_status(self.status)
        self.hear(self.status)

    def _end(self, state: State, message: str = "") -> None:
        self.attempt |= {"ended": manifest.now(), "to_step": self.trainer.step, "state": state}
        self._write_manifest()
        self.status.state, self.status.message = state, message
        self._tell()
