"""Ensembles of finished runs (He et al. 2015, Table 5): the mean of the logits that each has stored. No torch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from resexp import logits
from resexp.errors import UserError
from resexp.logits import Logits
from resexp.store import Run


@dataclass(frozen=True)
class Ensemble:
    """Runs and what they reach together; errors are fractions of the test set in [0, 1]."""

    runs: tuple[Run, ...]
    errors: tuple[float, ...]
    """The test error of each run."""
    error: float
    """The error of their mean logits."""

    @property
    def mean(self) -> float:
        """The mean error of the runs: what the ensemble is to be compared with."""
        return statistics.fmean(self.errors)

    def to_json(self) -> dict[str, Any]:
        """The numbers, for scripts."""
        return {
            "members": [
                {"run": run.name, "folder": str(run.folder), "test_error": error}
                for run, error in zip(self.runs, self.errors, strict=True)
            ],
            "mean_test_error": self.mean,
            "ensemble_test_error": self.error,
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
    first = _stored(runs[0])
    total, errors = first.values.astype(np.float64), [first.error]
    for run in runs[1:]:
        member = _stored(run)
        _check_same_images(runs[0], first, run, member)
        total += member.values
        errors.append(member.error)
    wrong = int((total.argmax(1) != first.labels).sum())
    return Ensemble(tuple(runs), tuple(errors), wrong / len(first.labels))


def _stored(run: Run) -> Logits:
    """The logits of a finished run, which must have the test error that its metrics have."""
    if (state := run.status().state) != "finished":
        raise UserError(
            f"{run.folder}: {state}, and an ensemble is of finished runs; finish it with resexp train {run.folder}"
        )
    try:
        stored = logits.read(run.logits_path)
    except FileNotFoundError:
        raise UserError(
            f"{run.folder}: no {run.logits_path.name}, as of a run that ended under an earlier version; "
            f"delete the folder and train it again"
        ) from None
    recorded = [record["test_error"] for record in run.metrics() if "test_error" in record]
    if recorded != [stored.error]:
        raise UserError(
            f"{run.logits_path}: its test error is {stored.error}, that of metrics.jsonl "
            f"{', '.join(map(str, recorded)) or 'missing'}; restore the files, or delete the folder and train it again"
        )
    return stored


def _check_same_images(first: Run, ours: Logits, other: Run, theirs: Logits) -> None:
    """An equal fingerprint does not mean an equal order, which the labels tell."""
    if ours.fingerprint != theirs.fingerprint:
        what = f"tested on other images (fingerprint {theirs.fingerprint}, and {ours.fingerprint}"
    elif ours.values.shape != theirs.values.shape:
        (images, classes), (as_many, of_as_many) = theirs.values.shape, ours.values.shape
        what = f"logits of {images} images and {classes} classes ({as_many} and {of_as_many}"
    elif not np.array_equal(ours.labels, theirs.labels):
        what = "tested on the same images in another order (other labels"
    else:
        return
    raise UserError(f"{other.folder}: {what} in {first.folder}); name runs on the same data")
