"""What recorded pairs say of an operator, and what they leave open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.fft

from structmat import NonFiniteError, ShapeError, StructureWarning, _check
from structmat._typing import IntArray, NumpyArray

__all__ = ["IdentifiabilityReport", "IdentifiabilityWarning", "Observations"]

# inputs whose singular values span more than this many digits leave nothing of the outputs' digits
DEPENDENT = 1e-10
# amplitude, relative to the largest, below which a mode is rounding; and share of such modes that cannot be borne
UNEXCITED = 1e-10
BEARABLE = 0.1
# a gap between F^H U and its adjoint that noise alone leaves, in units of the relative noise (1.4 on average)
SYMMETRY_MARGIN = 4.0
SYMMETRY_ROUNDING = 1e-9
# multiples of the machine epsilon that samples computed in single precision are off by
SINGLE_MARGIN = 4.0
# entries beyond this, and below its inverse, are not squared
LARGEST = 1e140


class IdentifiabilityWarning(StructureWarning):
    """The samples leave part of the operator open; a prior has filled it in."""


@dataclass(frozen=True)
class Observations:
    """Recorded pairs, one a column, in float64 or complex128.

    Attributes
    ----------
    inputs, outputs : (n, s) and (m, s) arrays
        outputs = A @ inputs + noise.
    adjoint_inputs, adjoint_outputs : (m, s') and (n, s') arrays, or None
        adjoint_outputs = A^H @ adjoint_inputs + noise.
    """

    inputs: NumpyArray  # (n, s)
    outputs: NumpyArray  # (m, s)
    adjoint_inputs: NumpyArray | None = None  # (m, s')
    adjoint_outputs: NumpyArray | None = None  # (n, s')

    @classmethod
    def of(cls, inputs: Any, outputs: Any, adjoint_inputs: Any = None, adjoint_outputs: Any = None) -> Observations:
        """Check samples given one a row, and turn them into columns."""
        f, u = _columns(inputs, "inputs"), _columns(outputs, "outputs")
        _same_count(f, u, "inputs", "outputs")
        if (adjoint_inputs is None) != (adjoint_outputs is None):
            raise TypeError("adjoint_inputs and adjoint_outputs are given together or not at all")
        if adjoint_inputs is None:
            return cls(f, u)
        g, w = _columns(adjoint_inputs, "adjoint_inputs"), _columns(adjoint_outputs, "adjoint_outputs")
        _same_count(g, w, "adjoint_inputs", "adjoint_outputs")
        if len(g) != len(u) or len(w) != len(f):
            raise ShapeError(
                f"adjoint_inputs must be (samples, {len(u)}) like the outputs and adjoint_outputs (samples, {len(f)}) "
                f"like the inputs, but their shapes are {g.T.shape} and {w.T.shape}"
            )
        return cls(f, u, g, w)

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n), of the operator."""
        return len(self.outputs), len(self.inputs)

    @property
    def count(self) -> int:
        """Number of samples, of the side with fewer of them."""
        return self.inputs.shape[1] if self.adjoint_inputs is None else self.fewest

    @property
    def fewest(self) -> int:
        """The smaller number of samples of both sides."""
        assert self.adjoint_inputs is not None
        return min(self.inputs.shape[1], self.adjoint_inputs.shape[1])

    def without(self, held: NumpyArray) -> Observations:
        """The observations without the samples at the positions `held`."""
        f, u = (np.delete(a, held, axis=1) for a in (self.inputs, self.outputs))
        return Observations(f, u, self.adjoint_inputs, self.adjoint_outputs)


def rounding_of(*samples: Any) -> float:
    """The relative noise that samples in single precision have by themselves; 0 for those in double."""
    return SINGLE_MARGIN * float(np.finfo(np.float32).eps) if any(_is_single(a) for a in samples) else 0.0


def _is_single(a: Any) -> bool:
    return str(getattr(a, "dtype", "")).split(".")[-1] in ("float32", "complex64")


def _columns(a: Any, name: str) -> NumpyArray:
    if hasattr(a, "detach"):  # a tensor, wherever it is and whatever it remembers
        a = a.detach().cpu().numpy()
    array = _check.matrix(a, name)
    largest = float(np.abs(array).max())
    if largest > 0.0 and not 1.0 / LARGEST < largest < LARGEST:
        raise NonFiniteError(
            f"the largest entry of {name} is {largest:.1e}, and squares of such numbers are none; multiply by a power "
            "of 2, and the operator by its inverse"
        )
    return np.ascontiguousarray(array.T, dtype=np.complex128 if array.dtype.kind == "c" else np.float64)


def _same_count(a: NumpyArray, b: NumpyArray, name: str, other: str) -> None:
    if a.shape[1] != b.shape[1]:
        raise ShapeError(
            f"{name} has {a.shape[1]} samples, but {other} has {b.shape[1]} (shapes {a.T.shape} and {b.T.shape}); "
            "both hold one sample a row"
        )


@dataclass(frozen=True)
class IdentifiabilityReport:
    """How well recorded samples determine the operator that was fitted to them.

    Attributes
    ----------
    route : {"closed form", "least squares", "alternating"}
        Block nullification of random samples; plain least squares, of samples that span everything; or alternating
        least squares with a prior, which fills in what the samples leave open.
    identified : bool
        Whether the samples alone determine the operator.
    samples, adjoint_samples : int
        How many there were.
    needed, missing : int
        How many of each side block nullification needs on this tree with this rank, and how many more.
    leaf_size, rank : int
        Of the tree, and the largest rank that was allowed.
    weakest : float
        Smallest singular value of the inputs of any cluster, relative to its largest; about 0 where inputs do not span.
    dimension : int
        Of the span of all inputs.
    outside : float
        Share of the energy of a white-noise input that is outside that span. Unless `identified`, nothing that the
        samples say concerns it.
    symmetric, symmetry_gap : bool, float
        Whether the operator was taken for Hermitian, and by how much the samples contradict it (relative).
    noise : float
        Noise on the outputs, relative to them: as given, or estimated.
    residual : float
        Relative residual on the samples of the fit.
    held_out : float or None
        The same on samples that were held out while rank, leaf size and noise were chosen.
    white_noise_error : float or None
        Estimate of the relative error on white-noise inputs; None where the samples cannot say.
    advice : tuple of str
        What more would help.
    """

    route: str
    identified: bool
    samples: int
    adjoint_samples: int
    needed: int
    missing: int
    leaf_size: int
    rank: int
    weakest: float
    dimension: int
    outside: float
    symmetric: bool
    symmetry_gap: float
    noise: float = 0.0
    residual: float = 0.0
    held_out: float | None = None
    white_noise_error: float | None = None
    advice: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        error = "unknown" if self.white_noise_error is None else f"about {self.white_noise_error:.1e}"
        lines = [
            f"route              {self.route}{'' if self.identified else ' (the samples leave part of it open)'}",
            f"samples            {self.samples} and {self.adjoint_samples} of the adjoint; needed {self.needed}",
            f"tree               leaves of {self.leaf_size}, rank {self.rank}, symmetric: {self.symmetric}",
            f"inputs             span {self.dimension} dimensions; {self.outside:.0%} of white noise is outside",
            f"noise              {self.noise:.1e} of the outputs",
            f"residual           {self.residual:.1e}"
            + ("" if self.held_out is None else f"; {self.held_out:.1e} on held-out samples"),
            f"white-noise error  {error}",
        ]
        return "\n".join([*lines, *(f"advice             {line}" for line in self.advice)])


def samples_needed(leaf_size: int, rank: int, depth: int) -> int:
    """Samples of each side without which block nullification cannot work.

    Every node needs as many as it has inputs (a leaf its size, an inner node twice the rank) and the rank more.
    """
    rank = min(rank, leaf_size)
    if depth == 0:
        return leaf_size
    return max(leaf_size, 2 * rank if depth > 1 else 0) + rank


def span_dimension(inputs: NumpyArray) -> int:
    """Number of singular values of the inputs (n, s) that are not rounding."""
    values = np.linalg.svd(_small_factor(inputs), compute_uv=False)
    return int((values > DEPENDENT * values[0]).sum()) if values[0] > 0 else 0


def unexcited_share(inputs: NumpyArray, order: IntArray) -> float:
    """Share of the cosine modes, along the indices in this order, of which the inputs (n, s) have nothing.

    Odd and even functions leave out half of them. A simpler operator may then agree with the true one on all that was
    recorded, so no residual and no stability shows what is missing.
    """
    modes = scipy.fft.dct(inputs[order].real, axis=0, norm="ortho")
    if np.iscomplexobj(inputs):
        modes = np.hstack([modes, scipy.fft.dct(inputs[order].imag, axis=0, norm="ortho")])
    size = np.linalg.norm(modes, axis=1)
    return float((size <= UNEXCITED * size.max()).mean())


def _small_factor(a: NumpyArray) -> NumpyArray:
    tall = a if a.shape[0] >= a.shape[1] else a.T
    return np.asarray(np.linalg.qr(tall, mode="r"))


def symmetry_gap(observed: Observations) -> float:
    """How far F^H U is from Hermitian: about 1.4 times the relative noise for white inputs of a Hermitian operator."""
    f, u = observed.inputs, observed.outputs
    form = f.conj().T @ u
    size = float(np.linalg.norm(f) * np.linalg.norm(u)) / np.sqrt(len(f))
    return float(np.linalg.norm(form - form.conj().T)) / size if size > 0 else 0.0


def allowed_gap(noise: float) -> float:
    """The largest gap that noise of this relative size explains."""
    return max(SYMMETRY_ROUNDING, SYMMETRY_MARGIN * noise)
