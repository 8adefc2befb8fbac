"""LearnableLeakyReLU: the activation of Neural-HSS."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .route import bound_by_launches

__all__ = ["LearnableLeakyReLU"]


class LearnableLeakyReLU(nn.Module):
    """x for x >= 0, slope * x below, with one trainable slope.

    Parameters
    ----------
    slope : float
        At the start. 1 is the identity, right for linear problems.
    device, dtype : optional
        Of the slope.

    Notes
    -----
    `parameter_groups` keeps slopes out of the weight decay, which would drive them to 0.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn import LearnableLeakyReLU
    >>> LearnableLeakyReLU(0.5)(torch.tensor([-2.0, 3.0])).tolist()
    [-1.0, 3.0]
    """

    def __init__(self, slope: float = 1.0, *, device: Any = None, dtype: torch.dtype | None = None) -> None:
        super().__init__()
        self.initial_slope = float(slope)
        self.slope = nn.Parameter(torch.empty(1, device=device, dtype=dtype))
        self.reset_parameters()

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the slope to its value at the start."""
        self.slope.fill_(self.initial_slope)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation entrywise, to any shape."""
        if bound_by_launches(x):
            return nn.functional.prelu(x, self.slope.to(x.dtype))
        # the same function as torch's prelu, whose backward takes twice as long on a CPU
        return torch.lerp(torch.relu(x), x, self.slope.squeeze(0).to(x.dtype))

    def penalty(self) -> Tensor:
        """(slope - 1)^2, a scalar: the distance to a linear model."""
        return (self.slope - 1.0).square().sum()

    def extra_repr(self) -> str:
        """The slope at the start, for `print`."""
        return f"slope={self.initial_slope}"
