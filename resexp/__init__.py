"""resexp: the plain-versus-residual degradation study of He et al. (2015), run from one YAML file."""

__version__ = "0.2.0"
