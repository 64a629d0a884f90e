"""What a net sees of an image: a square of it, resized."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch.nn import functional as F

from resexp.data.pixels import Pixels


class View(NamedTuple):
    """A crop of an image whose shorter side has been resized to `side`, aspect ratio kept (section 3.4)."""

    side: int
    fy: float
    """Where the crop lies, from 0, at the top, to 1, at the bottom; drawn from [0, 1), all places are as likely."""
    fx: float
    flip: bool

    def box(self, shape: tuple[int, ...], crop: int) -> tuple[int, int, int]:
        """The square that becomes the crop, of an image of this shape (H, W, ...): top, left and side, whole pixels.

        To resize the part alone costs less than to resize the whole. Its side is rounded to whole pixels, so that the
        scale may be off by half a pixel in the box, some 0.2 %.
        """
        assert crop <= self.side
        height, width = shape[:2]
        side = max(round(crop * min(height, width) / self.side), 1)
        top, left = int(self.fy * (height - side + 1)), int(self.fx * (width - side + 1))
        return min(top, height - side), min(left, width - side), side

    def crop(self, image: Pixels, size: int) -> Pixels:
        """The crop of an image (H, W, 3), `size` pixels a side."""
        top, left, side = self.box(image.shape, size)
        part = image[top : top + side, left : left + side]
        resized = part if side == size else resize(part, size, size)
        return resized[:, ::-1] if self.flip else resized


def centre(side: int) -> View:
    """The crop in the middle."""
    return View(side, 0.5, 0.5, False)


def resize(image: Pixels, height: int, width: int) -> Pixels:
    """An image (H, W, 3) in another size: bilinear, and antialiased where it gets smaller."""
    # numpy copies where an image is a part of another: torch would start threads for it in each thread of a loader.
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None]
    resized = F.interpolate(pixels, size=(height, width), mode="bilinear", antialias=True)
    return resized[0].permute(1, 2, 0).numpy()
