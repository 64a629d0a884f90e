"""Images from a plug-in."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from resexp.config import PluginData
from resexp.config.plugins import PluginRef, find_plugin
from resexp.data.images import ImageSet
from resexp.errors import UserError, sanitize

KEYS = {"classes", "train_images", "train_labels", "test_images", "test_labels"}


def content_key(config: PluginData) -> str:
    """What the images depend on: the plug-in's file and its options."""
    assert isinstance(config.source, PluginRef)
    options = hashlib.sha256(repr(config.source.options).encode()).hexdigest()[:16]
    return f"plugin-{config.source.name}-{config.source.digest}-{options}"


def load(config: PluginData) -> ImageSet:
    """Call the plug-in, and check what it returns: images (N, H, W, 3), uint8, and as many labels.

    Raises UserError that names the plug-in.
    """
    assert isinstance(config.source, PluginRef)
    plugin = find_plugin("data", config.source)
    where = f"{plugin.path}: data {plugin.name}"
    try:
        given = plugin.make(**dict(config.source.options))
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: {type(error).__name__}: {error}") from error
    if not isinstance(given, dict) or given.keys() != KEYS:
        raise UserError(
            f"{where}: returns something else than a mapping with classes, train_images, train_labels, test_images and "
            f"test_labels"
        )
    try:
        classes = list(map(str, given["classes"]))
    except TypeError:
        raise UserError(f"{where}: classes is {given['classes']!r}; return a list of names") from None
    if hidden := [name for name in classes if sanitize(name) != name]:
        raise UserError(f"{where}: the name of the class {hidden[0]!r} can't be shown; rename it")
    if len(classes) < 2 or len(set(classes)) < len(classes):
        raise UserError(f"{where}: returns {len(classes)} class names; return two or more, all different")
    images, labels = {}, {}
    for split in ("train", "test"):
        images[split], labels[split] = _checked(where, split, given, len(classes))
    if images["train"].shape[1:] != images["test"].shape[1:]:
        raise UserError(f"{where}: returns training and test images of different sizes")
    return ImageSet(classes, {split: list(array) for split, array in images.items()}, labels)


def _checked(where: str, split: str, given: dict[str, Any], classes: int) -> tuple[Any, Any]:
    try:
        images, labels = (np.asarray(given[f"{split}_{part}"]) for part in ("images", "labels"))
    except (TypeError, ValueError):
        raise UserError(
            f"{where}: {split}_images or {split}_labels is no array; return images of one size, uint8 (N, height, "
            "width, 3), and N integers"
        ) from None
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or not images.size:
        raise UserError(
            f"{where}: {split}_images has shape {images.shape} and type {images.dtype}; return uint8 (N, height, "
            f"width, 3)"
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise UserError(
            f"{where}: {split}_labels has shape {labels.shape} and type {labels.dtype}; return {len(images)} integers"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise UserError(
            f"{where}: {split}_labels are from {labels.min()} to {labels.max()}; there are {classes} classes"
        )
    return images, labels.astype(np.int64)
