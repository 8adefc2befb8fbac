"""Compiled kernels for the CPU: a block of vectors through the nested pass.

Arithmetic counts here, so the inner step is BLAS's matrix product (one thread each, the parallelism is over subtrees);
a node's part of the vectors stays in the cache while its blocks pass by. Vectors are rows of numbers: x (leaves, q, m),
coefficients (all, m). Tables and lists are those of `cpu`.
"""

from __future__ import annotations

import numpy as np

from .cpu import jit


@jit
def block_list(buffer, pointers, entries, node, p, q, adjointly, x, x0, y, y0):
    """Add the blocks of one row of the block list to y[y0 + node p:]; x holds the nodes of the level from row x0 on."""
    target = y[y0 + node * p : y0 + (node + 1) * p]
    for e in range(pointers[node], pointers[node + 1]):
        start, other, mirrored = entries[e]
        source = x[x0 + other * q : x0 + (other + 1) * q]
        if (mirrored != 0) != adjointly:
            block = np.ascontiguousarray(np.conj(buffer[start : start + p * q].reshape((q, p)).T))
        else:
            block = buffer[start : start + p * q].reshape((p, q))
        target += np.dot(block, source)


@jit
def block_up(buffer, basis, orders, places, x, coefficients, root, split, top, bottom):
    """As `cpu.nested_up`; x (leaves q, m)."""
    depth = basis.shape[0] - 1
    work = np.empty((basis[:, 1].max(), x.shape[1]), dtype=x.dtype)
    for level in range(bottom, top - 1, -1):
        start, p, k, index = basis[level]
        rest = p if index < 0 else p - k
        for node in range(root << (level - split), (root + 1) << (level - split)):
            at = node * p if level == depth else places[level + 1] + node * p
            below = (x if level == depth else coefficients)[at : at + p]
            out = coefficients[places[level] + node * k : places[level] + (node + 1) * k]
            block = np.conj(buffer[start + node * rest * k : start + (node + 1) * rest * k].reshape((k, rest)))
            if index < 0:
                out[:] = np.dot(block, below)
                continue
            for j in range(rest):
                work[j] = below[orders[index + node * p + k + j]]
            out[:] = np.dot(block, work[:rest])
            for j in range(k):
                out[j] += below[orders[index + node * p + j]]


@jit
def block_down(
    buffer, basis, orders, other_widths, places, other_places, pointers, entries, adjointly,
    sources, coefficients, y, root, split, top, bottom,
):  # fmt: skip
    """As `cpu.nested_down`; y (leaves p, m)."""
    depth = basis.shape[0] - 1
    for level in range(top, bottom + 1):
        start, p, k, index = basis[level]
        rest = p if index < 0 else p - k
        offset = (1 << level) - 1
        for node in range(root << (level - split), (root + 1) << (level - split)):
            block_list(
                buffer, pointers[offset:], entries, node, k, other_widths[level], adjointly,
                sources, other_places[level], coefficients, places[level],
            )  # fmt: skip
            own = coefficients[places[level] + node * k : places[level] + (node + 1) * k]
            at = node * p if level == depth else places[level + 1] + node * p
            below = (y if level == depth else coefficients)[at : at + p]
            block = buffer[start + node * rest * k : start + (node + 1) * rest * k].reshape((k, rest))
            part = np.dot(np.ascontiguousarray(block.T), own)
            if index < 0:
                below += part
                continue
            for j in range(k):
                below[orders[index + node * p + j]] += own[j]
            for j in range(rest):
                below[orders[index + node * p + k + j]] += part[j]


@jit
def block_near(buffer, pointers, entries, adjointly, x, y, first, last, p, q):
    """As `cpu.near_field`; y (leaves p, m) is overwritten."""
    y[first * p : last * p] = 0
    for node in range(first, last):
        block_list(buffer, pointers, entries, node, p, q, adjointly, x, 0, y, 0)
