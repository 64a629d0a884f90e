"""What every data source hands over, its fingerprint, and its resizing."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from resexp.errors import UserError

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class ImageSet:
    """A decoded image set: for each split, images as uint8 (H, W, 3) and labels as indices into `classes`."""

    classes: list[str]
    images: dict[str, list[Pixels]]
    labels: dict[str, NDArray[np.int64]]

    def fingerprint(self) -> str:
        """A digest of what is in the set, whatever its order or file format: split, class name and pixels."""
        digests = []
        for split, images in self.images.items():
            for image, label in zip(images, self.labels[split], strict=True):
                digest = hashlib.sha256(f"{split}/{self.classes[label]}/{image.shape}".encode())
                digest.update(np.ascontiguousarray(image).data)
                digests.append(digest.digest())
        return hashlib.sha256(b"".join(sorted(digests))).hexdigest()[:16]

    def stacked(self, split: str, size: int | None) -> Pixels:
        """The images of a split as one (N, H, W, 3) array, resized to `size` pixels a side if given."""
        images = self.images[split]
        if size is not None:
            # Resizing is antialiased; a picture that is not square keeps its central square.
            return np.stack([image if image.shape[:2] == (size, size) else _resize(image, size) for image in images])
        shapes = {image.shape for image in images}
        if len(shapes) > 1:
            sizes = ", ".join(sorted(f"{w}x{h}" for h, w, _ in shapes)[:3])
            raise UserError(f"the images have different sizes ({sizes}, ...); set data.resize to bring them to one")
        return np.stack(images)


def _resize(image: Pixels, size: int) -> Pixels:
    height, width = image.shape[:2]
    side = min(height, width)
    left, top = (width - side) // 2, (height - side) // 2
    box = (left, top, left + side, top + side)
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR, box=box))
