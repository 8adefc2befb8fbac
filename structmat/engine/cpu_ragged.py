"""Compiled kernels for the CPU: copies of many small rectangles, each at a place and of a shape of its own.

With them blocks of different shapes are padded to a common one, put side by side or on top of each other, and back. The
table has a row for each rectangle: start and row length of where it comes from, start and row length of where it goes,
and its numbers of rows and columns there where it comes from.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import jit


@jit
def copy_rectangles(source, target, table, first, last):
    """Copy the rectangles first .. last - 1."""
    for e in range(first, last):
        start, stride, place, step, rows, columns = table[e]
        for i in range(rows):
            a, b = uint64(start + i * stride), uint64(place + i * step)
            for j in range(uint64(columns)):
                target[b + j] = source[a + j]


@jit
def copy_adjoints(source, target, table, first, last):
    """Copy the conjugate transposes of the rectangles first .. last - 1."""
    for e in range(first, last):
        start, stride, place, step, rows, columns = table[e]
        for i in range(rows):
            a, b = uint64(start + i * stride), uint64(place + i)
            for j in range(uint64(columns)):
                target[b + j * uint64(step)] = np.conj(source[a + j])
