"""From the name of a data set to its samples: the registry, chunks, progress."""

from __future__ import annotations

import importlib
import json
import os
import sys
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from structmat import ShapeError
from structmat._check import finite, positive_integer
from structmat._typing import NumpyArray

from .cache import ChunkStore, cache_directory
from .dataset import DataSet, Parts, Recipe, Size

__all__ = ["load", "names", "recipe"]

# Where the recipe of each data set lives; a module is imported when its data set is asked for.
_RECIPES = {
    "burgers": ("burgers", "BURGERS"),
    "convection-diffusion1d": ("convection", "CONVECTION_DIFFUSION_1D"),
    "heat": ("heat", "HEAT"),
    "poisson1d": ("poisson1d", "POISSON_1D"),
    "helmholtz2d": ("helmholtz", "HELMHOLTZ_2D"),
    "helmholtz2d-indefinite": ("helmholtz", "HELMHOLTZ_2D_INDEFINITE"),
    "poisson2d": ("poisson2d", "POISSON_2D"),
    "poisson2d-lshape": ("poisson2d", "POISSON_2D_LSHAPE"),
    "poisson2d-mixed": ("poisson2d", "POISSON_2D_MIXED"),
    "poisson3d": ("poisson3d", "POISSON_3D"),
    "gray-scott": ("gray_scott", "GRAY_SCOTT"),
    "navier-stokes": ("navier_stokes", "NAVIER_STOKES"),
    "poisson1d-neumann": ("poisson1d", "POISSON_1D_NEUMANN"),
}


def names() -> tuple[str, ...]:
    """The names of all data sets, sorted.

    Returns
    -------
    tuple of str

    Examples
    --------
    >>> from structmat_nn import data
    >>> "poisson1d" in data.names()
    True
    """
    return tuple(sorted(_RECIPES))


def recipe(name: str) -> Recipe:
    """How the data set of this name is made: its equation, size, numbers of samples and settings.

    Parameters
    ----------
    name : str
        One of `names`.

    Returns
    -------
    Recipe

    Examples
    --------
    >>> from structmat_nn import data
    >>> data.recipe("poisson1d").size
    (256,)
    """
    if name not in _RECIPES:
        raise ValueError(f"there is no data set {name!r}; the data sets are {', '.join(names())}")
    module, attribute = _RECIPES[name]
    return getattr(importlib.import_module(f".{module}", __package__), attribute)


def load(
    name: str | Recipe,
    *,
    samples: int | Mapping[str, int] | None = None,
    size: int | tuple[int, ...] | None = None,
    seed: int = 0,
    cache: str | os.PathLike[str] | bool | None = None,
    progress: bool | None = False,
    **settings: Any,
) -> DataSet:
    """A data set by its name: read from the cache, or made and stored there.

    Parameters
    ----------
    name : str or Recipe
        One of `names`, or a recipe of one's own.
    samples : int or mapping of str to int, optional
        A number of training samples (trajectories, where time is stepped); no other part is then larger than that. Or
        numbers by part: ``{"train": 100, "white noise": 50}``; parts that are not named keep theirs.
    size : int or tuple of int, optional
        The training grid; by default the one of the published experiment.
    seed : int, default 0
        Equal seeds give equal samples. Parts are drawn independently of each other.
    cache : path, False or None
        The folder of the cache (see `cache_directory`), or False for no cache.
    progress : bool or None, default False
        Show a bar while samples are made; None shows it on a terminal.
    **settings
        Settings of this data set, as in its recipe.

    Returns
    -------
    DataSet

    Raises
    ------
    ValueError
        If there is no such data set, part or setting.
    FileFormatError
        If another file lies where a chunk of samples belongs.

    Notes
    -----
    Samples are stored chunk by chunk: a run that was killed continues where it stopped. Damaged files are named in a
    `CacheWarning` and made again.

    Examples
    --------
    >>> from structmat_nn import data
    >>> dataset = data.load("poisson1d", samples=10, size=64, cache=False)
    >>> dataset.train.outputs.shape
    (10, 64)
    """
    made_by = name if isinstance(name, Recipe) else recipe(name)
    size = _size(size, made_by)
    counts = _counts(samples, made_by)
    chosen = _settings(settings, made_by)
    seed = positive_integer(seed, "seed", minimum=0)
    if made_by.check is not None:
        made_by.check(size, chosen)
    identity = {
        "name": made_by.name, "version": made_by.version, "size": list(size), "seed": seed, "chunk": made_by.chunk,
        "settings": {key: value for key, value in chosen.items() if key not in made_by.outside},
    }  # fmt: skip
    store = None if cache is False else ChunkStore(cache_directory(None if cache is True else cache), identity)
    parts = _parts(made_by, counts, size, chosen, seed, store, progress)
    return made_by.assemble(made_by.name, parts, size, {**chosen, "seed": seed, "version": made_by.version})


def _parts(
    made_by: Recipe,
    counts: Mapping[str, int],
    size: Size,
    settings: dict[str, Any],
    seed: int,
    store: ChunkStore | None,
    progress: bool | None,
) -> Parts:
    parts: dict[str, dict[str, NumpyArray]] = {}
    with _bar(made_by.name, sum(counts.values()), progress) as advance:
        for part, total in counts.items():
            whole: dict[str, NumpyArray] = {}
            for number, start in enumerate(range(0, total, made_by.chunk)):
                count = min(made_by.chunk, total - start)
                arrays = None if store is None else store.read(part, number, count)
                if arrays is None:
                    rng = _generator(seed, made_by.name, part, number)
                    arrays = made_by.generate(part, count, rng, size, settings)
                    _check_chunk(arrays, part, count, made_by.name)
                    if store is not None:
                        store.write(part, number, count, arrays)
                for key, array in arrays.items():  # copied at once, so that only one chunk is held twice
                    if number == 0:
                        whole[key] = np.empty((total, *array.shape[1:]), array.dtype)
                    whole[key][start : start + count] = array
                advance(count)
            parts[part] = whole
    return parts


def _check_chunk(arrays: Mapping[str, NumpyArray], part: str, count: int, name: str) -> None:
    """What a recipe has made, before it is stored for good."""
    for key, array in arrays.items():
        if len(array) != count:
            raise ShapeError(
                f"the recipe of {name!r} made {len(array)} rows of {key!r} for {count} samples of {part!r}"
            )
        finite(array, f"{key} of {part!r} of {name!r}")


def _generator(seed: int, name: str, part: str, chunk: int) -> np.random.Generator:
    """A stream for each chunk; the size is left out, so that a finer grid sees the same inputs."""
    key = (zlib.crc32(name.encode()), zlib.crc32(part.encode()), chunk)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _size(size: int | tuple[int, ...] | None, made_by: Recipe) -> Size:
    if size is None:
        return made_by.size
    axes = len(made_by.size)
    wanted = tuple(size) if isinstance(size, (tuple, list)) else (size,) * axes
    if len(wanted) != axes:
        raise ValueError(f"size must be an integer or {axes} integers for {made_by.name!r}, but it is {size!r}")
    return tuple(positive_integer(points, "size", minimum=4) for points in wanted)


def _counts(samples: int | Mapping[str, int] | None, made_by: Recipe) -> dict[str, int]:
    if samples is None:
        return dict(made_by.samples)
    if isinstance(samples, Mapping):
        unknown = [part for part in samples if part not in made_by.samples]
        if unknown:
            raise ValueError(f"samples names {unknown[0]!r}, but the parts are {', '.join(made_by.samples)}")
        given = {part: positive_integer(count, f"samples[{part!r}]") for part, count in samples.items()}
        return {**made_by.samples, **given}
    train = positive_integer(samples, "samples")
    return {part: train if part == "train" else min(count, train) for part, count in made_by.samples.items()}


def _settings(settings: Mapping[str, Any], made_by: Recipe) -> dict[str, Any]:
    unknown = [key for key in settings if key not in made_by.settings]
    if unknown:
        known = ", ".join(made_by.settings) or "none"
        raise ValueError(f"{made_by.name!r} has no setting {unknown[0]!r}; its settings are {known}")
    merged = {**made_by.settings, **settings}
    try:
        return json.loads(json.dumps(merged, default=_plain, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"settings must be finite numbers, text, lists or None, but got {settings!r}: {error}"
        ) from None


def _plain(value: Any) -> Any:
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise TypeError(f"a value of type {type(value).__name__}")


@contextmanager
def _bar(name: str, total: int, progress: bool | None) -> Iterator[Callable[[int], None]]:
    shown = sys.stderr.isatty() if progress is None else bool(progress)
    if not shown:
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True)) as bar:
        task = bar.add_task(f"samples of {name}", total=total)
        yield lambda count: bar.advance(task, count)
