"""A finished run tested on several views of each image: ten crops, or several scales.

A net's probabilities are averaged over the views, after the softmax: so is the ten-crop test defined (Krizhevsky et al.
2012, section 4.1), and so are scales averaged by Simonyan and Zisserman (2014, section 4.2), whose form of testing He
et al. 2015 (section 3.4) adopt. Over the places of one larger view, the nets' global pooling averages the features,
which equals averaging the logits of the fully convolutional form, for the last layer is linear.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.nn import functional as F

from resexp.config import ImageNetData, RunConfig
from resexp.errors import UserError

SMALLEST = 4
"""Pixels a side that a crop has at least."""
STRIDE = 4
"""What the sides of a rescaled image are divisible by, as those of the data: a net that halves an odd side sees zeros
at a border where it has seen none in training."""
LONGEST = 8
"""Largest ratio of the longer to the shorter side of a view."""


def rescaled(images: Tensor, side: int) -> Tensor:
    """(B, 3, H, W) -> the same images with a shorter side of `side` pixels, bilinear and antialiased.

    The longer side keeps the proportion, to the nearest multiple of STRIDE; what is more than LONGEST times as long is
    squeezed, for it would take all memory.
    """
    height, width = images.shape[2:]
    longer = round(min(max(height, width) / min(height, width), LONGEST) * side / STRIDE) * STRIDE
    size = [side, longer] if height <= width else [longer, side]
    return F.interpolate(images, size, mode="bilinear", antialias=True)


@dataclass(frozen=True)
class SingleView:
    """The image as it is."""

    name: ClassVar[str] = "single-view"

    def check(self, height: int, width: int) -> None:
        """Any image of the data will do."""

    def views(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> one view of this shape."""
        return [images]


@dataclass(frozen=True)
class TenCrop:
    """The four corners and the centre of `crop` pixels a side, and their flips (Krizhevsky et al. 2012).

    The image is first padded with `pad` zeros on each side, as for the random crops of training: crops of small images
    are then as large as the training images, with objects of the same size.
    """

    crop: int = 224
    pad: int = 0
    name: ClassVar[str] = "ten-crop"

    @property
    def smallest(self) -> int:
        """Pixels a side of the smallest view."""
        return self.crop

    def check(self, height: int, width: int) -> None:
        """Raise UserError unless images of `height` x `width` pixels have such crops."""
        side = min(height, width)
        if not SMALLEST <= self.crop <= side + 2 * self.pad:
            raise UserError(
                f"ten-crop: a crop of {self.crop} pixels from images of {width}x{height}; name {SMALLEST} to {side}, "
                f"such as {_seven_eighths(side)} (the paper's 224 of 256 is 7/8)"
            )

    def views(self, images: Tensor) -> Iterable[Tensor]:
        """(B, 3, H, W) -> ten views (B, 3, crop, crop)."""
        from torchvision.transforms.functional import five_crop  # slow to import

        crops: tuple[Tensor, ...] = five_crop(F.pad(images, [self.pad] * 4), self.crop)
        return [*crops, *(crop.flip(-1) for crop in crops)]


@dataclass(frozen=True)
class MultiScale:
    """The whole image with each of these shorter sides (He et al. 2015, section 3.4); it names no flips."""

    sides: tuple[int, ...] = (224, 256, 384, 480, 640)
    name: ClassVar[str] = "multi-scale"

    @property
    def smallest(self) -> int:
        """Pixels a side of the smallest view."""
        return min(self.sides)

    def check(self, height: int, width: int) -> None:
        """Raise UserError unless each side is one that the nets can take, and there are any."""
        wrong = [side for side in self.sides if side < STRIDE or side % STRIDE]
        if wrong or len(set(self.sides)) != len(self.sides) or not self.sides:
            raise UserError(
                f"multi-scale: sides {', '.join(map(str, self.sides)) or 'none'}; "
                f"name different multiples of {STRIDE}, such as {min(height, width)}"
            )

    def views(self, images: Tensor) -> Iterable[Tensor]:
        """(B, 3, H, W) -> one view a side."""
        return (rescaled(images, side) for side in self.sides)


Mode = SingleView | TenCrop | MultiScale


def usual(config: RunConfig, name: str, size: tuple[int, int]) -> Mode:
    """The mode of this name with the paper's sides on ImageNet, else with sides that suit images of this `size`.

    Nets that are trained on padded crops get crops of that size from the padded images; without padding, a crop is 7/8
    of the image, as the paper's 224 of 256.
    """
    data = config.data
    if isinstance(data, ImageNetData):
        if name == TenCrop.name:
            return TenCrop(data.crop)
        return MultiScale(tuple(round(side * data.crop / 224 / STRIDE) * STRIDE for side in MultiScale.sides))
    side = min(size)
    if name == MultiScale.name:
        smaller, larger = max(STRIDE, side * 7 // 8 // STRIDE * STRIDE), -(-side * 9 // 8 // STRIDE) * STRIDE
        return MultiScale((smaller, side, larger))
    return TenCrop(side, data.pad) if data.pad else TenCrop(_seven_eighths(side))


def _seven_eighths(side: int) -> int:
    return max(SMALLEST, side * 7 // 8)
