"""A block of your own: squeeze and excite (Hu et al. 2018, arXiv 1709.01507)."""

import torch
from pydantic import Field

from resexp.config import Section
from resexp.config.plugins import register
from resexp.models.blocks import Block


class Options(Section):
    """What a study may choose."""

    reduction: int = Field(default=4, ge=1)


@register("block", "squeeze_excite", Options)
class SqueezeExcite(Block):
    """A basic block whose branch weighs its channels by what the whole image looks like."""

    def make_branch(self, config, place, reduction=4):
        super().make_branch(config, place)
        squeezed = max(1, place.channels // reduction)
        self.squeeze = torch.nn.Linear(place.channels, squeezed)
        self.excite = torch.nn.Linear(squeezed, place.channels)

    def branch(self, x):
        y = super().branch(x)
        weights = torch.relu(self.squeeze(y.mean((2, 3))))
        return y * torch.sigmoid(self.excite(weights))[:, :, None, None]
