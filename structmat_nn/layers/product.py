"""The product with a telescopic matrix as one node of the autograd graph.

Recorded operation by operation, a small layer spends much of a training step on bookkeeping. Here forward, backward
and forward-mode derivatives are sweeps over the levels, written out: one batched product for each stack and derivative,
sums inside the products, no copies. Only the input is kept; the coefficients of inner nodes, a small part of the work,
are computed again. The derivatives are products of inputs, so that they can be differentiated again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["block_product"]


class _Level(NamedTuple):
    """The stacks of one level: D (nodes, p, q), U (nodes, p, r), V (nodes, q, c)."""

    diagonal: Tensor
    row_basis: Tensor
    col_basis: Tensor


def block_product(core: Tensor, levels: Sequence[tuple[Tensor, Tensor, Tensor]], x: Tensor) -> Tensor:
    """The product with the columns of x.

    Parameters
    ----------
    core : (rows, columns) tensor
        The matrix of the level above those in `levels`.
    levels : sequence of (D, U, V)
        The stacks of the levels below it, the leaves last, without leading axes.
    x : (padded columns, k) tensor
        In the order of the padded leaves.

    Returns
    -------
    (padded rows, k) tensor
    """
    product: Tensor = _BlockProduct.apply(x, core, *(stack for level in levels for stack in level))
    return product


def _levels(stacks: Sequence[Any]) -> list[_Level]:
    return [_Level(*stacks[k : k + 3]) for k in range(0, len(stacks), 3)]


def _by_node(z: Tensor, stack: Tensor) -> Tensor:
    """The rows of z by the nodes of a stack, (nodes, rows / nodes, k)."""
    nodes = stack.shape[0]
    return z.view(nodes, z.shape[0] // nodes, z.shape[1])


def _up(levels: Sequence[_Level], x: Tensor) -> tuple[list[Tensor], Tensor]:
    """What arrives at the nodes of each level, (nodes, q, k), and at the core."""
    sources = []
    for level in reversed(levels):
        blocks = _by_node(x, level.diagonal)
        sources.append(blocks)
        x = torch.bmm(level.col_basis.mT, blocks).flatten(0, 1)
    return sources[::-1], x


def _down(levels: Sequence[_Level], sources: Sequence[Tensor], y: Tensor) -> tuple[list[Tensor], Tensor]:
    """What comes to the nodes of each level from above, (nodes, r, k), and what leaves the last level."""
    incoming = []
    for level, source in zip(levels, sources, strict=False):
        coefficients = _by_node(y, level.row_basis)
        incoming.append(coefficients)
        y = _added(torch.bmm(level.diagonal, source), level.row_basis, coefficients).flatten(0, 1)
    return incoming, y


def _added(total: Tensor, left: Tensor, right: Tensor) -> Tensor:
    """Total + left @ right, in the memory of `total` unless the sum is itself recorded."""
    return torch.baddbmm(total, left, right) if torch.is_grad_enabled() else total.baddbmm_(left, right)


class _BlockProduct(torch.autograd.Function):
    @staticmethod
    def forward(x: Tensor, core: Tensor, *stacks: Tensor) -> Tensor:
        levels = _levels(stacks)
        sources, z = _up(levels, x)
        return _down(levels, sources, core @ z)[1]

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, core, *stacks = ctx.saved_tensors
        levels = _levels(stacks)
        sources, z = _up(levels, x)
        incoming = _down(levels[:-1], sources, core @ z)
        coefficients = [*incoming[0], _by_node(incoming[1], levels[-1].row_basis)]
        adjoint = [_Level(level.diagonal.mT, level.col_basis, level.row_basis) for level in levels]
        outputs, g = _up(adjoint, gradient)  # the gradients of what each node gives
        inner, h = _down(adjoint[:-1], outputs, core.mT @ g)
        returned = [*inner, _by_node(h, levels[-1].col_basis)]
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = _down(adjoint[-1:], outputs[-1:], h)[1]
        of_stacks = []
        for output, source, coefficient, back in zip(outputs, sources, coefficients, returned, strict=True):
            for left, right in ((output, source), (output, coefficient), (source, back)):
                of_stacks.append(torch.bmm(left, right.mT))
        return of_x, g @ z.mT, *of_stacks

    @staticmethod
    def jvp(ctx: Any, *tangents: Tensor | None) -> Tensor:
        inputs = ctx.saved_tensors
        x, core, *stacks = inputs
        dx, dcore, *changes = (torch.zeros_like(a) if d is None else d for a, d in zip(inputs, tangents, strict=True))
        levels, moved = _levels(stacks), _levels(changes)
        sources, z = _up(levels, x)
        moved_sources = []
        for level, change, source in zip(reversed(levels), reversed(moved), reversed(sources), strict=True):
            blocks = _by_node(dx, level.diagonal)
            moved_sources.append(blocks)
            dx = torch.baddbmm(torch.bmm(level.col_basis.mT, blocks), change.col_basis.mT, source).flatten(0, 1)
        dy, y = core @ dx + dcore @ z, core @ z
        for level, change, source, blocks in zip(levels, moved, sources, reversed(moved_sources), strict=True):
            c, dc = _by_node(y, level.row_basis), _by_node(dy, level.row_basis)
            dy = torch.baddbmm(torch.bmm(level.diagonal, blocks), level.row_basis, dc)
            dy = torch.baddbmm(torch.baddbmm(dy, change.diagonal, source), change.row_basis, c).flatten(0, 1)
            y = torch.baddbmm(torch.bmm(level.diagonal, source), level.row_basis, c).flatten(0, 1)
        return dy
