"""The number of parameters of a net, in closed form, and the width that comes nearest to a given number."""

from __future__ import annotations

import bisect
import functools
from itertools import pairwise

from resexp.config.data import Cifar100Data, DataConfig, FolderData, ImageNetData, PluginData
from resexp.config.model import MAX_WIDTH, ModelConfig
from resexp.config.plugins import PluginRef

TOLERANCE = 0.2
"""Largest distance from the number of parameters that was asked for, as a share of it."""


CLASSES = {"cifar": 10, "imagenet": 1000}
"""By variant of the net, the classes of the paper's images."""


def classes_of(data: DataConfig, model: ModelConfig) -> int:
    """Number of classes of `data`; those of the paper where it is unknown before the images are read."""
    if isinstance(data, ImageNetData):
        return len(data.classes) if isinstance(data.classes, tuple) else data.classes or CLASSES["imagenet"]
    if isinstance(data, Cifar100Data):
        return 100 if data.labels == "fine" else 20
    return CLASSES[model.variant] if isinstance(data, FolderData | PluginData) else CLASSES["cifar"]


def resolved(model: ModelConfig, classes: int) -> ModelConfig:
    """`model` with the width that matches `params`; unchanged if `params` is None.

    Raises ValueError if no width comes near, if `model` also sets another width, or if a plug-in's part has an unknown
    number of parameters.
    """
    if model.params is None:
        return model
    width = _nearest(model.model_copy(update={"width": 1}), classes)
    if "width" in model.model_fields_set and model.width != width:
        raise ValueError(
            f"width {model.width} and params {model.params:,} (width {width}) are both given; leave one out, "
            "or set it to null if another file has it"
        )
    return model.model_copy(update={"width": width})


@functools.lru_cache
def _nearest(model: ModelConfig, classes: int) -> int:
    """The width whose number of parameters is nearest to `model.params`; of two, the smaller."""
    asked = model.params or 0
    for key in ("block", "shortcut", "norm", "activation"):
        if isinstance(getattr(model, key), PluginRef):
            raise ValueError(f"params: a plug-in's {key} has an unknown number of parameters; set width instead")
    widths = range(1, MAX_WIDTH + 1)
    above = bisect.bisect_left(widths, asked, key=lambda width: count(model, width, classes))
    counts = {width: count(model, width, classes) for width in widths[max(0, above - 1) : above + 1]}
    width = min(counts, key=lambda width: abs(counts[width] - asked))
    if abs(counts[width] - asked) > TOLERANCE * asked:
        nearest = ", ".join(f"width {width} has {number:,}" for width, number in counts.items())
        raise ValueError(f"params: no width of {model.kind}-{model.depth} comes near {asked:,} ({nearest}); set width")
    return width


def count(model: ModelConfig, width: int, classes: int) -> int:
    """Number of parameters of the net that `model`, without plug-ins, describes at `width`: all that is trained."""

    def conv(size: int, channels_in: int, channels_out: int) -> int:
        return size**2 * channels_in * channels_out + {"none": channels_out, "fixup": 1}.get(str(model.norm), 0)

    def norm(channels: int) -> int:
        return {"none": 0, "fixup": 1}.get(str(model.norm), 2 * channels)

    if model.kind == "vgg":
        filters = [3, *(width << min(stage, 3) for stage, number in enumerate(model.stages) for _ in range(number))]
        features = sum(conv(3, before, after) + norm(after) for before, after in pairwise(filters))
        sizes = [7 * 7 * filters[-1], 64 * width, 64 * width, classes]
        return features + sum((before + 1) * after for before, after in pairwise(sizes))

    preact, expansion = model.kind == "preact", 4 if model.block == "bottleneck" else 1
    scale = (model.residual_init == "rezero") + (model.norm == "fixup")

    def block(channels_in: int, channels: int, *, changes: bool) -> int:
        out = expansion * channels
        bottleneck = [(1, channels_in, channels), (3, channels, channels), (1, channels, out)]
        convs = bottleneck if expansion > 1 else [(3, channels_in, channels), (3, channels, channels)]
        projects = model.shortcut == "C" or (model.shortcut == "B" and changes)
        projection = conv(1, channels_in, out) + (0 if preact else norm(out)) if projects else 0
        return sum(conv(*c) + norm(c[1] if preact else c[2]) for c in convs) + projection + scale

    # A pre-activated net has its stem's norm in its first block, and one behind its last block.
    total = conv(7 if model.variant == "imagenet" else 3, 3, width) + (0 if preact else norm(width))
    channels_in = width
    for stage, blocks in enumerate(model.stages):
        channels, out = width << stage, expansion * width << stage
        changes = stage > 0 or channels_in != out
        total += block(channels_in, channels, changes=changes) + (blocks - 1) * block(out, channels, changes=False)
        channels_in = out
    return total + (norm(channels_in) if preact else 0) + (channels_in + 1) * classes + (model.norm == "fixup")
