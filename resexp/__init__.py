"""resexp: the plain-versus-residual degradation study of He et al. (2015), run from one YAML file."""

from typing import Any

from resexp.utils.machine import tune_libraries

__version__ = "0.2.0"
__all__ = ["StudyResults", "UserError", "build_model", "build_report", "load_study", "open_study", "sweep", "train"]

# Here, since no process may import torch before.
tune_libraries()


def __getattr__(name: str) -> Any:
    """The library, imported when it is first used; see `resexp.api`."""
    if name in __all__:
        from resexp import api

        return getattr(api, name)
    raise AttributeError(f"module 'resexp' has no attribute '{name}'")
