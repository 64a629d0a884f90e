"""logits.npz: the logits of a run's final weights on each test image, so that ensembles need no training again."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resexp.errors import UserError
from resexp.utils.untrusted import read_file, refuse_compressed

FEW_CLASSES = 10
"""With this many classes or fewer, a top-5 error says little."""
MAX_BYTES = 1 << 30
"""Largest file, uncompressed: 200,000 images of 1,000 classes."""


@dataclass(frozen=True)
class Logits:
    """The logits of one net on a test set, the images in the order of its data set."""

    values: NDArray[np.floating]
    """(N, classes), before the softmax."""
    labels: NDArray[np.int64]
    """(N,), indices of classes."""
    fingerprint: str
    """Fingerprint of the images; see `data.Dataset`."""

    @property
    def error(self) -> float:
        """The share of images whose largest logit is not their class's, in [0, 1]."""
        return int((self.values.argmax(1) != self.labels).sum()) / len(self.labels)

    @property
    def top5_error(self) -> float | None:
        """The share of images whose class is not among the five of the largest logits; None for few classes."""
        return self.top_error(5) if self.values.shape[1] > FEW_CLASSES else None

    def top_error(self, k: int) -> float:
        """The share of images whose class is not among the `k` of the largest logits, in [0, 1].

        Of equal logits those of the first classes count as larger, as they do for `error`.
        """
        own = np.take_along_axis(self.values, self.labels[:, None], 1)
        tied_behind = (self.values == own) & (np.arange(self.values.shape[1]) > self.labels[:, None])
        behind = ((self.values < own) | tied_behind).sum(1)
        return int((behind < self.values.shape[1] - k).sum()) / len(self.labels)

    def pack(self) -> bytes:
        """The content of the file."""
        buffer = io.BytesIO()
        np.savez(buffer, logits=self.values, labels=self.labels, fingerprint=np.array(self.fingerprint))
        return buffer.getvalue()


def read_verified(path: Path, recorded: Sequence[float]) -> Logits:
    """Read the logits of a finished run. Raises as `read`, and if `recorded`, the test error that its metrics have,
    is not theirs."""
    found = read(path)
    if len(recorded) != 1 or not math.isclose(recorded[0], found.error, abs_tol=1e-9):
        raise UserError(
            f"{path}: its test error is {found.error}, and that of metrics.jsonl "
            f"{', '.join(map(str, recorded)) or 'missing'}; restore the files, or delete the run and train it again"
        )
    return found


def read(path: Path) -> Logits:
    """Read a file that `Logits.pack` made. Raises FileNotFoundError, or UserError if it holds anything else."""
    content = read_file(path, MAX_BYTES)
    try:
        refuse_compressed(content)
        with np.load(io.BytesIO(content)) as arrays:
            values, labels, fingerprint = arrays["logits"], arrays["labels"], arrays["fingerprint"]
        if [(a.dtype.kind, a.ndim) for a in (values, labels, fingerprint)] != [("f", 2), ("i", 1), ("U", 0)]:
            raise ValueError("arrays of another kind")
        if not values.size or labels.shape != values.shape[:1]:
            raise ValueError("shapes that do not belong together")
        if labels.min() < 0 or labels.max() >= values.shape[1]:
            raise ValueError("labels of classes that there are no logits of")
        return Logits(values, labels, str(fingerprint))
    except Exception as error:  # readers raise what they like at files that were made to break them
        raise UserError(f"{path}: damaged ({error}); restore it, or delete the run folder and train it again") from None
