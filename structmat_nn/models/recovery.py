"""Closed-form recovery as a baseline: the HSS operator that the samples determine, without gradient steps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from structmat.exceptions import ShapeError

from ..layers.hss import HSSLinear
from .fitted import FittedModel

if TYPE_CHECKING:
    from structmat import HSSMatrix

    from ..closed_form.identify import IdentifiabilityReport


class ClosedFormRecovery(FittedModel):
    """The HSS matrix that maps the inputs to the outputs, by block nullification: `structmat_nn.fit` as a model.

    It recovers an operator that has this structure to rounding from few random inputs, refuses samples that do not
    determine it, unless there is a prior, and its quality outside the span of the training inputs is that inside.

    Parameters
    ----------
    size : int
        Points of the grid. In one dimension only: the matrix of an operator on a grid of two dimensions or more has
        ranks that grow with the grid, so that recovery would need about as many samples as the grid has lines.
    in_channels, out_channels : int
        One each.
    **options
        What `structmat_nn.fit` takes: `leaf_size`, `rank`, `symmetric`, `noise`, `prior`, `sweeps`, `rng`.

    Attributes
    ----------
    report : IdentifiabilityReport or None
        What the samples of the last fit say of the operator; not part of the state.
    layer : HSSLinear or None
        The operator, in double precision, without gradients.

    Raises
    ------
    ShapeError
        When the grid has more than one dimension or a field more than one channel.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from structmat_nn.models import ClosedFormRecovery
    >>> x = np.arange(1, 129) / 129
    >>> green = np.minimum.outer(x, x) * (1 - np.maximum.outer(x, x))  # of -u'' = f with u(0) = u(1) = 0
    >>> inputs = np.random.default_rng(0).standard_normal((12, 128))
    >>> model = ClosedFormRecovery(128, rank=2).fit(inputs, inputs @ green)
    >>> unseen = torch.ones(128, dtype=torch.float64)
    >>> bool(torch.allclose(model(unseen), torch.from_numpy(green) @ unseen, rtol=1e-10))
    True
    """

    layer: HSSLinear | None
    ranks: torch.Tensor

    def __init__(
        self, size: int | tuple[int, ...], *, in_channels: int = 1, out_channels: int = 1, **options: Any
    ) -> None:
        super().__init__(size, in_channels=in_channels, out_channels=out_channels)
        if self.dimension > 1:
            raise ShapeError(
                f"closed-form recovery works on grids of one dimension, but size={self.size}: in more, the "
                "off-diagonal blocks of an operator have ranks that grow with the grid, and recovery needs more "
                "samples than these; take LeastSquares, or a model that is trained"
            )
        if (self.in_channels, self.out_channels) != (1, 1):
            raise ShapeError(
                f"closed-form recovery maps one channel to one, but in_channels={self.in_channels} and "
                f"out_channels={self.out_channels}; fit one model for each pair of channels"
            )
        self.options = options
        self.report: IdentifiabilityReport | None = None
        self.layer = None
        self.register_buffer("ranks", torch.zeros(2, 0, dtype=torch.int64))  # (2, levels), of rows and of columns

    @property
    def fitted(self) -> bool:
        """Whether there is something to apply."""
        return self.layer is not None

    def fit(
        self, inputs: Any, outputs: Any, *, adjoint_inputs: Any = None, adjoint_outputs: Any = None
    ) -> ClosedFormRecovery:
        """Recover the operator from samples.

        Parameters
        ----------
        inputs, outputs : (samples, points) arrays or tensors
            Pairs of the operator.
        adjoint_inputs, adjoint_outputs : (samples', points) arrays or tensors, optional
            Pairs of its transpose, which an operator that is not symmetric needs.

        Returns
        -------
        ClosedFormRecovery
            This model.

        Raises
        ------
        TooFewSamplesError
            When the samples do not determine the operator and `prior` is not given.
        """
        from ..closed_form.fit import fit

        x, y = self._paired(inputs, outputs)
        result = fit(
            x.numpy(), y.numpy(), adjoint_inputs=adjoint_inputs, adjoint_outputs=adjoint_outputs, **self.options
        )
        self.report = result.report
        layer = HSSLinear.from_matrix(result.matrix, dtype=torch.float64).requires_grad_(False)
        structure = layer.structure
        self.ranks = torch.tensor([structure.row_ranks, structure.col_ranks], device=self.ranks.device)
        self.layer = layer.to(self.ranks.device)
        return self

    def to_matrix(self) -> HSSMatrix:
        """The operator as a matrix that multiplies, truncates, factors and solves."""
        if self.layer is None:
            raise RuntimeError("this ClosedFormRecovery holds no operator yet; call fit(inputs, outputs)")
        return self.layer.to_matrix()

    def _applied(self, x: torch.Tensor) -> torch.Tensor:
        if self.layer is None:
            raise RuntimeError("this ClosedFormRecovery holds no operator yet; call fit(inputs, outputs)")
        return self.layer(x)

    def _precision(self) -> torch.dtype:
        return torch.float64 if self.layer is None else next(self.layer.parameters()).dtype

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        """Build a layer of the structure that the state has; its generators are loaded after this."""
        ranks = state_dict.get(prefix + "ranks")
        if ranks is not None and any(key.startswith(f"{prefix}layer.") for key in state_dict):
            self.ranks = torch.empty_like(ranks, device=self.ranks.device)
            rows, columns = ranks.tolist()
            self.layer = HSSLinear(
                self.points, self.points, rank=rows, column_rank=columns, levels=len(rows), dtype=torch.float64,
                device=self.ranks.device,
            ).requires_grad_(False)  # fmt: skip
        super()._load_from_state_dict(state_dict, prefix, *args)
