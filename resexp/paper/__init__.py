"""The numbers of He et al. 2015 (arXiv 1512.03385), and how a run differs from the paper."""

from resexp.paper.published import ENSEMBLE_TOP5, SIDES, TEN_CROP, OnViews, Published, fig6, nets, published
from resexp.paper.recipe import Departure, Reading, departures, readings

__all__ = [
    "ENSEMBLE_TOP5", "SIDES", "TEN_CROP", "Departure", "OnViews", "Published", "Reading", "departures", "fig6", "nets",
    "published", "readings",
]  # fmt: skip
