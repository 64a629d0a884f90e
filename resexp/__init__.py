"""resexp: the plain-versus-residual degradation study of He et al. (2015), run from one YAML file."""

from resexp.machine import limit_spinning

__version__ = "0.2.0"

limit_spinning()  # here, since no process may import torch before
