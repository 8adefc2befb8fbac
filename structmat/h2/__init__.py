"""H2-matrices: strong admissibility, nested bases."""

from .farfield import SampledFarField
from .matrix import H2Matrix
from .proxies import ProxySurface, SelectedProxies

__all__ = ["H2Matrix", "ProxySurface", "SampledFarField", "SelectedProxies"]
