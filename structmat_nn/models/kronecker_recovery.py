"""Closed-form recovery in two dimensions as a baseline: a sum of Kronecker products, without gradient steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from structmat._check import positive_integer
from structmat.exceptions import ShapeError

from .fitted import FittedModel

if TYPE_CHECKING:
    from ..closed_form.kronecker import KroneckerFit


class KroneckerRecovery(FittedModel):
    """The sum of Kronecker products that maps the inputs to the outputs: `structmat_nn.fit_kronecker` as a model.

    The structure of equation (1) of Neural-HSS with dense factors, one layer and alternating least squares. Where the
    samples have few modes along each axis, it shows how little a data set asks of a model.

    Parameters
    ----------
    size : (int, int)
        Points of the grid along both axes.
    in_channels, out_channels : int
        One each.
    terms : int
        Number of Kronecker products.
    sweeps : int
        At most so many rounds of the fit.
    seed : int
        Of its start.

    Attributes
    ----------
    rows, columns : (terms, n, n) tensors
        The factors along both axes, in double precision.
    report : KroneckerFit or None
        What the last fit says of itself; not part of the state.

    Raises
    ------
    ShapeError
        When the grid does not have two dimensions or a field has more than one channel.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from structmat_nn.models import KroneckerRecovery
    >>> rng = np.random.default_rng(0)
    >>> inputs, a, b = rng.standard_normal((60, 8, 8)), rng.standard_normal((8, 8)), rng.standard_normal((8, 8))
    >>> model = KroneckerRecovery((8, 8), terms=1).fit(inputs, a @ inputs @ b.T)
    >>> unseen = torch.ones(8, 8, dtype=torch.float64)
    >>> bool(torch.allclose(model(unseen), torch.from_numpy(a @ np.ones((8, 8)) @ b.T)))
    True
    """

    fitted_buffers: ClassVar[tuple[str, ...]] = ("rows", "columns")
    rows: torch.Tensor
    columns: torch.Tensor

    def __init__(
        self,
        size: int | tuple[int, ...],
        *,
        in_channels: int = 1,
        out_channels: int = 1,
        terms: int = 8,
        sweeps: int = 100,
        seed: int = 0,
    ) -> None:
        super().__init__(size, in_channels=in_channels, out_channels=out_channels)
        if self.dimension != 2:
            raise ShapeError(
                f"Kronecker recovery works on grids of two dimensions, but size={self.size}; "
                "take ClosedFormRecovery in one dimension, LeastSquares or a model that is trained in more"
            )
        if (self.in_channels, self.out_channels) != (1, 1):
            raise ShapeError(
                f"Kronecker recovery maps one channel to one, but in_channels={self.in_channels} and "
                f"out_channels={self.out_channels}; fit one model for each pair of channels"
            )
        self.terms, self.sweeps = positive_integer(terms, "terms"), positive_integer(sweeps, "sweeps")
        self.seed = positive_integer(seed, "seed", minimum=0)
        self.report: KroneckerFit | None = None

    def fit(self, inputs: Any, outputs: Any) -> KroneckerRecovery:
        """Fit the factors to samples.

        Parameters
        ----------
        inputs, outputs : ``(samples, *size)`` arrays or tensors
            Pairs of the operator.

        Returns
        -------
        KroneckerRecovery
            This model.

        Warns
        -----
        IdentifiabilityWarning
            When the inputs do not span the fields: the operator is zero on what they leave out.
        """
        from ..closed_form.kronecker import fit_kronecker

        x, y = (samples.numpy().reshape(-1, *self.size) for samples in self._paired(inputs, outputs))
        self.report = fit_kronecker(x, y, terms=self.terms, sweeps=self.sweeps, rng=self.seed)
        rows, columns = self.report.operator.factors
        self.rows = torch.tensor(rows, device=self.rows.device)
        self.columns = torch.tensor(columns, device=self.columns.device)
        return self

    def _applied(self, x: torch.Tensor) -> torch.Tensor:
        fields = x.unflatten(1, self.size)
        return torch.einsum("kij,bjl,kml->bim", self.rows, fields, self.columns).flatten(1)
