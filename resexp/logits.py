"""logits.npz: what the final weights of a run say of each test image, kept so that ensembles need no training again."""

from __future__ import annotations

import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from resexp.errors import UserError


@dataclass(frozen=True)
class Logits:
    """The logits of one net on a test set, the images in the order of its data set."""

    values: NDArray[np.float32]
    """(N, classes), before the softmax."""
    labels: NDArray[np.int64]
    """(N,), indices of classes."""
    fingerprint: str
    """Of the images; see `data.Dataset`."""

    @property
    def error(self) -> float:
        """The share of images whose largest logit is not their class's, in [0, 1]."""
        return int((self.values.argmax(1) != self.labels).sum()) / len(self.labels)

    def pack(self) -> bytes:
        """The content of the file."""
        buffer = io.BytesIO()
        np.savez(buffer, logits=self.values, labels=self.labels, fingerprint=np.array(self.fingerprint))
        return buffer.getvalue()


def read(path: Path) -> Logits:
    """Read a file that `Logits.pack` made. Raises FileNotFoundError, or UserError where it holds anything else."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            logits = Logits(arrays["logits"], arrays["labels"], str(arrays["fingerprint"]))
        if logits.values.ndim != 2 or logits.labels.shape != logits.values.shape[:1]:
            raise ValueError("shapes that do not belong together")
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path}: damaged ({error}); restore it, or delete the run folder and train it again") from None
    return logits
