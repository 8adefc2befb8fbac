"""Fourier neural operator: Z. Li et al., ICLR 2021, as the library neuraloperator builds it."""

from __future__ import annotations

import warnings
from typing import Any, ClassVar

import torch

from structmat._check import positive_integer
from structmat.exceptions import MissingLibraryError

from .. import _check
from .base import GridModel, seeded


class FNO(GridModel):
    """Fourier neural operator, by the library `neuraloperator`.

    Parameters
    ----------
    size : int or tuple of int
        Points of the grid along each axis.
    in_channels, out_channels : int
        Fields in and out.
    n_modes : int or tuple of int
        Fourier modes that a layer keeps along each axis, counted as neuraloperator does: both signs of the frequency
        together. Along the last axis, which holds half of the spectrum, ``n_modes // 2 + 1`` coefficients remain. So
        12 modes of the original code, which counts frequencies from 0, are 24 here.
    hidden_channels : int
        Channels inside.
    n_layers : int
        Fourier layers.
    seed : int, optional
        Of the first weights.
    device : optional
        Default: the CPU.
    **options
        Whatever else `neuralop.models.FNO` takes; by default the coordinates are appended to the input, and each layer
        has a channel perceptron.

    Raises
    ------
    MissingLibraryError
        When neuraloperator is not installed: ``pip install "structmat[experiments]"``.

    Notes
    -----
    Single precision only: neuraloperator holds spectra in complex64 whatever the input. Some parameters are complex;
    ``sum(p.numel())`` counts them once, `structmat_nn.models.count_parameters` counts their two real numbers.

    At the settings of table 3 of the Neural-HSS paper (6 layers, width 32, 12 modes; said to have 102K for one data set
    and 150K for another) ``n_modes=24`` holds 177,153 real numbers, and ``n_modes=12`` 103,425. At those of table 5
    (4 layers, width 16, 8 modes, 132K) ``n_modes=(8, 8)`` holds 85,425 and ``n_modes=(16, 16)`` 298,417. At those of
    table 7 (4 layers, width 32, 32 modes, 2.1M) ``n_modes=(32, 32)`` holds 4,469,601 in 2,241,377 entries.

    References
    ----------
    Z. Li, N. Kovachki, K. Azizzadenesheli, B. Liu, K. Bhattacharya, A. Stuart, A. Anandkumar, Fourier neural operator
    for parametric partial differential equations, ICLR 2021.

    Examples
    --------
    >>> import torch
    >>> from structmat_nn.models import FNO, count_parameters
    >>> model = FNO(256, n_modes=24, hidden_channels=32, n_layers=6, seed=0)
    >>> model(torch.ones(5, 256)).shape
    torch.Size([5, 256])
    >>> count_parameters(model)
    177153
    """

    single_precision_only: ClassVar[bool] = True

    def __init__(
        self, size: int | tuple[int, ...], *, in_channels: int = 1, out_channels: int = 1,
        n_modes: int | tuple[int, ...] = 24, hidden_channels: int = 32, n_layers: int = 6, seed: int | None = None,
        dtype: torch.dtype | None = None, device: Any = None, **options: Any,
    ) -> None:  # fmt: skip
        super().__init__(size, in_channels=in_channels, out_channels=out_channels)
        modes = _check.per_axis(n_modes, self.dimension, "n_modes")
        if any(kept > points for kept, points in zip(modes, self.size, strict=True)):
            raise ValueError(f"n_modes={modes} is more than the grid of size={self.size} has; keep fewer modes")
        if dtype not in (None, torch.float32):
            raise TypeError(f"dtype must be torch.float32: neuraloperator holds spectra in complex64, not for {dtype}")
        network = _library_class()
        with seeded(seed):
            self.network = network(
                n_modes=modes, in_channels=self.in_channels, out_channels=self.out_channels,
                hidden_channels=positive_integer(hidden_channels, "hidden_channels"),
                n_layers=positive_integer(n_layers, "n_layers"), **options,
            )  # fmt: skip
        self.register_state_dict_post_hook(_without_metadata)
        self.to(device=device)

    def _transform(self, fields: torch.Tensor) -> torch.Tensor:
        return self.network(fields)

    def _check_dtype(self, x: torch.Tensor) -> None:
        converted = {p.dtype for p in self.parameters()} - {torch.float32, torch.complex64}
        if converted:
            raise TypeError(
                f"this FNO was converted to {converted.pop()}, but neuraloperator computes in torch.float32 only; "
                "build it anew and load the weights, in single precision"
            )
        _check.same_dtype(x, torch.float32, "FNO")


def _library_class() -> type[torch.nn.Module]:
    try:
        with warnings.catch_warnings():  # the import puts filters of its own in front of the user's
            from neuralop.models import FNO as LibraryFNO
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "neuralop":
            raise  # it is there, but something that it needs is not: its own message says what
        raise MissingLibraryError('FNO needs neuraloperator: pip install "structmat[experiments]"') from error
    return LibraryFNO


def _without_metadata(module: torch.nn.Module, state: dict[str, Any], prefix: str, local_metadata: Any) -> None:
    """Drop the entry that the library adds: it is no tensor, so it could not be saved without pickle."""
    state.pop("_metadata", None)
