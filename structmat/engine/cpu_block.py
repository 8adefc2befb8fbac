"""Compiled kernels for the CPU: a block of vectors through the nested pass.

Arithmetic counts here, so the inner step is BLAS's matrix product (one thread each, the parallelism is over subtrees);
a node's part of the vectors stays in the cache while its blocks pass by. Vectors are rows of numbers: x (leaves, q, m),
coefficients (all, m). Tables and lists are those of `cpu`.
"""

from __future__ import annotations

import numpy as np

from .cpu import jit


@jit
def block_list(buffer, pointers, entries, node, p, q, adjointly, x, x0, y, y0, work):
    """Add the blocks of one row of the block list to y[y0 + node p:]; x holds the nodes of the level from row x0 on."""
    target = y[y0 + node * p : y0 + (node + 1) * p]
    for e in range(pointers[node], pointers[node + 1]):
        start, other, mirrored = entries[e]
        source = x[x0 + other * q : x0 + (other + 1) * q]
        if (mirrored != 0) != adjointly:
            block = np.ascontiguousarray(np.conj(buffer[start : start + p * q].reshape((q, p)).T))
            np.dot(block, source, work[:p])
        else:
            np.dot(buffer[start : start + p * q].reshape((p, q)), source, work[:p])
        target += work[:p]


@jit
def block_up(buffer, basis, orders, places, x, coefficients, root, split, top, bottom):
    """As `cpu.nested_up`; x (leaves q, m). The conjugate is taken of the vectors, not of the basis."""
    depth, columns = basis.shape[0] - 1, x.shape[1]
    work = np.empty((basis[:, 1].max(), columns), dtype=x.dtype)
    product = np.empty((basis[:, 2].max(), columns), dtype=x.dtype)
    for level in range(bottom, top - 1, -1):
        start, p, k, index = basis[level]
        rest = p if index < 0 else p - k
        for node in range(root << (level - split), (root + 1) << (level - split)):
            at = node * p if level == depth else places[level + 1] + node * p
            below = (x if level == depth else coefficients)[at : at + p]
            out = coefficients[places[level] + node * k : places[level] + (node + 1) * k]
            for j in range(rest):
                row = below[j] if index < 0 else below[orders[index + node * p + k + j]]
                for c in range(columns):
                    work[j, c] = np.conj(row[c])
            block = buffer[start + node * rest * k : start + (node + 1) * rest * k].reshape((k, rest))
            np.dot(block, work[:rest], product[:k])
            for j in range(k):
                for c in range(columns):
                    out[j, c] = np.conj(product[j, c])
                if index >= 0:
                    out[j] += below[orders[index + node * p + j]]


@jit
def block_down(
    buffer, basis, orders, other_widths, places, other_places, pointers, entries, adjointly,
    sources, coefficients, y, root, split, top, bottom,
):  # fmt: skip
    """As `cpu.nested_down`; y (leaves p, m)."""
    depth = basis.shape[0] - 1
    work = np.empty((basis[:, 1].max(), y.shape[1]), dtype=y.dtype)
    for level in range(top, bottom + 1):
        start, p, k, index = basis[level]
        rest = p if index < 0 else p - k
        offset = (1 << level) - 1
        for node in range(root << (level - split), (root + 1) << (level - split)):
            block_list(
                buffer, pointers[offset:], entries, node, k, other_widths[level], adjointly,
                sources, other_places[level], coefficients, places[level], work,
            )  # fmt: skip
            own = coefficients[places[level] + node * k : places[level] + (node + 1) * k]
            at = node * p if level == depth else places[level + 1] + node * p
            below = (y if level == depth else coefficients)[at : at + p]
            block = buffer[start + node * rest * k : start + (node + 1) * rest * k].reshape((k, rest))
            np.dot(block.T, own, work[:rest])
            if index < 0:
                below += work[:rest]
                continue
            for j in range(k):
                below[orders[index + node * p + j]] += own[j]
            for j in range(rest):
                below[orders[index + node * p + k + j]] += work[j]


@jit
def block_near(buffer, pointers, entries, adjointly, x, y, first, last, p, q):
    """As `cpu.near_field`; y (leaves p, m) is overwritten."""
    y[first * p : last * p] = 0
    work = np.empty((p, y.shape[1]), dtype=y.dtype)
    for node in range(first, last):
        block_list(buffer, pointers, entries, node, p, q, adjointly, x, 0, y, 0, work)
