"""What is subtracted from images, and the light that is added: taken once from the training images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resexp.data.imagenet.dataset import ImageNet

IMAGES = 10_000
"""Training images that are looked at, drawn evenly."""


@dataclass(frozen=True)
class Statistics:
    """Of the centre crops of training images, pixels in [0, 1]."""

    pixel_mean: NDArray[np.float32]
    """(crop, crop, 3)"""
    channel_mean: NDArray[np.float32]
    """(3,)"""
    deviations: NDArray[np.float32]
    """Standard deviation of the colours along each principal component, (3,), largest first."""
    components: NDArray[np.float32]
    """The principal components of the colours, unit vectors, as the columns of (3, 3)."""


def statistics(dataset: ImageNet, say: Callable[[str], None] = lambda line: None) -> Statistics:
    """The statistics of an image set, from the cache where they have been taken before."""
    raise NotImplementedError
