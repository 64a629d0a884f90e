"""Procedural images: ten kinds of shape, any colour, size and turn, on a striped ground, under noise.

Colour and stripes say nothing about the class, so a net has to see the outline: shallow nets learn it in 400 steps,
deep plain nets do not. Images are a pure function of the configuration, and the same on every CPU: NumPy's sine differs
in its last digit between CPUs, so pictures are drawn in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from resexp.config import ShapesData
from resexp.data.images import ImageSet
from resexp.data.pixels import Pixels

VERSION = 2
"""To be raised with every change to the pixels, so that no cache outlives the code that made it."""

Field = NDArray[np.float64]

CLASSES = ["bars", "circle", "crescent", "cross", "frame", "half", "ring", "square", "star", "triangle"]

_CHUNK = 2000


def content_key(config: ShapesData) -> str:
    """What the images depend on."""
    return f"shapes-v{VERSION}-{config.seed}-{config.train_images}-{config.test_images}-{config.size}"


def generate(config: ShapesData) -> ImageSet:
    """The image set of a configuration; classes are balanced."""
    counts = {"train": config.train_images, "test": config.test_images}
    images: dict[str, list[Pixels]] = {}
    labels = {}
    for part, (split, count) in enumerate(counts.items()):
        labels[split] = np.arange(count) % len(CLASSES)
        chunks = [
            draw(labels[split][start : start + _CHUNK], config.size, np.random.default_rng((config.seed, part, start)))
            for start in range(0, count, _CHUNK)
        ]
        images[split] = [image for chunk in chunks for image in chunk]
    return ImageSet(CLASSES, images, labels)


def _outline(label: int, u: Field, v: Field) -> Field:
    """A function of the plane that is negative inside the shape `label`, about one unit across."""
    r = np.hypot(u, v)
    box = np.maximum(np.abs(u), np.abs(v))
    outlines: dict[str, Callable[[], Field]] = {
        "bars": lambda: np.maximum(np.abs(np.abs(v) - 0.5) - 0.22, np.abs(u) - 0.8),
        "circle": lambda: r - 0.8,
        "crescent": lambda: np.maximum(r - 0.9, 0.7 - np.hypot(u - 0.45, v)),
        "cross": lambda: np.maximum(box - 0.9, np.minimum(np.abs(u), np.abs(v)) - 0.27),
        "frame": lambda: np.abs(box - 0.6) - 0.2,
        "half": lambda: np.maximum(r - 0.95, -v),
        "ring": lambda: np.abs(r - 0.65) - 0.22,
        "square": lambda: box - 0.72,
        "star": lambda: r - (0.62 + 0.28 * np.cos(5 * np.arctan2(v, u))),
        "triangle": lambda: np.maximum(0.866 * np.abs(u) + 0.5 * v, -v) - 0.5,
    }
    return outlines[CLASSES[label]]()


def draw(labels: NDArray[np.int64], size: int, rng: np.random.Generator) -> Pixels:
    """Images (N, size, size, 3), uint8, one for each label."""
    n = len(labels)

    def uniform(low: float, high: float, *shape: int) -> Field:
        return rng.uniform(low, high, (n, *(shape or (1, 1))))

    axis = ((np.arange(size) + 0.5) / size * 2 - 1)[None]
    x, y = np.broadcast_to(axis[:, None, :], (n, size, size)), np.broadcast_to(axis[:, :, None], (n, size, size))
    turn, scale = uniform(0, 2 * np.pi), uniform(0.6, 0.9)
    dx, dy = x - uniform(-0.2, 0.2), y - uniform(-0.2, 0.2)
    u = (np.cos(turn) * dx + np.sin(turn) * dy) / scale
    v = (np.cos(turn) * dy - np.sin(turn) * dx) / scale
    inside = np.empty_like(u)
    for label in range(len(CLASSES)):
        of = labels == label
        inside[of] = _outline(label, u[of], v[of])
    edge = 2 / size / scale  # one pixel, in the shape's own units
    mask = np.clip(0.5 - inside / edge, 0, 1)[..., None]

    def stripes() -> Field:
        """Stripes of any direction and width, in two colours of the darker half, (N, size, size, 3)."""
        angle, period, phase = uniform(0, np.pi), uniform(0.25, 1.2), uniform(0, 2 * np.pi)
        wave = np.sin((np.cos(angle) * x + np.sin(angle) * y) * (2 * np.pi / period) + phase)[..., None]
        return uniform(0, 0.5, 1, 1, 3) + uniform(-0.1, 0.1, 1, 1, 3) * wave

    # Either the shape or the ground is the brighter one.
    shape_is_bright = uniform(0, 1, 1, 1, 1) < 0.5
    picture = mask * stripes() + (1 - mask) * stripes() + 0.5 * np.where(shape_is_bright, mask, 1 - mask)
    picture += rng.normal(0, 0.1, picture.shape)
    return np.asarray(np.clip(picture, 0, 1) * 255 + 0.5, dtype=np.uint8)
