"""H2-matrices: strong admissibility, nested bases."""

from .chebyshev import ChebyshevInterpolation
from .matrix import H2Matrix
from .proxies import ProxySurface, SelectedProxies
from .sampled import SampledFarField

__all__ = ["ChebyshevInterpolation", "H2Matrix", "ProxySurface", "SampledFarField", "SelectedProxies"]
