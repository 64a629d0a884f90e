"""The `report` section: how runs are judged."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from resexp.config.section import Section


class ReportConfig(Section):
    """How runs are judged; fixed before they are trained."""

    margin: Annotated[float, Field(gt=0, le=100)] | None = None
    """Largest rise of the training error with depth, in points, that counts as no degradation: the whole interval must
    be below it. Default: 1 at the paper's recipe, otherwise a tenth of the plain nets' rise."""
