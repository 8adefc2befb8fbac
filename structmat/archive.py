"""Archives of named arrays: a zip of npy arrays with a header and a checksum, written atomically, without pickle.

`numpy.load` opens them too. Beside the data there are two arrays of bytes: `header`, JSON that says what the arrays
are, and `checksum`, the SHA-256 of the header and of all arrays. Arrays are stored little-endian and uncompressed. What
is read is compared with what the header declares before memory is taken.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np

from ._backend import to_numpy
from ._typing import NumpyArray
from .exceptions import FileFormatError

FORMAT = "structmat"
VERSION = 1
# what zipfile, json and numpy raise on damaged files
_DAMAGE = (
    zipfile.BadZipFile, KeyError, IndexError, ValueError, TypeError, EOFError, NotImplementedError,
    RuntimeError, struct.error, zlib.error,
)  # fmt: skip

Arrays = dict[str, NumpyArray]
PathLike = str | os.PathLike[str]


# ------------------------------------------------------------------------------------------ writing


def write_archive(path: PathLike, header: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Write arrays of any library, and a header to which their types and shapes are added."""
    portable = {key: _portable(array) for key, array in arrays.items()}
    declared = {key: [array.dtype.str, list(array.shape)] for key, array in portable.items()}
    content = {"format": FORMAT, "version": VERSION, **header, "arrays": declared}
    encoded = np.frombuffer(json.dumps(content).encode(), dtype=np.uint8)
    with atomic_file(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        _write(archive, "header", encoded)
        for key, array in portable.items():
            _write(archive, key, array)
        _write(archive, "checksum", np.frombuffer(_checksum(encoded, portable), dtype=np.uint8))


@contextmanager
def atomic_file(path: PathLike) -> Iterator[IO[bytes]]:
    """Open a binary file that replaces `path` when the block ends, and vanishes if the block raises."""
    # a link is written through, as open(path, "wb") does
    target = Path(os.path.realpath(os.fspath(path)))
    temporary = target.with_name(f".{target.name[:100]}.{secrets.token_hex(6)}.tmp")
    # not tempfile: its files are readable by their owner alone, whatever the umask says
    descriptor = os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if target.exists():
                os.chmod(temporary, stat.S_IMODE(target.stat().st_mode))
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    """Make the new name survive a loss of power, where the system lets folders be synchronised."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(descriptor)


def _portable(array: Any) -> NumpyArray:
    host = np.ascontiguousarray(to_numpy(array))
    return host.astype(host.dtype.newbyteorder("<"), copy=False)


def _write(archive: zipfile.ZipFile, key: str, array: NumpyArray) -> None:
    with archive.open(f"{key}.npy", "w", force_zip64=True) as member:
        np.lib.format.write_array(member, array, allow_pickle=False)


def _checksum(header: NumpyArray, arrays: Arrays) -> bytes:
    """SHA-256 of the header, which names the arrays with their types and shapes, and of the arrays."""
    digest = hashlib.sha256(header.tobytes())
    for array in arrays.values():
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.digest()


# ------------------------------------------------------------------------------------------ reading


def read_archive(path: Path) -> tuple[dict[str, Any], Arrays]:
    """The header and the arrays, whose checksum agrees; all else is a `FileFormatError` that says what is wrong."""
    with open(path, "rb") as file:
        if file.read(1) == b"":
            raise FileFormatError(f"{path} is empty; it was not written by A.save")
        try:
            with zipfile.ZipFile(file) as archive:
                header, arrays = _contents(path, archive)
        except _DAMAGE as error:
            if isinstance(error, FileFormatError):
                raise
            raise _damaged(path, error) from error
        except OSError as error:
            if error.errno != errno.EINVAL:  # a seek to where a damaged archive points
                raise
            raise _damaged(path, error) from error
    return header, {key: array.astype(array.dtype.newbyteorder("="), copy=False) for key, array in arrays.items()}


def _damaged(path: Path, error: Exception) -> FileFormatError:
    if isinstance(error, zipfile.BadZipFile) and not _looks_like_zip(path):
        return FileFormatError(f"{path} is not a file of structmat: it is no zip archive, as A.save writes")
    cause = str(error) or type(error).__name__
    return FileFormatError(f"{path} is truncated or damaged ({cause}); save the matrix again")


def _looks_like_zip(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _contents(path: Path, archive: zipfile.ZipFile) -> tuple[dict[str, Any], Arrays]:
    """The header, and the arrays that it declares, checked against the checksum."""
    members = set(archive.namelist())
    if "header.npy" not in members:
        raise FileFormatError(
            f"{path} is an archive of something else: it has no header of structmat (it holds "
            f"{', '.join(sorted(members)[:5]) or 'nothing'})"
        )
    encoded = _read(archive, "header")
    if encoded.dtype != np.uint8 or encoded.ndim != 1:
        raise FileFormatError(f"{path} is an archive of something else: its header is not one of structmat")
    try:
        header = json.loads(encoded.tobytes())
        known = header["format"] == FORMAT and isinstance(header["version"], int)
    except (ValueError, TypeError, KeyError):
        known = False
    if not known:
        raise FileFormatError(f"{path} is an archive of something else: its header is not one of structmat")
    if header["version"] > VERSION:
        raise FileFormatError(
            f"{path} was written by a newer version of structmat (format {header['version']}; this one reads "
            f"up to {VERSION}); upgrade structmat, or save again with the older version"
        )
    missing = sorted(key for key in [*header["arrays"], "checksum"] if f"{key}.npy" not in members)
    if missing:
        raise FileFormatError(f"{path} is damaged: it lacks the arrays {', '.join(missing)}")
    declared = header["arrays"].items()
    arrays = {key: _read(archive, key, np.dtype(kind), tuple(shape)) for key, (kind, shape) in declared}
    if _checksum(encoded, arrays) != _read(archive, "checksum").tobytes():
        raise FileFormatError(f"{path} is damaged: its contents do not have the checksum stored with them")
    return header, arrays


def _read(
    archive: zipfile.ZipFile,
    key: str,
    dtype: np.dtype[Any] | None = None,
    shape: tuple[int, ...] | None = None,
) -> NumpyArray:
    """One array, of the declared type and shape; memory is taken only for what the file can hold."""
    info = archive.getinfo(f"{key}.npy")
    with archive.open(info) as member:
        if np.lib.format.read_magic(member) != (1, 0):
            raise ValueError(f"array {key} has an unknown npy version")
        found, fortran, kind = np.lib.format.read_array_header_1_0(member)
        if kind.hasobject or fortran or (dtype is not None and (kind, found) != (dtype, shape)):
            raise ValueError(f"array {key} is not what the header says")
        if int(np.prod(found, dtype=object)) * kind.itemsize > info.file_size:
            raise ValueError(f"array {key} is shorter than its header says")
        out = np.empty(found, dtype=kind)
        _fill(member, out, key)
        member.read(1)  # the end of the member: its CRC is checked here
    return out


def _fill(member: IO[bytes], out: NumpyArray, key: str) -> None:
    target, at = out.reshape(-1).view(np.uint8).data, 0
    while at < len(target):
        count = member.readinto(target[at : at + (1 << 24)])  # type: ignore[attr-defined]
        if not count:
            raise ValueError(f"array {key} is shorter than its header says")
        at += count
