"""LearnedOperator: a model together with the units of its data, as one object that predicts, steps and is stored."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from structmat import FileFormatError, ShapeError
from structmat._check import finite, positive_integer
from structmat._typing import NumpyArray

from ..data.normalise import NORMALISERS, Normaliser

_FORMAT = "structmat_nn.LearnedOperator"
_VERSION = 1


class LearnedOperator(nn.Module):
    """A model, the normalisers of its inputs and outputs, and the choice between states and increments.

    Parameters
    ----------
    model : nn.Module
        From normalised inputs to normalised outputs.
    input_normaliser, output_normaliser : Normaliser, optional
        From physical units to those of the model. None leaves the units as they are.
    residual : bool, default False
        The model gives the increment from input to output.
    specification : dict, optional
        What `structmat_nn.models.create` takes to build such a model: ``{"name": .., "size": .., "in_channels": ..,
        "out_channels": .., "options": {..}}``. Needed by `save` only.

    Examples
    --------
    >>> import numpy as np
    >>> import torch
    >>> from structmat_nn.training import LearnedOperator
    >>> operator = LearnedOperator(torch.nn.Identity(), residual=True)
    >>> operator.predict(np.ones((3, 8))).sum().item()
    48.0
    >>> operator.rollout(np.ones((3, 8)), steps=4)[0, :, 0]
    array([ 2.,  4.,  8., 16.])
    """

    def __init__(
        self,
        model: nn.Module,
        input_normaliser: Normaliser | None = None,
        output_normaliser: Normaliser | None = None,
        *,
        residual: bool = False,
        specification: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.model = model
        self.input_normaliser = input_normaliser
        self.output_normaliser = output_normaliser
        self.residual = bool(residual)
        self.specification = None if specification is None else dict(specification)

    def forward(self, x: Tensor) -> Tensor:
        """Map inputs to outputs, both ``(samples, [channels,] *size)`` in physical units."""
        normalised = x if self.input_normaliser is None else self.input_normaliser.normalise(x)
        y = self.model(normalised)
        y = y if self.output_normaliser is None else self.output_normaliser.restore(y)
        return x + y if self.residual else y

    @property
    def dtype(self) -> torch.dtype:
        """The precision that the parameters have; that of torch where there are none."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        inexact = (t.dtype for t in tensors if t.is_floating_point() or t.is_complex())
        return next(inexact, torch.get_default_dtype()).to_real()

    @property
    def device(self) -> torch.device:
        """Where the parameters are; the CPU where there are none."""
        return next((t.device for t in [*self.parameters(), *self.buffers()]), torch.device("cpu"))

    @property
    def best_precision(self) -> torch.dtype:
        """What errors are measured in: float64, unless the model says that it computes in float32 only."""
        return torch.float32 if getattr(self.model, "single_precision_only", False) else torch.float64

    def in_double_precision(self) -> LearnedOperator:
        """A copy with parameters in float64 (and complex128), to measure errors that float32 would hide.

        Raises
        ------
        TypeError
            If the model computes in float32 only.
        """
        if self.best_precision != torch.float64:
            raise TypeError(f"{type(self.model).__name__} computes in float32 only, so it has no form in float64")
        result = copy.deepcopy(self)
        with_precision(result.model, torch.float64)
        return result

    def predict(self, inputs: Any, *, batch_size: int | None = None) -> NumpyArray:
        """Apply the operator to arrays of NumPy, without gradients.

        Parameters
        ----------
        inputs : array_like, ``(samples, [channels,] *size)``
            In physical units, finite.
        batch_size : int, optional
            Samples that are on the device at once; by default about 16 million numbers.

        Returns
        -------
        ndarray, ``(samples, [channels,] *size)``
            In float64, whatever the precision of the model.

        Raises
        ------
        ShapeError
            If there is no sample, or no axis beside the samples.
        NonFiniteError
            If an input is NaN or Inf.
        """
        array = _samples(inputs, "inputs")
        batch_size = _batch_size(array, batch_size)
        with torch.no_grad(), in_evaluation(self):
            parts = [
                self(torch.as_tensor(array[start : start + batch_size], dtype=self.dtype, device=self.device))
                for start in range(0, len(array), batch_size)
            ]
        return torch.cat(parts).double().cpu().numpy()

    def rollout(self, u0: Any, steps: int, *, batch_size: int | None = None) -> NumpyArray:
        """Apply the operator to its own output, step by step.

        Parameters
        ----------
        u0 : array_like, ``(samples, [channels,] *size)``
            Initial states.
        steps : int
            Number of applications.
        batch_size : int, optional
            Samples that are on the device at once; by default about 16 million numbers.

        Returns
        -------
        ndarray, ``(samples, steps, [channels,] *size)``
            The states after each step; a roll-out that blows up holds Inf or NaN from there on.

        Raises
        ------
        ShapeError, NonFiniteError
            As `predict`.
        """
        array = _samples(u0, "u0")
        positive_integer(steps, "steps")
        batch_size = _batch_size(array, batch_size)
        trajectories = []
        with torch.no_grad(), in_evaluation(self):
            for start in range(0, len(array), batch_size):
                state = torch.as_tensor(array[start : start + batch_size], dtype=self.dtype, device=self.device)
                states = []
                for _ in range(steps):
                    state = self(state)
                    states.append(state)
                trajectories.append(torch.stack(states, dim=1))
        return torch.cat(trajectories).double().cpu().numpy()

    # ---------------------------------------------------------------------------------- files

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the operator to one file: tensors, and as text what the model is built from.

        Parameters
        ----------
        path : path
            Conventionally ``*.safetensors``. It is replaced in one step.

        Raises
        ------
        ValueError
            If the operator does not know its specification.
        """
        from safetensors.torch import save_file

        if self.specification is None:
            raise ValueError(
                "specification is unknown, so a file could not rebuild the model; pass specification={'name': .., "
                "'size': .., 'options': {..}} as for structmat_nn.models.create"
            )
        header = {
            "format": _FORMAT, "version": _VERSION, "model": self.specification, "residual": self.residual,
            "dtype": str(self.dtype).removeprefix("torch."),
            "input_normaliser": _normaliser_name(self.input_normaliser),
            "output_normaliser": _normaliser_name(self.output_normaliser),
        }  # fmt: skip
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in self.state_dict().items()}
        target = Path(path)
        unfinished = target.with_name(target.name + ".unfinished")
        save_file(tensors, unfinished, metadata={"structmat_nn": json.dumps(header)})
        os.replace(unfinished, target)

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, device: Any = "cpu") -> LearnedOperator:
        """Read an operator from a file. Nothing in the file is executed.

        Parameters
        ----------
        path : path
            What `save` wrote.
        device : torch.device or str, default "cpu"
            Where to put it.

        Returns
        -------
        LearnedOperator

        Raises
        ------
        FileFormatError
            If the file is not one of ours, is damaged, or does not fit the model that it names.

        Notes
        -----
        The name of the model is looked up in `structmat_nn.models.MODELS`, and its options are plain numbers and
        words; tensors are read by safetensors, which has no way to run code.
        """
        header, tensors = _read(Path(path))
        from ..models import create

        options = dict(header["model"])
        name, size = options.pop("name"), options.pop("size")
        keywords = options.pop("options", {})
        model = create(name, tuple(size), **options, **keywords)
        normalisers = [
            None if header[key] is None else NORMALISERS[header[key]].empty_like_state(tensors, f"{key}.")
            for key in ("input_normaliser", "output_normaliser")
        ]
        operator = cls(model, *normalisers, residual=header["residual"], specification=header["model"])
        with_precision(operator.model, getattr(torch, header["dtype"]))
        try:
            operator.load_state_dict(tensors)
        except RuntimeError as error:
            raise FileFormatError(f"{path} does not fit the model {name!r} that it names: {error}") from error
        return operator.to(device)


def with_precision(module: nn.Module, dtype: torch.dtype) -> Any:
    """Convert the module in place, complex parameters too (`Module.to` converts real ones only)."""
    paired = {torch.float64: torch.complex128, torch.float32: torch.complex64}[dtype]

    def convert(tensor: Tensor) -> Tensor:
        if tensor.is_complex():
            return tensor.to(paired)
        return tensor.to(dtype) if tensor.is_floating_point() else tensor

    return module._apply(convert)


@contextmanager
def in_evaluation(module: nn.Module) -> Iterator[None]:
    """Dropout and the like are off inside; afterwards they are as they were."""
    was_training = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(was_training)


def _samples(values: Any, name: str) -> NumpyArray:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim < 2 or array.size == 0:
        raise ShapeError(f"{name} must be (samples, [channels,] *size) and not empty, but its shape is {array.shape}")
    finite(array, name)
    return array


def _batch_size(array: NumpyArray, given: int | None) -> int:
    if given is not None:
        return positive_integer(given, "batch_size")
    return max(1, 2**24 // array[0].size)


def _normaliser_name(normaliser: Normaliser | None) -> str | None:
    if normaliser is None:
        return None
    for name, kind in NORMALISERS.items():
        if type(normaliser) is kind:
            return name
    raise ValueError(
        f"a {type(normaliser).__name__} cannot be saved; use one of "
        f"{', '.join(kind.__name__ for kind in NORMALISERS.values())}"
    )


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The header and the tensors of a file, checked to be ours."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  not a mapping
    except SafetensorError as error:
        raise FileFormatError(f"{path} is not a safetensors file, or is damaged: {error}") from error
    try:
        header = json.loads(metadata["structmat_nn"])
        kind, version = header["format"], header["version"]
    except (KeyError, TypeError, json.JSONDecodeError) as error:
        raise FileFormatError(f"{path} does not hold a LearnedOperator: its header has no such entry") from error
    if kind != _FORMAT or version != _VERSION:
        raise FileFormatError(f"{path} holds {kind} version {version}; this is made for {_FORMAT} version {_VERSION}")
    return header, tensors
