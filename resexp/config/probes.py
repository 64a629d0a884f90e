"""The `probes` section: what is looked at while a run is trained."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from resexp.config.section import Section

Steps = Annotated[tuple[Annotated[int, Field(ge=-1)], ...], Field(strict=False)]


class ProbesConfig(Section):
    """For each probe the steps at which it is taken: 0 is the initial net, -1 the trained one."""

    gradients: Steps = ()
    """Norm and signal-to-noise ratio of the gradient per layer; agreement of the gradients of neighbouring inputs."""
    signals: Steps = ()
    """Mean and variance of each layer's output."""
    responses: Steps = ()
    """Standard deviation of each 3x3 layer's response (Fig. 7)."""
    branches: Steps = ()
    """Size of F(x) compared with x, per residual block."""
    lesion: Steps = ()
    """Training error without each block, and with neighbouring blocks exchanged."""
    landscape: Steps = ()
    """Loss around the net, along two random directions."""

    tta: Annotated[tuple[Literal["ten-crop", "multi-scale"], ...], Field(strict=False)] = ()
    """Test-time augmentation of the trained net (section 3.4)."""

    def due(self, steps: int) -> dict[int, list[str]]:
        """For each step of a run of `steps` steps, the probes that are taken there."""
        found: dict[int, list[str]] = {}
        for name in (name for name in type(self).model_fields if name != "tta"):
            for step in getattr(self, name):
                found.setdefault(steps if step == -1 else step, []).append(name)
        return found
