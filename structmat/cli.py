"""The command line: structmat demo | compress | info | solve | plot.

Errors that a user can repair are one line on standard error and exit code 1; a tolerance that was not met is
a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from . import __version__
from ._console import progress_bar, warnings_as_lines
from ._typing import NumpyArray
from .exceptions import StructmatError

if TYPE_CHECKING:
    from rich.console import Console

    from .hss.matrix import HSSMatrix

app = typer.Typer(
    name="structmat",
    help="Linear algebra of hierarchical matrices: compress a matrix, look at it, solve with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)


class UserError(Exception):
    """Something that the user can repair; the message says how."""


@contextmanager
def _for_people() -> Iterator[Console]:
    """A console to print to; errors of the user and warnings become lines on standard error."""
    from rich.console import Console

    errors = Console(stderr=True)
    try:
        with warnings_as_lines(errors):
            yield Console()
    except (UserError, StructmatError, OSError, MemoryError) as error:
        text = str(error) or type(error).__name__
        errors.print("[bold red]error:[/]", end=" ", highlight=False)
        errors.print(text, markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from error


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"structmat {__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Linear algebra of hierarchical matrices: compress a matrix, look at it, solve with it."""


Stored = Annotated[Path, typer.Argument(metavar="FILE", help="A matrix that `compress` or A.save wrote.")]


# ------------------------------------------------------------------------------------- commands


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="For the pictures and the matrix.")] = Path("structmat-demo"),
    size: Annotated[int, typer.Option(min=512, help="Nodes on the curve.")] = 2**15,
) -> None:
    """Solve a boundary integral equation, recover an operator from samples, and check both.

    The exit code is 1 where an error is larger than promised.
    """
    from . import demo as demonstration

    with _for_people() as console:
        good = demonstration.run(folder, size, console)
    if not good:
        raise typer.Exit(1)


@app.command()
def compress(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT",
            help="A matrix (.npy, .npz, .mtx), or with --kernel points (.csv, .npy), one a row.",
        ),
    ],
    target: Annotated[Path, typer.Argument(metavar="OUTPUT", help="The file to write.")],
    kernel: Annotated[
        str | None, typer.Option(help="Kernel by name (gaussian, laplace, matern, ..): INPUT holds points.")
    ] = None,
    param: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Parameter of the kernel; may be repeated.")
    ] = None,
    rtol: Annotated[float, typer.Option(min=0.0, help="Relative error allowed (Frobenius norm).")] = 1e-8,
    leaf_size: Annotated[int, typer.Option(min=1, help="Largest leaf of the cluster tree.")] = 64,
    symmetric: Annotated[bool, typer.Option("--symmetric", help="The matrix is Hermitian: store half.")] = False,
) -> None:
    """Compress a matrix, or the matrix of a kernel on points, and write it to a file.

    A tolerance that was not met is said, and the file is written all the same.
    """
    with _for_people() as console:
        options = {"rtol": rtol, "symmetric": symmetric}
        if kernel is None and param:
            raise UserError("--param belongs to a kernel; name one with --kernel")
        if kernel is not None:
            matrix = _from_points(console, source, kernel, param or [], leaf_size, options)
        else:
            matrix = _from_matrix(console, source, leaf_size, options)
        matrix.save(target)
        _report(console, matrix, target)


@app.command()
def info(file: Stored) -> None:
    """Print levels, ranks, bytes against dense, and the certificate."""
    with _for_people() as console:
        _say(console, _load(file).summary())


@app.command()
def solve(
    file: Stored,
    rhs: Annotated[Path, typer.Argument(metavar="RHS", help="Right-hand sides, (n,) or (n, k), as .npy.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="For the solution; default: RHS-solution.npy beside RHS."),
    ] = None,
) -> None:
    """Solve A x = b, write x, and print its residuals.

    Two of them: that of the stored matrix, and the one to expect against the exact matrix that it
    approximates.
    """
    from .archive import atomic_file

    with _for_people() as console:
        matrix, b = _load(file), _array(rhs)
        target = rhs.with_name(f"{rhs.stem}-solution.npy") if output is None else output
        with progress_bar(console, "solving"):
            x = matrix.solve(b)
        with atomic_file(target) as out:
            np.lib.format.write_array(out, np.ascontiguousarray(x), allow_pickle=False)
        _say(console, f"residual of the stored system      {_residual(matrix, b, x):.1e}")
        _say(console, f"predicted against the exact matrix {matrix.predicted_residual(b, x):.1e}")
        _say(console, f"wrote {target}: {' x '.join(map(str, x.shape))}, {x.dtype}")


@app.command()
def plot(
    file: Stored,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="Picture (.png, .svg, .pdf); default: FILE with .png."),
    ] = None,
) -> None:
    """Draw the blocks, with their ranks by number and colour."""
    with _for_people() as console:
        from matplotlib.figure import Figure

        from .archive import atomic_file

        matrix = _load(file)
        target = file.with_suffix(".png") if output is None else output
        figure = Figure(figsize=(7.2, 6.2), layout="compressed")
        kind, known = target.suffix[1:].lower(), figure.canvas.get_supported_filetypes()
        if kind not in known:
            raise UserError(f"pictures cannot be written as {target.suffix or 'a file without suffix'}; use .png")
        matrix.plot(figure.add_subplot())
        with atomic_file(target) as out:
            figure.savefig(out, format=kind, dpi=150)
        _say(console, f"wrote {target}")


# ------------------------------------------------------------------------------------- sources


def _from_points(
    console: Console, source: Path, name: str, given: list[str], leaf_size: int, options: dict[str, Any]
) -> HSSMatrix:
    from .hss.matrix import HSSMatrix
    from .kernelfunctions import from_name

    try:
        kernel = from_name(name, **dict(_parameter(text) for text in given))
    except (ValueError, TypeError) as error:
        raise UserError(str(error)) from error
    points = _table(source) if source.suffix.lower() == ".csv" else _array(source)
    with progress_bar(console, "compressing") as advance:
        return HSSMatrix.from_kernel(kernel, points, leaf_size=leaf_size, progress=advance, **options)


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    try:
        number = float(value)
    except ValueError:
        raise UserError(f"--param must be NAME=NUMBER, as length=0.2, but it is {text!r}") from None
    if not (name.strip() and equals):
        raise UserError(f"--param must be NAME=NUMBER, as length=0.2, but it is {text!r}")
    return name.strip().replace("-", "_"), number


def _from_matrix(console: Console, source: Path, leaf_size: int, options: dict[str, Any]) -> HSSMatrix:
    import scipy.sparse

    from .hss.matrix import HSSMatrix
    from .tree import as_tree_pair

    a = _matrix(source)
    tree = as_tree_pair(None, a.shape, leaf_size=leaf_size)
    with progress_bar(console, "compressing"):
        if scipy.sparse.issparse(a):
            return HSSMatrix.from_sparse(a, tree, **options)
        return HSSMatrix.from_dense(a, tree, **options)


def _matrix(source: Path) -> Any:
    """A dense or sparse matrix, by the suffix of its file."""
    kind = source.suffix.lower()
    a: Any
    if kind == ".npy":
        a = _array(source)
    elif kind == ".npz":
        a = _from_archive(source)
    elif kind == ".mtx":
        import scipy.io

        with _naming(source, "a Matrix Market file"):
            a = scipy.io.mmread(source, spmatrix=False)
    elif kind == ".csv":
        raise UserError(f"{source} holds points; name a kernel, as --kernel gaussian --param length=0.2")
    else:
        raise UserError(f"{source} must end in .npy, .npz or .mtx; or in .csv or .npy for points with --kernel")
    if a.ndim != 2 or 0 in a.shape:
        raise UserError(f"{source} must hold a matrix, but its array has shape {a.shape}")
    return a


def _from_archive(source: Path) -> Any:
    import scipy.sparse

    with _naming(source, "an archive of NumPy"), np.load(source, allow_pickle=False) as archive:
        names = archive.files
        if "format" in names and "shape" in names:
            return scipy.sparse.load_npz(source)
        if "header" in names and "checksum" in names:
            raise UserError(f"{source} is compressed already; look at it with: structmat info {source}")
        if len(names) != 1:
            raise UserError(f"{source} must hold one array or a sparse matrix of SciPy, but it holds {names}")
        return archive[names[0]]


def _array(source: Path) -> NumpyArray:
    with _naming(source, "an array of NumPy"):
        a = np.load(source, allow_pickle=False)
    if not isinstance(a, np.ndarray):
        a.close()
        raise UserError(f"{source} must hold one array (.npy), but it is an archive")
    if a.dtype.kind not in "biufc":
        raise UserError(f"{source} must hold numbers, but its dtype is {a.dtype}")
    return a


def _table(source: Path) -> NumpyArray:
    """Points from lines of numbers with commas; a first line of names is skipped."""
    with _naming(source, "a table of numbers with commas"):
        lines = source.read_text(encoding="utf-8-sig").splitlines()
        skip = int(bool(lines) and not _is_numeric(lines[0]))
        if len(lines) <= skip:
            raise ValueError("it has no points")
        return np.loadtxt(lines[skip:], delimiter=",", ndmin=2)


def _is_numeric(line: str) -> bool:
    try:
        [float(field) for field in line.split("#")[0].split(",") if field.strip()]
    except ValueError:
        return False
    return True


@contextmanager
def _naming(source: Path, what: str) -> Iterator[None]:
    """Turn what readers raise on files of another kind into an error that names the file."""
    import zipfile

    try:
        yield
    except (ValueError, EOFError, KeyError, TypeError, NotImplementedError, zipfile.BadZipFile) as error:
        raise UserError(f"{source} cannot be read as {what}: {error}") from error


def _load(file: Path) -> Any:
    from .io import load

    return load(file)


# ------------------------------------------------------------------------------------- reports


def _report(console: Console, matrix: HSSMatrix, target: Path) -> None:
    from .plot import format_bytes

    rows, columns = matrix.shape
    dense = rows * columns * matrix.dtype.itemsize
    _say(console, f"{rows} x {columns}, {matrix.dtype}, ranks up to {matrix.max_rank}")
    _say(console, f"certificate: {matrix.certificate}")
    share = f"{100 * matrix.nbytes / dense:.3g} %"
    _say(console, f"{format_bytes(matrix.nbytes)}, {share} of {format_bytes(dense)} as a dense array")
    if not matrix.certificate.met:
        console.print("[bold red]the tolerance was NOT MET")
    _say(console, f"wrote {target}")


def _residual(matrix: Any, b: NumpyArray, x: NumpyArray) -> float:
    """The largest relative residual of the columns."""
    sizes = np.linalg.norm(b, axis=0)
    gaps = np.linalg.norm(b - matrix @ x, axis=0)
    return float(np.max(gaps / np.where(sizes > 0, sizes, 1.0)))


if __name__ == "__main__":
    app()
