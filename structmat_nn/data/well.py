"""A reader for the HDF5 files of The Well: trajectories become pairs of inputs and outputs.

The layout (R. Ohana et al., The Well, NeurIPS 2024; polymathic-ai.org/the_well/data_format): the groups ``dimensions``
(coordinates and times), ``boundary_conditions``, ``scalars``, and ``t0_fields``, ``t1_fields``, ``t2_fields`` with
scalar, vector and tensor fields of shape ``(trajectories, times, *size, *components)``. A field that does not vary
with the trajectory, the time or a coordinate says so in an attribute and lacks that axis.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import numpy as np

from structmat import FileFormatError, MissingLibraryError, _check
from structmat._typing import NumpyArray

from .dataset import DataSet, Pairs

__all__ = ["WellFile", "load_well"]

FIELD_GROUPS = ("t0_fields", "t1_fields", "t2_fields")
SPLITS = {"train": "train", "validation": "valid", "in span": "test"}  # part of a data set -> folder of The Well


class WellFile:
    """One file in the layout of The Well. Fields are read when they are asked for, never as a whole.

    Parameters
    ----------
    path : str or path
        Of the HDF5 file. Use the object in a ``with`` block, or call `close`.

    Attributes
    ----------
    name : str
        The name of the data set.
    trajectories : int
        How many there are.
    times : ndarray, shape (times,)
        Of the snapshots; those of the first trajectory where they differ.
    grid : tuple of 1-D ndarrays
        The coordinates.
    fields : dict of str to int
        The order of each field: 0 for scalars, 1 for vectors, 2 for tensors.
    boundary_conditions : dict of str to str
        What each boundary is: "PERIODIC", "WALL", "OPEN", as the file spells it.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    FileFormatError
        The file is damaged, not HDF5, or not in this layout; the message says what is missing.
    MissingLibraryError
        h5py is not installed.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._file = _open(self.path)
        try:
            with self._named_errors():
                self._read_header()
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; the arrays that were read stay valid."""
        self._file.close()

    @property
    def size(self) -> tuple[int, ...]:
        """The number of points on each axis."""
        return tuple(len(axis) for axis in self.grid)

    @property
    def components(self) -> dict[str, int]:
        """Channels of each field: 1 for a scalar, d for a vector, d^2 for a tensor in d dimensions."""
        return {name: len(self.grid) ** order for name, order in self.fields.items()}

    def states(
        self,
        times: int | Sequence[int],
        *,
        trajectories: slice = slice(None),
        fields: Sequence[str] | None = None,
    ) -> NumpyArray:
        """Snapshots of some fields.

        Parameters
        ----------
        times : int or sequence of int
            Numbers of snapshots; negative ones count from the end.
        trajectories : slice
            Which trajectories; all by default.
        fields : sequence of str, optional
            Names; all fields by default, in the order of `fields`.

        Returns
        -------
        ndarray of float64, shape ``(trajectories, times, channels, *size)``
            The components of vectors and tensors are channels; an integer `times` leaves no axis.

        Raises
        ------
        ValueError, IndexError
            There is no such field or snapshot.
        FileFormatError
            A field does not have the shape that its attributes promise, or cannot be read.
        """
        names = self._names(fields)
        single = isinstance(times, (int, np.integer))
        numbers = [self._time(time) for time in np.atleast_1d(times).tolist()]
        with self._named_errors():
            snapshots = [
                np.concatenate([self._snapshot(name, time, trajectories) for name in names], axis=1) for time in numbers
            ]
        return snapshots[0] if single else np.stack(snapshots, axis=1)

    def scalar(self, name: str) -> NumpyArray:
        """A number for each trajectory, shape (trajectories,): from the group of scalars, or a simulation parameter.

        Raises `ValueError` if there is none of this name, or if it varies in time.
        """
        with self._named_errors():
            scalars = self._file.get("scalars", {})
            if name in scalars:
                if bool(scalars[name].attrs.get("time_varying", False)):
                    raise ValueError(f"the scalar {name!r} varies in time; parameters must be constant")
                values = np.asarray(scalars[name][...], dtype=np.float64).reshape(-1)
            elif name in self._file.attrs:
                values = np.asarray(self._file.attrs[name], dtype=np.float64).reshape(-1)
            else:
                known = [*scalars, *_texts(self._file.attrs.get("simulation_parameters", []))]
                raise ValueError(f"{self.path} has no parameter {name!r}; it has {', '.join(known) or 'none'}")
            if len(values) not in (1, self.trajectories):
                raise self._error(f"the scalar {name!r} has {len(values)} values for {self.trajectories} trajectories")
        return np.broadcast_to(values, (self.trajectories,)).copy()

    def pairs(
        self,
        *,
        first: int = 0,
        last: int = -1,
        stride: int | None = None,
        trajectories: slice = slice(None),
        fields: Sequence[str] | None = None,
        parameters: Sequence[str] = (),
        inverse: bool = False,
    ) -> Pairs:
        """Inputs and outputs of the operator from one snapshot to a later one.

        Parameters
        ----------
        first, last : int
            The snapshots that are mapped to each other; by default the first of a trajectory to the last.
        stride : int, optional
            With it, all pairs of snapshots `stride` apart between `first` and `last`, trajectory by trajectory.
        trajectories : slice
            Which trajectories; all by default.
        fields : sequence of str, optional
            Names; all fields by default.
        parameters : sequence of str
            Scalars that become constant channels behind those of the fields in the inputs.
        inverse : bool
            Map the later snapshot to the earlier one.

        Returns
        -------
        Pairs
            Arrays of float64, ``(samples, channels, *size)``, without the axis of channels if there is one channel.
        """
        begin, end = self._time(first), self._time(last)
        reach = end - begin if stride is None else _check.positive_integer(stride, "stride")
        starts = list(range(begin, end - reach + 1))
        if end <= begin or not starts:
            raise ValueError(f"there is no pair {reach} snapshots apart from snapshot {begin} to snapshot {end}")
        times = sorted({*starts, *(time + reach for time in starts)})
        states = self.states(times, trajectories=trajectories, fields=fields)  # (trajectories, times, channels, *size)
        place = {time: number for number, time in enumerate(times)}
        earlier = _merge(states[:, [place[time] for time in starts]])
        later = _merge(states[:, [place[time + reach] for time in starts]])
        inputs, outputs = (later, earlier) if inverse else (earlier, later)
        constants = [np.repeat(self.scalar(name)[trajectories], len(starts)) for name in parameters]
        if constants:
            values = np.stack(constants, axis=1).reshape(*inputs.shape[:1], -1, *(1,) * len(self.size))
            channels = np.broadcast_to(values, (*values.shape[:2], *self.size))
            inputs = np.concatenate([inputs, channels], axis=1)
        return Pairs(*(array[:, 0] if array.shape[1] == 1 else array for array in (inputs, outputs)))

    # ------------------------------------------------------------------------------------- behind the door

    def _read_header(self) -> None:
        for group in ("dimensions", "t0_fields"):
            if group not in self._file:
                raise self._error(f"it has no group {group!r}")
        dimensions = self._file["dimensions"]
        axes = _texts(dimensions.attrs.get("spatial_dims", []))
        missing = [name for name in ("time", *axes) if name not in dimensions]
        if missing or not axes:
            raise self._error(f"its dimensions lack {missing[0] if missing else 'the attribute spatial_dims'!r}")
        for name in axes:
            if dimensions[name].ndim != 1:
                raise self._error(f"its coordinate {name!r} varies with the trajectory or the time")
        self.grid = tuple(np.asarray(dimensions[name][...], dtype=np.float64) for name in axes)
        times = np.asarray(dimensions["time"][...], dtype=np.float64)
        self.times = times[0] if times.ndim == 2 else times
        self.name = "".join(_texts(self._file.attrs.get("dataset_name", self.path.stem)))
        if "n_trajectories" not in self._file.attrs:
            raise self._error("it has no attribute 'n_trajectories'")
        self.trajectories = int(self._file.attrs["n_trajectories"])
        self.fields: dict[str, int] = {}
        for order, group in enumerate(FIELD_GROUPS):
            if group in self._file:
                names = _texts(self._file[group].attrs.get("field_names", []))
                self.fields.update(dict.fromkeys(names, order))
        if not self.fields:
            raise self._error("it lists no fields")
        boundaries = self._file.get("boundary_conditions", {})
        self.boundary_conditions = {
            name: "".join(_texts(boundaries[name].attrs.get("bc_type", ""))) for name in boundaries
        }

    def _snapshot(self, name: str, time: int, trajectories: slice) -> NumpyArray:
        """One field at one time, ``(trajectories, components, *size)``."""
        order = self.fields[name]
        group = self._file[FIELD_GROUPS[order]]
        if name not in group:
            raise self._error(f"the field {name!r} is listed, but is not there")
        data = group[name]
        by_sample, by_time = (bool(data.attrs.get(f"{what}_varying", True)) for what in ("sample", "time"))
        by_axis = np.broadcast_to(np.asarray(data.attrs.get("dim_varying", True), dtype=bool), len(self.size))
        expected = (self.trajectories,) * by_sample + (len(self.times),) * by_time
        expected += tuple(n for n, varies in zip(self.size, by_axis, strict=True) if varies)
        components = data.shape[len(expected) :]
        count = len(self.size) ** order
        if data.shape[: len(expected)] != expected or int(np.prod(components)) != count:
            raise self._error(
                f"the field {name!r} has shape {data.shape}; expected {expected} and {count} components behind"
            )
        values = np.asarray(data[(trajectories,) * by_sample + (time,) * by_time], dtype=np.float64)
        kept = [n if varies else 1 for n, varies in zip(self.size, by_axis, strict=True)]
        values = values.reshape(-1, *kept, count)
        samples = len(range(*trajectories.indices(self.trajectories)))
        return np.broadcast_to(np.moveaxis(values, -1, 1), (samples, count, *self.size))

    def _names(self, fields: Sequence[str] | None) -> list[str]:
        names = list(self.fields if fields is None else fields)
        unknown = [name for name in names if name not in self.fields]
        if unknown or not names:
            raise ValueError(f"fields must be some of {', '.join(self.fields)}, but it is {fields!r}")
        return names

    def _time(self, time: int) -> int:
        count = len(self.times)
        if not -count <= time < count:
            raise IndexError(f"there is no snapshot {time} in {self.path}, which has {count}")
        return int(time) % count

    def _error(self, reason: str) -> FileFormatError:
        return FileFormatError(f"{self.path} is not in the layout of The Well: {reason}")

    @contextmanager
    def _named_errors(self) -> Iterator[None]:
        """What h5py raises for damaged data, as an error that names the file."""
        try:
            yield
        except (OSError, KeyError, RuntimeError) as error:
            raise FileFormatError(f"{self.path} is damaged, it cannot be read: {error}") from error


def load_well(
    directory: str | os.PathLike[str],
    *,
    trajectories: int | None = None,
    fields: Sequence[str] | None = None,
    parameters: Sequence[str] = (),
    first: int = 0,
    last: int = -1,
    stride: int | None = None,
    inverse: bool = False,
) -> DataSet:
    """A data set from a folder of The Well, with the split that comes with it.

    Parameters
    ----------
    directory : str or path
        The folder of one data set, with the folders ``train``, ``valid`` and ``test`` in it, or in its folder ``data``.
    trajectories : int, optional
        At most so many of each file.
    fields, parameters, first, last, stride, inverse
        As in `WellFile.pairs`.

    Returns
    -------
    DataSet
        The folder ``test`` is the test set "in span". Nobody can make other test sets for recorded data, so there are
        no others.

    Raises
    ------
    FileFormatError
        A folder has no file, files do not share one grid, or one is not in the layout.
    """
    every = slice(None) if trajectories is None else slice(_check.positive_integer(trajectories, "trajectories"))
    options: dict[str, Any] = {
        "fields": fields, "parameters": parameters, "first": first, "last": last, "stride": stride, "inverse": inverse,
    }  # fmt: skip
    grid: tuple[NumpyArray, ...] | None = None
    parts: dict[str, Pairs] = {}
    for part, folder in SPLITS.items():
        pieces = []
        for path in _files(Path(directory), folder):
            with WellFile(path) as file:
                if grid is not None and not _same_grid(grid, file.grid):
                    raise FileFormatError(f"{path} has another grid than the files before it (size {file.size})")
                grid, name = file.grid, file.name
                pieces.append(file.pairs(trajectories=every, **options))
        parts[part] = Pairs(*(np.concatenate([getattr(p, which) for p in pieces]) for which in ("inputs", "outputs")))
    size = tuple(len(axis) for axis in grid or ())
    channels = [
        1 if array.shape[1:] == size else array.shape[1] for array in (parts["train"].inputs, parts["train"].outputs)
    ]
    return DataSet(
        name,
        train=parts["train"],
        validation=parts["validation"],
        tests={"in span": parts["in span"]},
        grid=grid or (),
        settings={**options, "fields": None if fields is None else list(fields), "parameters": list(parameters)},
        channels=(channels[0], channels[1]),
    )


def _files(directory: Path, folder: str) -> list[Path]:
    places = [directory / "data" / folder, directory / folder]
    for place in places:
        found = sorted([*place.glob("*.hdf5"), *place.glob("*.h5")])
        if found:
            return found
    raise FileFormatError(f"there is no HDF5 file in {places[0]} nor in {places[1]}")


def _same_grid(one: Iterable[NumpyArray], other: Iterable[NumpyArray]) -> bool:
    pairs = list(zip(one, other, strict=False))
    return all(a.shape == b.shape and np.allclose(a, b) for a, b in pairs)


def _merge(states: NumpyArray) -> NumpyArray:
    """``(trajectories, times, channels, *size)`` to ``(trajectories * times, channels, *size)``."""
    return states.reshape(-1, *states.shape[2:])


def _texts(value: Any) -> list[str]:
    """Text attributes: strings or bytes, one or many."""
    return [item.decode() if isinstance(item, bytes) else str(item) for item in np.atleast_1d(value).tolist()]


def _open(path: Path) -> Any:
    try:
        import h5py
    except ImportError as error:
        raise MissingLibraryError('files of The Well need h5py: pip install "structmat[nn]"') from error
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise FileFormatError(f"{path} is not an HDF5 file, or it is truncated: {error}") from error
