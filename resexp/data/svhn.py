"""SVHN, the cropped digits: one MATLAB file of training images, one of test images."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from resexp.data.images import ImageSet
from resexp.data.official import SVHN_TEST, SVHN_TRAIN, OfficialSet


@dataclass(frozen=True)
class Svhn(OfficialSet):
    """Its path is that of the training images; the test images lie in the same folder."""

    def within(self, folder: Path) -> Path:
        """The file of training images."""
        return folder / self.files[0].name

    def decode(self, path: Path) -> ImageSet:
        """Read both files; see OfficialSet."""
        from scipy.io import loadmat  # takes half as long to import as all of this package

        images, labels = {}, {}
        for split, file in zip(("train", "test"), self.files, strict=True):
            content = file.verify(path if split == "train" else path.with_name(file.name))
            found = loadmat(io.BytesIO(content), variable_names=("X", "y"))
            # X is (32, 32, 3, N), y is (N, 1). Label 10 is the digit 0.
            images[split] = list(np.ascontiguousarray(found["X"].transpose(3, 0, 1, 2)))
            labels[split] = found["y"].ravel().astype(np.int64) % 10
        remarks = ["the extra set, 531,131 images that are easier, is left out"]
        return ImageSet(list("0123456789"), images, labels, remarks=remarks)


SVHN = Svhn("svhn", (SVHN_TRAIN, SVHN_TEST))
