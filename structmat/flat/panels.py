"""Blocks of a matrix, subdivided or not, applied to panels: thin matrices that lie in a pool."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._backend import one_blas_thread, parallel_tasks, thread_count
from .._typing import IntArray
from ..blocks import BlockBatch, LowRankBatch
from ..engine import cpu_panels
from .accumulate import Pool
from .leaves import block_keys, find_keys
from .storage import FlatBlocks

CORNERS: IntArray = np.array([[0, 0], [0, 1], [1, 0], [1, 1]])
_NONE = np.zeros(0, dtype=np.int64)
# columns of a table of operations, see `engine.cpu_panels`
OPERATION_COLUMNS = 9


@dataclass(frozen=True)
class LevelBlocks:
    """The blocks of an operand on one level, sorted by key = row * nodes + col."""

    keys: IntArray
    rank: IntArray  # -1: dense
    left: IntArray  # offsets
    right: IntArray


class Operand:
    """The blocks of one factor in the pool, and where to find them."""

    def __init__(self, blocks: FlatBlocks, pool: Pool) -> None:
        self.depth = blocks.depth
        self.levels: list[LevelBlocks] = []
        for level in range(self.depth + 1):
            parts: list[tuple[IntArray, ...]] = [(_NONE,) * 4]
            parts += [_low_rank(level, b, pool) for b in blocks.far[level]]
            if level == self.depth:
                dense = blocks.near[level]
                offsets = pool.put(dense.data)
                parts.append((block_keys(level, dense.rows, dense.cols), _filled(dense, -1), offsets, offsets))
            keys, rank, left, right = (np.concatenate(column) for column in zip(*parts, strict=True))
            order = np.argsort(keys)
            self.levels.append(LevelBlocks(keys[order], rank[order], left[order], right[order]))
        self.row_size, self.col_size = blocks.near[-1].data.shape[1:]

    def size(self, level: int) -> tuple[int, int]:
        """Of the blocks of a level."""
        return self.row_size << (self.depth - level), self.col_size << (self.depth - level)

    def find(self, level: int, rows: IntArray, cols: IntArray) -> IntArray:
        """The index of each block among those of its level; -1 where it is subdivided."""
        return find_keys(self.levels[level].keys, block_keys(level, rows, cols))


def _low_rank(level: int, b: LowRankBatch, pool: Pool) -> tuple[IntArray, ...]:
    return block_keys(level, b.rows, b.cols), _filled(b, b.rank), pool.put(b.left), pool.put(b.right)


def _filled(batch: BlockBatch | LowRankBatch, value: int) -> IntArray:
    return np.full(len(batch), value, dtype=np.int64)


def operations_of(
    operand: Operand, level: int, row: IntArray, col: IntArray, source: IntArray, target: IntArray, columns: IntArray
) -> IntArray:
    """The table of operations that apply blocks of an operand, subdivided or not, to panels; one target a request."""
    request = np.arange(len(row))
    parts = [np.zeros((0, OPERATION_COLUMNS), dtype=np.int64)]
    while len(row):
        found = operand.find(level, row, col)
        hit = found >= 0
        blocks, at = operand.levels[level], found[hit]
        p, q = operand.size(level)
        entries = (
            request[hit], blocks.rank[at], np.full(len(at), p), np.full(len(at), q), blocks.left[at], blocks.right[at],
            source[hit], target[hit], columns[hit],
        )  # fmt: skip
        parts.append(np.stack(entries, axis=1))
        rest = np.flatnonzero(~hit)
        a, b = np.tile(CORNERS[:, 0], len(rest)), np.tile(CORNERS[:, 1], len(rest))
        rest = np.repeat(rest, 4)
        row, col, request, columns = 2 * row[rest] + a, 2 * col[rest] + b, request[rest], columns[rest]
        source, target = source[rest] + b * (q // 2) * columns, target[rest] + a * (p // 2) * columns
        level += 1
    table = np.concatenate(parts)
    return np.ascontiguousarray(table[np.argsort(table[:, 0], kind="stable")])


def run(pool: Pool, tables: list[IntArray]) -> None:
    """Carry the operations out: threads take the requests in shares of about equal work."""
    for table in tables:
        if not len(table):
            continue
        rank, p, q, columns = table[:, 1], table[:, 2], table[:, 3], table[:, 8]
        work = np.cumsum(np.where(rank < 0, p * q, rank * (p + q)) * columns)
        shares = 8 * thread_count()
        cuts = np.searchsorted(work, work[-1] * np.arange(1, shares) / shares)
        cuts = np.searchsorted(table[:, 0], table[cuts, 0])  # a request is not divided
        cuts = np.unique(np.concatenate([[0], cuts, [len(table)]]))

        def share(k: int, table: IntArray = table, cuts: IntArray = cuts) -> None:
            cpu_panels.apply_operations(pool.data, table, cuts[k], cuts[k + 1])

        with one_blas_thread():
            parallel_tasks(share, len(cuts) - 1)
