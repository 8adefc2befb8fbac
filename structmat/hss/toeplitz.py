"""Products with a Toeplitz matrix by fast Fourier transforms, for the build from products.

A Toeplitz matrix is a corner of a circulant one, and a circulant matrix is diagonal in the Fourier basis.
Reference: G. H. Golub, C. F. Van Loan, "Matrix Computations", 4th ed., section 4.8.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.fft

from .._backend import thread_count
from .._typing import NumpyArray

# vectors transformed at a time: the work space is a few vectors, and never as large as the block itself
COLUMNS = 16


class ToeplitzOperator:
    """The matrix with entries column[i - j] for i >= j, row[j - i] above: products in O((m + n) log(m + n)).

    Parameters
    ----------
    column : (m,) array
        First column.
    row : (n,) array
        First row, of the same dtype; its first entry is not looked at.
    """

    def __init__(self, column: NumpyArray, row: NumpyArray) -> None:
        self.shape = (len(column), len(row))
        self.dtype = column.dtype
        self.length = scipy.fft.next_fast_len(len(column) + len(row) - 1, real=self.dtype.kind != "c")
        self.symbol = self._spectrum(self._circulant(column, row))
        # the adjoint is Toeplitz too: rows and columns change places, conjugated
        adjoint_column = np.concatenate([column[:1], row[1:]]).conj()
        self.adjoint_symbol = self._spectrum(self._circulant(adjoint_column, column.conj()))

    def _circulant(self, column: NumpyArray, row: NumpyArray) -> NumpyArray:
        """First column of the circulant matrix: down the column, zeros, and back along the row."""
        gap = np.zeros(self.length - len(column) - len(row) + 1, dtype=self.dtype)
        return np.concatenate([column, gap, row[:0:-1]])

    def _spectrum(self, x: NumpyArray) -> NumpyArray:
        """The transform along the last axis, padded with zeros."""
        transform: Any = scipy.fft.fft if self.dtype.kind == "c" else scipy.fft.rfft
        return np.asarray(transform(x, self.length, workers=thread_count()))

    def _product(self, symbol: NumpyArray, x: NumpyArray, rows: int) -> NumpyArray:
        if x.dtype.kind == "c" and self.dtype.kind != "c":
            return self._product(symbol, x.real, rows) + 1j * self._product(symbol, x.imag, rows)
        back: Any = scipy.fft.ifft if self.dtype.kind == "c" else scipy.fft.irfft
        out = np.empty((rows, x.shape[1]), dtype=np.result_type(x, self.dtype))
        for first in range(0, x.shape[1], COLUMNS):
            part = np.ascontiguousarray(x[:, first : first + COLUMNS].T)  # a vector a row: transforms read it in order
            spectrum = self._spectrum(part)
            spectrum *= symbol
            out[:, first : first + COLUMNS] = back(spectrum, self.length, workers=thread_count())[:, :rows].T
        return out

    def matmat(self, x: NumpyArray) -> NumpyArray:
        """A @ x for x (n, k)."""
        return self._product(self.symbol, x, self.shape[0])

    def rmatmat(self, x: NumpyArray) -> NumpyArray:
        """A^H @ x for x (m, k)."""
        return self._product(self.adjoint_symbol, x, self.shape[1])
