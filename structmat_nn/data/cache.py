"""Chunks of samples on disk: found by the hash of what they were made with, checked when read, replaced atomically.

A data set has one folder, ``<directory>/<name>-<hash>``; the hash is of its name, size, settings and seed and of the
version of its recipe. In it lie ``recipe.json``, which says in words what was hashed, and one npz file a chunk. A file
holds the arrays, a header of JSON that repeats the recipe, and the SHA-256 of both; nothing in it is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from structmat._typing import NumpyArray
from structmat.archive import atomic_file
from structmat.exceptions import FileFormatError

__all__ = ["CacheWarning", "ChunkStore", "cache_directory"]

FORMAT = "structmat_nn data"
_ENVIRONMENT = "STRUCTMAT_DATA"
_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, NotImplementedError, RuntimeError)


class CacheWarning(UserWarning):
    """A file of the cache was damaged; its samples are made again."""


def cache_directory(directory: str | os.PathLike[str] | None = None) -> Path:
    """The folder that data sets are kept in.

    Parameters
    ----------
    directory : str or path, optional
        Taken as it is. Otherwise the environment variable ``STRUCTMAT_DATA``, otherwise ``structmat`` in the folder
        that the system keeps for caches.

    Returns
    -------
    pathlib.Path
        It need not exist yet.

    Examples
    --------
    >>> from structmat_nn.data import cache_directory
    >>> cache_directory("samples").name
    'samples'
    """
    if directory is not None:
        return Path(directory).expanduser()
    if os.environ.get(_ENVIRONMENT):
        return Path(os.environ[_ENVIRONMENT]).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "structmat"


class ChunkStore:
    """The chunks of one data set in a folder.

    Parameters
    ----------
    directory : str or path
        The folder of all data sets; made when the first chunk is written.
    identity : mapping
        All that the samples depend on but the part and the number of the chunk, in the terms of JSON. Its key
        ``"name"`` begins the name of the folder.

    Examples
    --------
    >>> import tempfile, numpy as np
    >>> from structmat_nn.data.cache import ChunkStore
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     store = ChunkStore(folder, {"name": "example", "seed": 0})
    ...     store.write("train", 0, 2, {"inputs": np.ones((2, 3))})
    ...     store.read("train", 0, 2)["inputs"].shape, store.read("train", 1, 2)
    ((2, 3), None)
    """

    def __init__(self, directory: str | os.PathLike[str], identity: Mapping[str, Any]) -> None:
        self._identity = dict(identity)
        digest = hashlib.sha256(json.dumps(self._identity, sort_keys=True).encode()).hexdigest()
        self.folder = Path(directory) / f"{self._identity['name']}-{digest[:16]}"

    def path(self, part: str, chunk: int, count: int) -> Path:
        """The file of a chunk; a chunk of fewer samples is another file."""
        return self.folder / f"{part.replace(' ', '-')}-{chunk:05d}-{count}.npz"

    def write(self, part: str, chunk: int, count: int, arrays: Mapping[str, NumpyArray]) -> None:
        """Store a chunk: the whole file appears at once, or not at all."""
        self.folder.mkdir(parents=True, exist_ok=True)
        recipe = self.folder / "recipe.json"
        if not recipe.exists():
            with atomic_file(recipe) as file:
                file.write((json.dumps(self._identity, indent=1, sort_keys=True) + "\n").encode())
        stored = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        header = self._header(part, chunk, count, stored)
        with atomic_file(self.path(part, chunk, count)) as file, zipfile.ZipFile(file, "w") as archive:
            _write(archive, "header", np.frombuffer(header, dtype=np.uint8))
            for name, array in stored.items():
                _write(archive, name, array)
            _write(archive, "checksum", np.frombuffer(_checksum(header, stored), dtype=np.uint8))

    def read(self, part: str, chunk: int, count: int) -> dict[str, NumpyArray] | None:
        """The arrays of a chunk, or None if there is no file or a damaged one, which is named in a warning.

        Raises
        ------
        FileFormatError
            If the file is whole, but was not written for this chunk.
        """
        path = self.path(part, chunk, count)
        if not path.exists():
            return None
        try:
            with zipfile.ZipFile(path) as archive:
                names = [member.removesuffix(".npy") for member in archive.namelist()]
                content = {name: _read(archive, name) for name in names}
        except _DAMAGE as error:
            _warn_damaged(path, f"it cannot be read ({error})")
            return None
        if "header" not in content or "checksum" not in content:
            raise _foreign(path, "it has no header and no checksum")
        header, checksum = content.pop("header").tobytes(), content.pop("checksum").tobytes()
        if checksum != _checksum(header, content):
            _warn_damaged(path, "its contents do not have the checksum stored with them")
            return None
        if header != self._header(part, chunk, count, content):
            raise _foreign(path, f"it says of itself: {header.decode(errors='replace')[:300]}")
        return content

    def _header(self, part: str, chunk: int, count: int, arrays: Mapping[str, NumpyArray]) -> bytes:
        described = {
            "format": FORMAT,
            "identity": self._identity,
            "part": part,
            "chunk": chunk,
            "count": count,
            "arrays": {name: [array.dtype.str, list(array.shape)] for name, array in arrays.items()},
        }
        return json.dumps(described, sort_keys=True).encode()


def _write(archive: zipfile.ZipFile, name: str, array: NumpyArray) -> None:
    with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def _read(archive: zipfile.ZipFile, name: str) -> NumpyArray:
    with archive.open(f"{name}.npy") as member:
        return np.lib.format.read_array(member, allow_pickle=False)


def _checksum(header: bytes, arrays: Mapping[str, NumpyArray]) -> bytes:
    digest = hashlib.sha256(header)
    for name in sorted(arrays):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
    return digest.digest()


def _warn_damaged(path: Path, reason: str) -> None:
    warnings.warn(f"{path} is damaged: {reason}; its samples are made again", CacheWarning, stacklevel=3)


def _foreign(path: Path, reason: str) -> FileFormatError:
    return FileFormatError(
        f"{path} is in the way: it is not the chunk of samples that belongs there; {reason}. "
        "Move it, or choose another folder with cache="
    )
