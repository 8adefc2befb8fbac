"""Pairs of inputs and outputs, the data set that holds them, and the recipe that a data set is made by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from structmat import ShapeError
from structmat._check import finite, generator, plain_array, positive_integer
from structmat._typing import NumpyArray, RandomLike

__all__ = ["TEST_SETS", "DataSet", "Pairs", "Recipe"]

TEST_SETS = ("in span", "white noise", "out of span")
"""The test sets that every data set has: the law of the published training inputs, and two that it does not contain."""

Size = tuple[int, ...]
Settings = Mapping[str, Any]
Parts = Mapping[str, Mapping[str, NumpyArray]]  # part ("train", "validation" or a test set) -> array name -> array


@dataclass(frozen=True)
class Pairs:
    """Inputs of an operator and what it makes of them.

    Parameters
    ----------
    inputs, outputs : ndarray of shape ``(samples, [channels,] *size)``
        Real and finite; one row of `outputs` for each row of `inputs`. The arrays are kept as they are given, not
        copied.

    Raises
    ------
    ShapeError
        If the numbers of samples differ, or an array has no sample or no axis beside the samples.
    NonFiniteError
        If an array holds NaN or Inf.

    Examples
    --------
    >>> import numpy as np
    >>> from structmat_nn.data import Pairs
    >>> pairs = Pairs(np.ones((5, 16)), np.zeros((5, 16)))
    >>> len(pairs), pairs.take(2).inputs.shape
    (5, (2, 16))
    """

    inputs: NumpyArray
    outputs: NumpyArray

    def __post_init__(self) -> None:
        for name in ("inputs", "outputs"):
            object.__setattr__(self, name, _samples(getattr(self, name), name))
        if len(self.inputs) != len(self.outputs):
            raise ShapeError(
                f"inputs has {len(self.inputs)} samples, but outputs has {len(self.outputs)} "
                f"(shapes {self.inputs.shape} and {self.outputs.shape}); give one output for each input"
            )

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, count: int) -> Pairs:
        """The first `count` pairs, as views.

        Parameters
        ----------
        count : int
            From 1 to the number of pairs.
        """
        return self[: _count(count, len(self), "count")]

    def split(self, count: int) -> tuple[Pairs, Pairs]:
        """The first `count` pairs and the others, as views; both parts hold at least one pair.

        Parameters
        ----------
        count : int
            From 1 to the number of pairs minus one.
        """
        if len(self) == 1:
            raise ValueError("one pair cannot be split in two; split at least 2 pairs")
        count = _count(count, len(self) - 1, "count")
        return self[:count], self[count:]

    def __getitem__(self, index: slice | NumpyArray) -> Pairs:
        return Pairs(self.inputs[index], self.outputs[index])


@dataclass(frozen=True)
class DataSet:
    """Samples of one operator: for training, for choosing among models, and for the final tests.

    Parameters
    ----------
    name : str
        What `structmat_nn.data.load` knows it by.
    train, validation : Pairs
        Drawn from the same law with different seeds.
    tests : dict of str to Pairs
        ``"in span"`` (the law of the published training inputs), ``"white noise"`` and ``"out of span"`` (other modes
        and Gaussian random fields in turns). Recorded data have the first only: nobody can solve for other inputs.
    grid : tuple of 1-D ndarrays
        The coordinates of the points, one array for each axis of the size.
    settings : dict
        What the samples were made with, in the terms of JSON.
    trajectories : ndarray of shape ``(samples, times, [channels,] *size)``, optional
        Trajectories of the law of the test set ``"in span"``, one step of the operator apart, for roll-outs.
    mask : ndarray of bool of shape size, optional
        True at the points of the domain; errors are measured there.
    channels : tuple of int
        Channels of inputs and outputs. One channel has no axis of its own.
    symmetric : bool, optional
        Whether the operator on this grid equals its transpose to rounding. None says that it is not linear.
    adjoint : Pairs, optional
        Samples of the transposed operator, for linear operators that are not symmetric.

    Raises
    ------
    ShapeError
        If pairs do not have the shape that `grid` and `channels` ask for, or the test set ``"in span"`` is missing.

    Notes
    -----
    The white-noise set belongs to the solution operator *on the training grid*: a white input that is thinned out
    from a finer grid does not determine its output, so no model could learn that map.

    Examples
    --------
    >>> from structmat_nn import data
    >>> dataset = data.load("poisson1d", samples=20, cache=False)
    >>> dataset.train.inputs.shape, sorted(dataset.tests)
    ((20, 256), ['in span', 'out of span', 'white noise'])
    >>> len(dataset.take(5).train), len(dataset.take(5).validation)
    (5, 20)
    """

    name: str
    train: Pairs
    validation: Pairs
    tests: dict[str, Pairs]
    grid: tuple[NumpyArray, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    trajectories: NumpyArray | None = None
    mask: NumpyArray | None = None
    channels: tuple[int, int] = (1, 1)
    symmetric: bool | None = None
    adjoint: Pairs | None = None

    def __post_init__(self) -> None:
        if "in span" not in self.tests:
            raise ShapeError(
                f"tests has no 'in span' (it has {', '.join(self.tests) or 'none'}); "
                f"a data set has the test sets {', '.join(TEST_SETS)}, recorded data at least the first"
            )
        parts = {"train": self.train, "validation": self.validation, **self.tests}
        if self.adjoint is not None:
            parts["adjoint"] = Pairs(self.adjoint.outputs, self.adjoint.inputs)  # the transpose maps outputs to inputs
        for part, pairs in parts.items():
            for which, channels in zip(("inputs", "outputs"), self.channels, strict=True):
                expected = self.size if channels == 1 else (channels, *self.size)
                found = getattr(pairs, which).shape[1:]
                if found != expected:
                    raise ShapeError(
                        f"{which} of {part!r} have samples of shape {found}, but the grid has size {self.size} and "
                        f"there are {channels} channels: expected {expected}"
                    )
        if self.mask is not None and self.mask.shape != self.size:
            raise ShapeError(f"mask has shape {self.mask.shape}, but the grid has size {self.size}")

    @classmethod
    def from_pairs(
        cls, inputs: Any, outputs: Any, *, validation: float = 0.1, test: float = 0.1,
        channels: tuple[int, int] = (1, 1), grid: tuple[NumpyArray, ...] | None = None, name: str = "pairs",
        rng: RandomLike = 0,
    ) -> DataSet:  # fmt: skip
        """A data set of recorded pairs: shuffled, and divided into those for training, validation and tests.

        Parameters
        ----------
        inputs, outputs : arrays or tensors of shape ``(samples, [channels,] *size)``
            One row of `outputs` for each row of `inputs`; at least 3 pairs.
        validation, test : int or float
            How many pairs (an integer), or which share of them (below 1); at least one each.
        channels : tuple of int
            Channels of inputs and outputs. One channel has no axis of its own.
        grid : tuple of 1-D ndarrays, optional
            Default: the midpoints of equal cells of the unit interval along each axis.
        name : str
            For messages and results.
        rng : seed, numpy.random.Generator or None
            For the order. None keeps it: the first pairs are for training and the last for tests, as snapshots of one
            trajectory, which resemble their neighbours, want it.

        Returns
        -------
        DataSet
            With the test set ``"in span"`` alone: nobody can solve for other inputs.

        Raises
        ------
        ShapeError
            If the shapes do not fit together, or there are too few pairs.

        Examples
        --------
        >>> import numpy as np
        >>> from structmat_nn.data import DataSet
        >>> f = np.random.default_rng(0).standard_normal((120, 32))
        >>> own = DataSet.from_pairs(f, np.cumsum(f, axis=1) / 32, validation=20, test=0.25)
        >>> len(own.train), len(own.validation), len(own.tests["in span"]), own.size
        (70, 20, 30, (32,))
        """
        pairs = Pairs(inputs, outputs)
        count = len(pairs)
        parts = [_part(validation, count, "validation"), _part(test, count, "test")]
        if count <= sum(parts):
            raise ShapeError(
                f"{count} pairs leave none for training beside {parts[0]} for validation and {parts[1]} for tests; "
                "give more pairs, or smaller validation= and test="
            )
        if rng is not None:
            pairs = pairs[generator(rng).permutation(count)]
        train, rest = pairs.split(count - sum(parts))
        chosen, final = rest.split(parts[0])
        if grid is None:
            size = pairs.inputs.shape[1 if channels[0] == 1 else 2 :]
            grid = tuple((np.arange(n) + 0.5) / n for n in size)
        return cls(name, train, chosen, {"in span": final}, grid, channels=channels)

    @property
    def size(self) -> Size:
        """The number of points on each axis."""
        return tuple(len(axis) for axis in self.grid)

    def take(self, count: int) -> DataSet:
        """The same data set with the first `count` training pairs, and at most as many adjoint pairs.

        Validation and tests stay as they are.

        Parameters
        ----------
        count : int
            From 1 to the number of training pairs.
        """
        adjoint = self.adjoint
        if adjoint is not None:  # what a model may learn from shrinks as a whole
            adjoint = adjoint.take(min(positive_integer(count, "count"), len(adjoint)))
        return replace(self, train=self.train.take(count), adjoint=adjoint)

    def split(self, count: int) -> tuple[DataSet, DataSet]:
        """Two data sets with the first `count` training pairs and with the others; validation and tests are shared.

        Parameters
        ----------
        count : int
            From 1 to the number of training pairs minus one.
        """
        first, second = self.train.split(count)
        return replace(self, train=first), replace(self, train=second)


@dataclass(frozen=True)
class Recipe:
    """How a data set is made: what `structmat_nn.data.load` needs to know about it.

    Samples are made in chunks. Each chunk has a seed of its own, which depends on the seed of the data set, its name,
    the part and the number of the chunk, so that an interrupted run continues with the next chunk.

    Parameters
    ----------
    name, equation : str
        The name in the registry, and one line that says what is solved.
    generate : callable
        ``generate(part, count, rng, size, settings) -> dict`` of arrays with `count` rows; `part` is ``"train"``,
        ``"validation"`` or the name of a test set. Must draw all random numbers from `rng`.
    assemble : callable
        ``assemble(name, parts, size, settings) -> DataSet`` from the arrays of all parts.
    size : tuple of int
        The grid unless another is asked for.
    samples : mapping of str to int
        Samples of each part unless another number is asked for. Its keys are the parts.
    settings : mapping
        All settings with their defaults, in the terms of JSON.
    check : callable, optional
        ``check(size, settings)`` raises where settings make no sense, before anything is computed.
    version : int
        To be raised whenever the same seed gives other numbers: files of older versions are then left alone.
    chunk : int
        Samples that are made and stored at once.
    outside : tuple of str
        Settings that the stored samples do not depend on, but for rounding: where they are computed, and what
        `assemble` makes of them. They are not part of the hash in the cache.
    """

    name: str
    equation: str
    generate: Callable[[str, int, np.random.Generator, Size, Settings], dict[str, NumpyArray]]
    assemble: Callable[[str, Parts, Size, Settings], DataSet]
    size: Size
    samples: Mapping[str, int]
    settings: Mapping[str, Any] = field(default_factory=dict)
    check: Callable[[Size, Settings], None] | None = None
    version: int = 1
    chunk: int = 256
    outside: tuple[str, ...] = ()


def _part(asked: Any, count: int, name: str) -> int:
    """How many of so many pairs: a number, or a share of them."""
    if isinstance(asked, float) and 0.0 < asked < 1.0:
        return max(1, round(asked * count))
    if isinstance(asked, float):
        raise ValueError(f"{name} must be a number of pairs or a share between 0 and 1, but it is {asked!r}")
    return positive_integer(asked, name)


def _samples(values: Any, name: str) -> NumpyArray:
    if hasattr(values, "detach"):  # a tensor, wherever it is and whatever it remembers
        values = values.detach().cpu()
    array = np.asarray(plain_array(values, name))
    if array.dtype.kind not in "biuf":
        raise TypeError(f"{name} must be real numbers, but its dtype is {array.dtype}")
    if array.dtype not in (np.float32, np.float64):
        array = array.astype(np.float64)
    if array.ndim < 2 or array.size == 0:
        raise ShapeError(f"{name} must have shape (samples, *size) and hold a number, but its shape is {array.shape}")
    finite(array, name)
    return array


def _count(count: int, largest: int, name: str) -> int:
    count = positive_integer(count, name)
    if count > largest:
        raise ValueError(f"{name} must be at most {largest}, but it is {count}")
    return count
