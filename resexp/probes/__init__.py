"""Probes: measurements inside a net, at any moment of its training. They read training images, never the test set."""

from __future__ import annotations

from resexp.probes import gradients, landscape, lesion, outputs
from resexp.probes.subject import Probe, ProbeInput, Probing

__all__ = ["PROBES", "ProbeInput", "Probing"]

PROBES: dict[str, Probe] = {
    "gradients": gradients.PROBE,
    "signals": outputs.SIGNALS,
    "responses": outputs.RESPONSES,
    "branches": outputs.BRANCHES,
    "lesion": lesion.PROBE,
    "landscape": landscape.PROBE,
}
"""By the names that a study file has for them."""
