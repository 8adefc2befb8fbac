"""Random ragged storage and its dense twin, written out node by node."""

from dataclasses import dataclass

import numpy as np

from structmat.blocks import BlockBatch, RaggedBasis, RaggedBatch
from structmat.nested import NestedStorage

DTYPES = [np.float32, np.float64, np.complex64, np.complex128]


def numbers(rng, *shape, dtype=np.float64):
    x = rng.standard_normal(shape)
    return (x + 1j * rng.standard_normal(shape) if np.dtype(dtype).kind == "c" else x).astype(dtype)


def adjoint(a):
    return a.conj().swapaxes(-1, -2)


def flat(parts, dtype):
    return np.concatenate([np.zeros(0, dtype=dtype), *(np.ravel(p) for p in parts)])


@dataclass
class Basis:
    """A ragged basis, and the own array (p, k) of each node by level."""

    ragged: RaggedBasis
    nodes: dict  # (level, node) -> array

    def over_leaves(self, level, node):
        """The basis of a node over the rows of all its leaves."""
        own = self.nodes[level, node]
        if level == self.ragged.depth:
            return own
        children = [self.over_leaves(level + 1, 2 * node + side) for side in (0, 1)]
        cut = children[0].shape[1]
        return np.concatenate([children[0] @ own[:cut], children[1] @ own[cut:]])


def random_basis(rng, depth, leaf, dtype, interpolative, widest=5):
    nodes, levels, ranks, orders = {}, [], [], []
    heights = np.full(1 << depth, leaf)
    for level in range(depth, 0, -1):
        k = np.array([rng.integers(0, min(widest, h) + 1) for h in heights])
        own = []
        for node, (p, rank) in enumerate(zip(heights, k, strict=True)):
            array = numbers(rng, p, rank, dtype=dtype)
            order = rng.permutation(p)
            if interpolative:
                array[order[:rank]] = np.eye(rank)
            nodes[level, node] = array
            own.append((array[order[rank:]] if interpolative else array).T)
            orders.append(order)
        levels.append(flat(own, dtype))
        ranks.append(k)
        orders[-(1 << level) :] = [np.concatenate(orders[-(1 << level) :]).astype(np.int32)]
        heights = k.reshape(-1, 2).sum(axis=1)
    ragged = RaggedBasis(tuple(levels[::-1]), tuple(ranks[::-1]), leaf, tuple(orders[::-1]) if interpolative else None)
    return Basis(ragged, nodes)


def random_places(rng, nodes, count, half):
    pairs = [(i, j) for i in range(nodes) for j in range(nodes) if not half or j <= i]
    chosen = np.array(pairs)[rng.permutation(len(pairs))[:count]].reshape(-1, 2)
    return chosen[:, 0], chosen[:, 1]


def random_block(rng, p, q, i, j, dtype, half):
    block = numbers(rng, p, q, dtype=dtype)
    return block + block.conj().T if half and i == j else block


def random_storage(rng, depth, dtype, half, interpolative):
    """A storage of ragged blocks, and the dense array in the order of the leaves."""
    p, q = (5, 5) if half else (6, 4)
    rows = random_basis(rng, depth, p, dtype, interpolative)
    cols = rows if half else random_basis(rng, depth, q, dtype, interpolative)
    whole = np.zeros((p << depth, q << depth), dtype=np.result_type(dtype, np.float64))

    def put(block, i, j):
        n, m = block.shape
        whole[i * n : (i + 1) * n, j * m : (j + 1) * m] += block
        if half and i != j:
            whole[j * m : (j + 1) * m, i * n : (i + 1) * n] += block.conj().T

    i, j = random_places(rng, 1 << depth, 2 << depth, half)
    dense = np.stack([random_block(rng, p, q, a, b, dtype, half) for a, b in zip(i, j, strict=True)])
    for block, a, b in zip(dense, i, j, strict=True):
        put(block, a, b)
    couplings = []
    for level in range(1, depth + 1):
        r, c = random_places(rng, 1 << level, 3 << level >> 1, half)
        heights, widths = rows.ragged.ranks[level - 1][r], cols.ragged.ranks[level - 1][c]
        blocks = [random_block(rng, h, w, a, b, dtype, half)
                  for h, w, a, b in zip(heights, widths, r, c, strict=True)]  # fmt: skip
        couplings.append(RaggedBatch(flat(blocks, dtype), r, c, heights, widths))
        for block, a, b in zip(blocks, r, c, strict=True):
            put(rows.over_leaves(level, a) @ block @ adjoint(cols.over_leaves(level, b)), a, b)
    storage = NestedStorage(BlockBatch(dense, i, j), tuple(couplings), rows.ragged, cols.ragged, half=half)
    return storage, whole
