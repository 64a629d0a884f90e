"""resexp: the plain-versus-residual degradation study of He et al. (2015), run from one YAML file."""

from resexp.utils.machine import limit_spinning, widen_queues

__version__ = "0.2.0"

# Here, since no process may import torch before.
limit_spinning()
widen_queues()
