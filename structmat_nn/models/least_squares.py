"""The trivial baseline: minimum-norm linear least squares of the outputs on the inputs."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from structmat import _check as values

from .fitted import FittedModel


class LeastSquares(FittedModel):
    """The linear map of smallest norm that fits all samples: W = argmin ||X W - Y||, in double precision.

    What any other model has to be better than. It knows nothing of the grid, so it predicts well what the training
    inputs span and maps everything orthogonal to them to zero.

    Parameters
    ----------
    size : int or tuple of int
        Points of the grid along each axis.
    in_channels, out_channels : int
        Fields in and out.
    ridge : float
        Tikhonov parameter, relative to the largest singular value of the inputs: for noisy samples.

    Attributes
    ----------
    functionals : (rank, in_channels * points) tensor
        What is measured of an input.
    responses : (rank, out_channels * points) tensor
        What is made of a unit of each measurement.

    Notes
    -----
    The map is held by its two factors, whose number is at most that of the samples, never as a matrix between grid
    points; so any size and dimension works. Singular values below rounding (``eps * max(samples, points)`` of the
    largest) are left out. Cost of the fit, of s samples at n points: O(s n min(s, n)), of a product O(rank n).

    Examples
    --------
    >>> import torch
    >>> from structmat_nn.models import LeastSquares
    >>> inputs = torch.randn(20, 64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    >>> model = LeastSquares(64).fit(inputs, 2 * inputs)
    >>> bool((model(inputs[:3]) - 2 * inputs[:3]).abs().max() < 1e-12)
    True
    """

    fitted_buffers: ClassVar[tuple[str, ...]] = ("functionals", "responses")
    functionals: torch.Tensor
    responses: torch.Tensor

    def __init__(
        self, size: int | tuple[int, ...], *, in_channels: int = 1, out_channels: int = 1, ridge: float = 0.0
    ) -> None:
        super().__init__(size, in_channels=in_channels, out_channels=out_channels)
        self.ridge = values.tolerance(ridge, "ridge")

    def fit(self, inputs: Any, outputs: Any) -> LeastSquares:
        """Compute the map from samples.

        Parameters
        ----------
        inputs, outputs : array or tensor
            Pairs, one a row: ``(samples, [in_channels,] *size)`` and ``(samples, [out_channels,] *size)``.

        Returns
        -------
        LeastSquares
            This model.
        """
        x, y = self._paired(inputs, outputs)
        left, singular, right = torch.linalg.svd(x, full_matrices=False)
        kept = singular > torch.finfo(x.dtype).eps * max(x.shape) * singular[0]
        if not kept.any():
            raise ValueError("inputs are all zero, so nothing can be learned from them")
        left, singular, right = left[:, kept], singular[kept], right[kept]
        filtered = singular / (singular**2 + (self.ridge * singular[0]) ** 2)
        self.functionals = (filtered[:, None] * right).to(self.functionals)
        self.responses = (left.T @ y).to(self.responses)
        return self

    def _applied(self, x: torch.Tensor) -> torch.Tensor:
        return (x @ self.functionals.T) @ self.responses
