"""The `report` section: what the verdict is to rest on."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from resexp.config.section import Section


class ReportConfig(Section):
    """Decided before the runs are seen."""

    margin: Annotated[float, Field(gt=0, le=100)] | None = None
    """Rise of training error with depth, in points, that counts as none: nets are said not to degrade where the whole
    interval of their rise lies below it. Default: 1 at the paper's recipe, else a tenth of the plain nets' rise."""
