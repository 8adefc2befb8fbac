"""Fundamental solutions of scalar elliptic equations, without their constants."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

from .._backend import is_numpy, mapped, namespace, reciprocal
from .._typing import Array
from ..exceptions import DeviceError
from .base import KernelFunction, _finite, _positive


class _Fundamental(KernelFunction):
    """Singular at distance zero; what lies outside a closed surface is seen from the surface."""

    singular = True
    is_greens_function = True
    _forms: ClassVar[tuple[str, str]]  # what the kernel is in 2-D and in 3-D, for messages

    def __init__(self, dim: int, diagonal: float | None) -> None:
        super().__init__(diagonal)
        self.dim: int = _dimension(dim, self._forms)


class Laplace(_Fundamental):
    """The fundamental solution of the Laplace equation, without its constant: -log r in 2-D, 1 / r in 3-D.

    Parameters
    ----------
    dim : {2, 3}
        Of the equation.
    diagonal : float, optional
        The value at distance zero; default 0.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat.kernelfunctions import Laplace
    >>> Laplace(dim=3)(np.array([[0.0, 0.0, 0.0]]), np.array([[3.0, 4.0, 0.0], [0.0, 0.0, 0.0]]))
    array([[0.2, 0. ]])
    """

    _forms = ("-log r", "1 / r")

    def __init__(self, dim: int = 2, diagonal: float | None = None) -> None:
        super().__init__(dim, diagonal)

    def _compiled_form(self) -> tuple[int, float]:
        from ..engine import cpu_kernels

        return (cpu_kernels.RECIPROCAL if self.dim == 3 else cpu_kernels.LOGARITHM), 0.0

    def _of_distance(self, r: Array) -> Array:
        if self.dim == 3:
            return reciprocal(r)
        return mapped("negative", mapped("log", r))


class Yukawa(_Fundamental):
    """The screened potential: K_0(decay r) in 2-D, exp(-decay r) / r in 3-D.

    It solves the modified Helmholtz equation, Laplacian u = decay^2 u, away from distance zero.

    Parameters
    ----------
    decay : float
        Positive; the inverse of the length over which the potential is screened.
    dim : {2, 3}
        Of the equation.
    diagonal : float, optional
        The value at distance zero; default 0.

    Notes
    -----
    The 3-D form is compiled; the Bessel function of the 2-D form is SciPy's.

    References
    ----------
    NIST Digital Library of Mathematical Functions, sections 10.25 and 10.49, https://dlmf.nist.gov/10.

    Examples
    --------
    >>> from structmat.kernelfunctions import Yukawa
    >>> Yukawa(decay=2.0, dim=3)([0.0], [0.0, 0.5])
    array([[0.        , 0.73575888]])
    """

    _forms = ("K_0(decay r)", "exp(-decay r) / r")

    def __init__(self, decay: float = 1.0, dim: int = 2, diagonal: float | None = None) -> None:
        super().__init__(dim, diagonal)
        self.decay = _positive(decay, "decay")

    def _compiled_form(self) -> tuple[int, float] | None:
        from ..engine import cpu_kernels

        return (cpu_kernels.YUKAWA, self.decay) if self.dim == 3 else None

    def _of_distance(self, r: Array) -> Array:
        if self.dim == 2:
            from scipy.special import k0

            _require_numpy(r, "K_0")
            r *= self.decay
            return k0(r, out=r)
        values = mapped("exp", -self.decay * r)
        values /= r
        return values


class Helmholtz(_Fundamental):
    """The outgoing wave of a point source: the Hankel function H_0^(1)(k r) in 2-D, exp(i k r) / r in 3-D.

    It solves Laplacian u = -k^2 u away from distance zero, for time factors exp(-i omega t). The matrix is complex
    and equal to its transpose, not to its adjoint: `complex_symmetric` is true and `symmetric` false.

    Parameters
    ----------
    wavenumber : float
        Positive, k = 2 pi / wavelength.
    dim : {2, 3}
        Of the equation.
    diagonal : complex, optional
        The value at distance zero; default 0.

    References
    ----------
    D. Colton, R. Kress, Inverse Acoustic and Electromagnetic Scattering Theory, 4th edition, Springer, 2019, sections
    2.2 and 3.5.

    Examples
    --------
    >>> from structmat.kernelfunctions import Helmholtz
    >>> Helmholtz(wavenumber=3.0, dim=3)([0.0], [0.0, 0.5])
    array([[0.       +0.j       , 0.1414744+1.99498997j]])
    """

    _forms = ("H_0(k r)", "exp(i k r) / r")
    symmetric = False
    dtype = np.dtype(np.complex128)

    def __init__(self, wavenumber: float = 1.0, dim: int = 2, diagonal: complex | None = None) -> None:
        super().__init__(dim, None)
        self.wavenumber = _positive(wavenumber, "wavenumber")
        self.diagonal: Any = None if diagonal is None else _finite(diagonal, "diagonal", complex)

    @property
    def complex_symmetric(self) -> bool:
        """True: the matrix is equal to its transpose."""
        return True

    def _of_distance(self, r: Array) -> Array:
        phase = self.wavenumber * r
        if self.dim == 3 and not is_numpy(r):
            xp = namespace(r)
            return xp.astype(xp.cos(phase) / r, xp.complex128) + 1j * xp.astype(xp.sin(phase) / r, xp.complex128)
        values = np.empty(r.shape, dtype=np.complex128)
        if self.dim == 2:
            from scipy.special import j0, y0

            _require_numpy(r, "H_0")
            j0(phase, out=values.real)
            y0(phase, out=values.imag)
            return values
        # by the tangent t of half the phase, which NumPy has vectorised where it takes sines number by number:
        # cos = (1 - t^2) / (1 + t^2) and sin = 2 t / (1 + t^2), with errors of some units in the last place of 1
        phase *= 0.5
        t = np.tan(phase, out=phase)
        square = t * t
        r *= 1.0 + square
        np.divide(1.0, r, out=r)
        np.multiply(np.subtract(1.0, square, out=square), r, out=values.real)
        r *= 2.0
        np.multiply(t, r, out=values.imag)
        return values


def _require_numpy(r: Array, function: str) -> None:
    if not is_numpy(r):
        raise DeviceError(f"the Bessel function {function} of the 2-D form is SciPy's: evaluate it on the CPU")


def _dimension(dim: Any, forms: tuple[str, str]) -> int:
    if dim not in (2, 3):
        raise ValueError(f"dim must be 2 ({forms[0]}) or 3 ({forms[1]}), but it is {dim!r}")
    return int(dim)
