"""What He et al. 2015 (arXiv 1512.03385) published for CIFAR-10, and what sets a run apart from it."""

from resexp.paper.published import CIFAR10, FIG7, Published, fig6
from resexp.paper.readings import Reading, readings
from resexp.paper.recipe import Departure, departures

__all__ = ["CIFAR10", "FIG7", "Departure", "Published", "Reading", "departures", "fig6", "readings"]
