"""Kernel functions: the usual ones as values, evaluated on one block or on a batch of blocks at once.

A kernel is called as `kernel(x, y)` with points x `(..., m, d)` and y `(..., q, d)`, or `(m,)` and `(q,)` in
one dimension, and returns `(..., m, q)`. Distances come from differences of coordinates: the expansion
|x|^2 - 2 x.y + |y|^2 would be faster, and wrong where points are close, which is where kernels vary most.

Kernels add, multiply and take factors: `4.0 * Gaussian(10.0) * Periodic(period=1.0) + Matern(1.5)`. Each one knows its
hyperparameters and its derivatives with respect to their logarithms, which are kernels again.

Fundamental solutions (Laplace, Yukawa, Helmholtz, Stokes, elastostatics) have no physical prefactors, and are zero at
distance zero unless `diagonal=` says otherwise. Functions of the user are kernels too: `Radial` and `Pointwise` compile
them into the builds.
"""

from .algebra import Product, Scaled, Sum
from .base import Derivative, KernelFunction, distances
from .custom import Pointwise, Radial
from .fundamental import Helmholtz, Laplace, Yukawa
from .names import from_name, names
from .radial import (
    Cauchy,
    Exponential,
    Gaussian,
    InverseMultiquadric,
    Matern,
    Multiquadric,
    Periodic,
    RationalQuadratic,
    ThinPlateSpline,
)
from .vector import Elastostatics, Stokes

__all__ = [
    "Cauchy",
    "Derivative",
    "Elastostatics",
    "Exponential",
    "Gaussian",
    "Helmholtz",
    "InverseMultiquadric",
    "KernelFunction",
    "Laplace",
    "Matern",
    "Multiquadric",
    "Periodic",
    "Pointwise",
    "Product",
    "Radial",
    "RationalQuadratic",
    "Scaled",
    "Stokes",
    "Sum",
    "ThinPlateSpline",
    "Yukawa",
    "distances",
    "from_name",
    "names",
]
