"""Probes: measurements inside a net, at any moment of its training. They read training images, never the test set."""

from __future__ import annotations

from resexp.probes import branches, gradients, landscape, lesion, responses, signals
from resexp.probes.subject import Probe, ProbeInput, Probing

__all__ = ["PROBES", "ProbeInput", "Probing"]

PROBES: dict[str, Probe] = {
    "gradients": gradients.PROBE,
    "signals": signals.PROBE,
    "responses": responses.PROBE,
    "branches": branches.PROBE,
    "lesion": lesion.PROBE,
    "landscape": landscape.PROBE,
}
"""By the names that a study file has for them."""
