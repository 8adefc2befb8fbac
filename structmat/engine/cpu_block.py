"""Compiled kernels for the CPU: a block of vectors through the nested pass.

Arithmetic counts here, so the inner step is BLAS's matrix product (one thread each, the parallelism is over subtrees);
a node's part of the vectors stays in the cache while its blocks pass by. Vectors are rows of numbers: x (leaves, q, m),
coefficients (all, m). Tables and lists are those of `cpu`.
"""

from __future__ import annotations

import numpy as np

from .cpu import jit
from .cpu_flat import widened


@jit
def block_times(buffer, start, p, q, turned, source, target, work, room):
    """As `cpu.apply_block`, for the rows `source` of the vectors and the rows `target` of the result."""
    numbers = widened(buffer, start, p * q, room)
    if turned:
        np.dot(np.ascontiguousarray(np.conj(numbers.reshape((q, p)).T)), source, work[:p])
    else:
        np.dot(numbers.reshape((p, q)), source, work[:p])
    target += work[:p]


@jit
def block_across(
    buffer, basis, places, other, other_places, pointers, entries, adjointly, sources, coefficients, root, split, top,
    bottom,
):  # fmt: skip
    """As `cpu.nested_across`."""
    tallest = basis[:, 2].max()
    work = np.empty((tallest, sources.shape[1]), dtype=sources.dtype)
    room = np.empty(tallest * other[:, 2].max(), dtype=sources.dtype)
    for level in range(top, bottom + 1):
        offset = (1 << level) - 1
        for node in range(offset + (root << (level - split)), offset + ((root + 1) << (level - split))):
            k = basis[node, 2]
            own = coefficients[places[node] : places[node] + k]
            for e in range(pointers[node], pointers[node + 1]):
                block, source, mirrored = entries[e]
                q, first = other[source, 2], other_places[source]
                turned = (mirrored != 0) != adjointly
                block_times(buffer, block, k, q, turned, sources[first : first + q], own, work, room)


@jit
def block_up(buffer, basis, orders, places, x, coefficients, root, split, top, bottom, depth):
    """As `cpu.nested_up`; x (leaves q, m). The conjugate is taken of the vectors, not of the basis."""
    columns = x.shape[1]
    work = np.empty((basis[:, 1].max(), columns), dtype=x.dtype)
    product = np.empty((basis[:, 2].max(), columns), dtype=x.dtype)
    room = np.empty((basis[:, 1] * basis[:, 2]).max(), dtype=x.dtype)
    for level in range(bottom, top - 1, -1):
        offset = (1 << level) - 1
        for node in range(offset + (root << (level - split)), offset + ((root + 1) << (level - split))):
            start, p, k, index = basis[node]
            rest = p if index < 0 else p - k
            at = (node - offset) * p if level == depth else places[2 * node + 1]
            below = (x if level == depth else coefficients)[at : at + p]
            out = coefficients[places[node] : places[node] + k]
            for j in range(rest):
                row = below[j] if index < 0 else below[orders[index + k + j]]
                for c in range(columns):
                    work[j, c] = np.conj(row[c])
            np.dot(widened(buffer, start, rest * k, room).reshape((k, rest)), work[:rest], product[:k])
            for j in range(k):
                for c in range(columns):
                    out[j, c] = np.conj(product[j, c])
                if index >= 0:
                    out[j] += below[orders[index + j]]


@jit
def block_down(
    buffer, basis, orders, places, other, other_places, pointers, entries, adjointly, sources, coefficients, y, root,
    split, top, bottom, depth,
):  # fmt: skip
    """As `cpu.nested_down`; y (leaves p, m)."""
    widest = basis[:, 2].max()
    work = np.empty((max(basis[:, 1].max(), widest), y.shape[1]), dtype=y.dtype)
    room = np.empty(max((basis[:, 1] * basis[:, 2]).max(), widest * other[:, 2].max()), dtype=y.dtype)
    for level in range(top, bottom + 1):
        offset = (1 << level) - 1
        for node in range(offset + (root << (level - split)), offset + ((root + 1) << (level - split))):
            start, p, k, index = basis[node]
            rest = p if index < 0 else p - k
            own = coefficients[places[node] : places[node] + k]
            for e in range(pointers[node], pointers[node + 1]):
                block, source, mirrored = entries[e]
                q, first = other[source, 2], other_places[source]
                turned = (mirrored != 0) != adjointly
                block_times(buffer, block, k, q, turned, sources[first : first + q], own, work, room)
            at = (node - offset) * p if level == depth else places[2 * node + 1]
            below = (y if level == depth else coefficients)[at : at + p]
            np.dot(widened(buffer, start, rest * k, room).reshape((k, rest)).T, own, work[:rest])
            if index < 0:
                below += work[:rest]
                continue
            for j in range(k):
                below[orders[index + j]] += own[j]
            for j in range(rest):
                below[orders[index + k + j]] += work[j]


@jit
def block_near(buffer, pointers, entries, adjointly, x, y, first, last, p, q, fresh):
    """As `cpu.near_field`; y (leaves p, m)."""
    if fresh:
        y[first * p : last * p] = 0
    work, room = np.empty((p, y.shape[1]), dtype=y.dtype), np.empty(p * q, dtype=y.dtype)
    for node in range(first, last):
        target = y[node * p : (node + 1) * p]
        for e in range(pointers[node], pointers[node + 1]):
            block, source, mirrored = entries[e]
            turned = (mirrored != 0) != adjointly
            block_times(buffer, block, p, q, turned, x[source * q : (source + 1) * q], target, work, room)
