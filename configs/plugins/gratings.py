"""Images of your own: stripes of eight directions under noise."""

import numpy as np
from pydantic import Field

from resexp.config import Section
from resexp.config.plugins import register

CLASSES = [f"{180 * turn / 8:g} degrees" for turn in range(8)]


class Options(Section):
    """What a study may choose."""

    noise: float = Field(default=0.3, ge=0)
    train: int = Field(default=4000, ge=8)
    test: int = Field(default=1000, ge=8)


def draw(labels, noise, rng, size=16):
    """Images (N, size, size, 3), uint8."""
    y, x = np.mgrid[:size, :size] / size * 2 * np.pi * 3
    angle = np.pi * labels[:, None, None] / len(CLASSES)
    phase = rng.uniform(0, 2 * np.pi, (len(labels), 1, 1))
    stripes = np.sin(x * np.cos(angle) + y * np.sin(angle) + phase)[..., None]
    return ((stripes + noise * rng.normal(size=(*stripes.shape[:3], 3))) * 60 + 128).clip(0, 255).astype(np.uint8)


@register("data", "gratings", Options)
def gratings(noise, train, test):
    """Training and test images with their labels and the names of the classes."""
    rng = np.random.default_rng(0)
    train_labels, test_labels = np.arange(train) % len(CLASSES), np.arange(test) % len(CLASSES)
    return {
        "classes": CLASSES,
        "train_images": draw(train_labels, noise, rng),
        "train_labels": train_labels,
        "test_images": draw(test_labels, noise, rng),
        "test_labels": test_labels,
    }
