"""What is subtracted from images, and the light that is added: taken once from the training images.

Krizhevsky et al. 2012 (section 4.1) vary the light by [p1 p2 p3][a1 l1, a2 l2, a3 l3]: p are the principal components
of the colours, l the eigenvalues of their covariance, and a normal numbers of standard deviation 0.1. Pixels are in
[0, 1] here, which the paper does not say: of ImageNet the eigenvalues are then about 0.2, 0.02 and 0.004.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from resexp.data.cache import caches, lock_of, read_arrays, write_arrays
from resexp.data.imagenet.dataset import ImageNet
from resexp.data.imagenet.loader import ImageRequest, Loader, centre
from resexp.errors import UserError
from resexp.utils.logs import log
from resexp.utils.machine import cores

IMAGES = 10_000
"""Training images that are looked at, drawn evenly."""
_VERSION = 2
_BATCH = 100


@dataclass(frozen=True)
class Statistics:
    """Mean and principal components of the centre crops of training images, pixels in [0, 1]."""

    pixel_mean: NDArray[np.float32]
    """(crop, crop, 3)"""
    channel_mean: NDArray[np.float32]
    """(3,)"""
    eigenvalues: NDArray[np.float32]
    """Variance of the colours along each principal component, (3,), largest first."""
    components: NDArray[np.float32]
    """The principal components of the colours, unit vectors, as the columns of (3, 3)."""


def statistics(dataset: ImageNet) -> Statistics:
    """The statistics of an image set, remembered where they have been taken before. Slow work is logged.

    Raises UserError as a Loader does.
    """
    config = dataset.config
    source = dataset.cache.folder.name if dataset.cache else f"imagenet-{dataset.fingerprint}"
    file = caches() / f"{source}-mean-v{_VERSION}-{config.crop}-{config.val_resize}.npz"
    with lock_of(file, "the mean image", wait=True):
        if (known := read_arrays(file)) is not None:
            return Statistics(**known)
        log.info(f"{dataset.root}: taking the mean of {min(IMAGES, dataset.images('train')):,} images, once")
        found = _take(dataset)
        write_arrays(file, vars(found))
        return found


def _take(dataset: ImageNet) -> Statistics:
    config, n = dataset.config, dataset.images("train")
    chosen = np.unique(np.linspace(0, n - 1, min(IMAGES, n)).round().astype(np.int64))
    view, buffer = centre(config.val_resize), np.empty((_BATCH, config.crop, config.crop, 3), dtype=np.uint8)
    total = np.zeros(buffer.shape[1:], dtype=np.int64)
    products = np.zeros((3, 3))  # sums of whole numbers below 2**53, which come out the same in any order
    images = 0
    with Loader(dataset, config.workers or cores(), config.timeout) as loader:
        for start in range(0, len(chosen), _BATCH):
            requests = [ImageRequest("train", int(image), view) for image in chosen[start : start + _BATCH]]
            unreadable = loader.load(requests, buffer[: len(requests)]).wait()
            batch = np.delete(buffer[: len(requests)], unreadable, axis=0)
            total += batch.sum(axis=0, dtype=np.int64)
            colours = batch.reshape(-1, 3).astype(np.float64)
            products += colours.T @ colours
            images += len(batch)
    if not images:
        raise UserError(f"{dataset.root}: of {len(chosen):,} training images none can be read")
    pixel_mean = total / (images * 255)
    mean = pixel_mean.mean(axis=(0, 1))
    covariance = products / (images * config.crop**2 * 255**2) - np.outer(mean, mean)
    variances, components = np.linalg.eigh(covariance)
    largest_first = np.argsort(variances)[::-1]
    eigenvalues = np.maximum(variances[largest_first], 0)  # of grey images, rounding may leave some below 0
    components = components[:, largest_first]
    components *= np.where(components.sum(axis=0) < 0, -1, 1)  # their signs are arbitrary
    return Statistics(*(array.astype(np.float32) for array in (pixel_mean, mean, eigenvalues, components)))
