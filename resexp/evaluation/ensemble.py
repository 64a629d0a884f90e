"""Ensembles of finished runs (He et al. 2015, Table 5): the mean of the logits that each has stored. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from resexp.errors import UserError
from resexp.runs import logits
from resexp.runs.logits import Logits
from resexp.runs.store import Run


@dataclass(frozen=True)
class Ensemble:
    """Runs and what they reach together; errors are fractions of the test set in [0, 1]."""

    runs: tuple[Run, ...]
    errors: tuple[float, ...]
    """The test error of each run."""
    top5_errors: tuple[float, ...]
    """The top-5 error of each; none where there are few classes."""
    total: Logits
    """The sum of their logits."""

    @property
    def error(self) -> float:
        """The error of their mean logits."""
        return self.total.error

    @property
    def mean(self) -> float:
        """The mean error of the runs: what the ensemble is to be compared with."""
        return statistics.fmean(self.errors)

    @property
    def top5_error(self) -> float | None:
        """The top-5 error of their mean logits; None if there are few classes."""
        return self.total.top5_error

    @property
    def top5_mean(self) -> float | None:
        """The mean top-5 error of the runs; None if there are few classes."""
        return statistics.fmean(self.top5_errors) if self.top5_errors else None

    def to_json(self) -> dict[str, Any]:
        """The numbers, for scripts; top-5 errors are null if there are few classes."""
        top5 = self.top5_errors or (None,) * len(self.runs)
        return {
            "members": [
                {"run": run.title, "folder": str(run.folder), "test_error": error, "test_top5_error": error5}
                for run, error, error5 in zip(self.runs, self.errors, top5, strict=True)
            ],
            "mean_test_error": self.mean,
            "mean_test_top5_error": self.top5_mean,
            "ensemble_test_error": self.error,
            "ensemble_test_top5_error": self.top5_error,
        }


def ensemble(runs: Sequence[Run]) -> Ensemble:
    """Average the logits of `runs`, whatever their nets, and count the errors of the mean.

    The paper averages "scores" and does not say whether before or after the softmax; here they are the logits, so the
    mean is the normalised geometric mean of the nets' probabilities. Raises UserError for fewer than two runs, for a
    run twice, for one that is not finished or has no logits, for logits that are not those of the run's test error, and
    for runs whose test images differ.
    """
    if len(runs) < 2:
        raise UserError(f"an ensemble needs two runs or more, got {len(runs)}; name another finished run")
    seen = set()
    for run in runs:
        if (folder := run.folder.resolve()) in seen:
            raise UserError(f"{run.folder}: named twice; name each run of an ensemble once")
        seen.add(folder)
    return joined(alone(run, run.test_errors()) for run in runs)


def alone(run: Run, recorded: Sequence[float]) -> Ensemble:
    """A run as an ensemble of one; `recorded` are the test errors in its metrics. Raises UserError as `ensemble`."""
    run.check_finished("is part of an ensemble")
    try:
        stored = logits.read_verified(run.logits_path, recorded)
    except FileNotFoundError:
        raise UserError(
            f"{run.folder}: no {run.logits_path.name}, as of a run that ended under an earlier version; "
            f"delete the folder and train it again"
        ) from None
    top5 = stored.top5_error
    return Ensemble((run,), (stored.error,), () if top5 is None else (top5,), stored)


def joined(members: Iterable[Ensemble]) -> Ensemble:
    """The runs of all `members` as one ensemble. Raises UserError if their test images differ."""
    members = iter(members)
    together = next(members)
    for member in members:
        _check_same_images(together, member)
        total = np.add(together.total.values, member.total.values, dtype=np.float64)
        together = Ensemble(
            together.runs + member.runs,
            together.errors + member.errors,
            together.top5_errors + member.top5_errors,
            replace(together.total, values=total),
        )
    return together


def _check_same_images(some: Ensemble, others: Ensemble) -> None:
    """Images with an equal fingerprint may have another order; then their labels differ."""
    ours, theirs = some.total, others.total
    if ours.fingerprint != theirs.fingerprint:
        what = f"tested on other images (fingerprint {theirs.fingerprint}, and {ours.fingerprint}"
    elif ours.values.shape != theirs.values.shape:
        (images, classes), (as_many, of_as_many) = theirs.values.shape, ours.values.shape
        what = f"logits of {images} images and {classes} classes ({as_many} and {of_as_many}"
    elif not np.array_equal(ours.labels, theirs.labels):
        what = "tested on the same images in another order (other labels"
    else:
        return
    raise UserError(f"{others.runs[0].folder}: {what} in {some.runs[0].folder}); name runs on the same data")
