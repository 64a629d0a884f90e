"""Which classes a net takes for which others, from its logits. No torch."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

from resexp.config.study import load_run
from resexp.data import open_dataset
from resexp.errors import UserError
from resexp.runs import logits
from resexp.runs.logits import Logits
from resexp.runs.store import Run
from resexp.utils.logs import log


@dataclass(frozen=True)
class Confusion:
    """A net's logits on test images, and what follows from them; errors are fractions in [0, 1]."""

    logits: Logits
    classes: list[str]
    """Names of the classes, in the order of the logits."""

    @property
    def loss(self) -> float:
        """Mean cross-entropy, in nats."""
        logs = log_softmax(self.logits.values.astype(np.float64), axis=1)
        return float(-np.take_along_axis(logs, self.logits.labels[:, None], 1).mean())

    @property
    def matrix(self) -> NDArray[np.int64]:
        """Number of images of each class (rows) that were taken for each class (columns), (classes, classes)."""
        count = len(self.classes)
        pairs = self.logits.labels * count + self.logits.values.argmax(1)
        return np.bincount(pairs, minlength=count * count).reshape(count, count)

    def per_class(self) -> list[dict[str, Any]]:
        """Name, number of images and error of each class; the error is None without images."""
        matrix = self.matrix
        images, right = matrix.sum(1).tolist(), matrix.diagonal().tolist()
        return [
            {"class": name, "images": of, "error": (of - hits) / of if of else None}
            for name, of, hits in zip(self.classes, images, right, strict=True)
        ]

    def to_json(self) -> dict[str, Any]:
        """All numbers, for scripts; `top5_error` is null if there are few classes."""
        return {
            "images": len(self.logits.labels),
            "error": self.logits.error,
            "top5_error": self.logits.top5_error,
            "loss": self.loss,
            "classes": self.per_class(),
            "confusion": self.matrix.tolist(),
        }

    def to_csv(self) -> str:
        """The confusion matrix: one row per class, then its images and its error."""
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(["class", *self.classes, "images", "error"])
        for counts, of in zip(self.matrix.tolist(), self.per_class(), strict=True):
            rows.writerow([of["class"], *counts, of["images"], of["error"]])
        return text.getvalue()


def stored_result(run: Run) -> Confusion | None:
    """The result of a finished run on its test images, from the logits that it has stored; None without logits.

    Where the run's images are not here, its classes have numbers for names, and a warning is logged. Raises UserError
    if the run is not finished, or its logits are not those of its test error.
    """
    run.check_finished("is evaluated")
    try:
        found = logits.read_verified(run.logits_path, run.test_errors())
    except FileNotFoundError:
        return None
    names = [str(label) for label in range(found.values.shape[1])]
    try:
        dataset = open_dataset(load_run(run.config_path).data)
    except (UserError, OSError) as error:
        log.warning(f"{run.folder}: its classes are shown by their numbers, for its images are not here: {error}")
    else:
        if dataset.fingerprint == found.fingerprint:
            names = dataset.classes
    return Confusion(found, names)
