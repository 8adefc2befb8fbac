"""Products recorded as a CUDA graph: one launch replays the kernels of all levels."""

from __future__ import annotations

from . import _check
from ._backend import Recording, as_torch, beside, numpy_dtype, same_library
from ._typing import Array
from .exceptions import ShapeError
from .storage import StoredMatrix

__all__ = ["CapturedProduct"]


class CapturedProduct:
    """A @ x for arrays x of one shape and type on a CUDA device, recorded once and replayed from a CUDA graph.

    A product launches some kernels on each level. With one vector they are short, and to launch them takes longer than
    they do; a graph launches all of them at once.

    Parameters
    ----------
    matrix : StructuredMatrix
        A matrix on a CUDA device, of CuPy or of torch.
    x : (n,) or (n, k) array
        An example of what is to be multiplied, on that device: its shape and its dtype are kept, its values are not.
    adjoint : bool
        Whether products with A^H are recorded.

    Raises
    ------
    DeviceError
        Where the matrix is not on a CUDA device: products on the CPU have nothing to gain.
    MissingLibraryError
        For arrays of CuPy, where torch is not installed. CuPy does not record calls of its BLAS, so that the kernels
        are torch's; the memory is shared.

    Notes
    -----
    A graph keeps the memory of everything between x and the result, and the blocks of the matrix.

    Examples
    --------
    On a machine with a GPU::

        G = A.to_device("gpu")
        product = sm.CapturedProduct(G, x)
        for _ in range(1000):
            x = product(x)
    """

    def __init__(self, matrix: StoredMatrix, x: Array, *, adjoint: bool = False) -> None:
        size = matrix.shape[0] if adjoint else matrix.shape[1]
        example = matrix._storage._example
        array = beside(_check.operand(x, size, matrix.shape, side="rows" if adjoint else "columns"), example)
        recorded = matrix._with_arrays(as_torch)
        self.shape, self.dtype = tuple(array.shape), numpy_dtype(array)
        self._recording = Recording(lambda v: recorded._apply(v, adjointly=adjoint), as_torch(array))

    def __call__(self, x: Array) -> Array:
        """The product, an array of its own, where x is; x has the shape and the dtype of the example."""
        array = _check.operand(x, self.shape[0], self.shape, side="rows")
        wanted = f"the product was recorded for {self.dtype} arrays of shape {self.shape}, but x is"
        if tuple(array.shape) != self.shape:
            raise ShapeError(f"{wanted} of shape {tuple(array.shape)}; record another: CapturedProduct(matrix, x)")
        if numpy_dtype(array) != self.dtype:
            raise TypeError(f"{wanted} {numpy_dtype(array)}; record another: CapturedProduct(matrix, x)")
        result = self._recording(beside(array, self._recording.source))
        return result if same_library(result, array) else beside(result, array)
