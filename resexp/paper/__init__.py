"""The numbers of He et al. 2015 (arXiv 1512.03385), and how a run differs from the paper."""

from resexp.config import ModelConfig
from resexp.paper.imagenet import ENSEMBLE_TOP5, IMAGENET, SIDES, TEN_CROP
from resexp.paper.published import CIFAR10, FIG7, OnViews, Published, fig6
from resexp.paper.readings import Reading, readings
from resexp.paper.recipe import Departure, departures

__all__ = [
    "CIFAR10",
    "ENSEMBLE_TOP5",
    "FIG7",
    "IMAGENET",
    "SIDES",
    "TEN_CROP",
    "Departure",
    "OnViews",
    "Published",
    "Reading",
    "departures",
    "fig6",
    "published",
    "readings",
]


def published(model: ModelConfig) -> Published | None:
    """The paper's numbers for a net, or None. A run may be compared with them only if it has no departures."""
    if model.variant == "imagenet":
        shortcut = None if model.shortcut is None else str(model.shortcut)
        return IMAGENET.get((model.kind, str(model.block), model.depth, shortcut))
    return CIFAR10.get((model.kind, str(model.block), model.depth))
