"""Dense weights of many layers at once, in few kernels.

On a GPU small layers are bound by launches: to form the weight of each layer, level by level, takes more kernels than
all else in a step. Here the generators of all layers of one structure go to their places in block diagonal matrices by
one indexed copy, and each level is two products for all layers together,

    A^(l) = D + (U A^(l-1)) V^T,  D, U and V block diagonal.

The zeros of these are multiplied too, which costs nothing where launches cost more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from structmat import ClusterTree
from structmat._typing import IntArray

from .telescopic import Telescopic

__all__ = ["JointWeights"]

# for each structure in a layer its parameters by name; all with the same leading axes
Stacks = list[tuple[Telescopic, dict[str, Tensor]]]

# entries of a weight up to which it is formed with its zeros
LARGEST = 1 << 20


class JointWeights(nn.Module):
    """The dense weights of layers, those of one structure together. It holds indices and no parameters.

    Parameters
    ----------
    layers : sequence of stacks
        What `parameter_stacks` of each layer gives; it comes anew with each call, and is not held.
    """

    def __init__(self, layers: Sequence[Stacks]) -> None:
        super().__init__()
        self._leads = _leads(layers)
        for number, (structure, leads) in enumerate(self._leads.items()):
            device = layers[0][0][1]["D0"].device
            index = torch.from_numpy(_positions(structure, [lead.numel() for lead in leads])).to(device)
            self.register_buffer(f"positions{number}", index, persistent=False)

    @staticmethod
    def takes(stacks: Stacks) -> bool:
        """Whether the weights of a layer are small, and have more than one level."""
        return all(s.levels > 0 and s.rows * s.columns <= LARGEST for s, _ in stacks)

    def fits(self, layers: Sequence[Stacks]) -> bool:
        """Whether the layers have the sizes of those that this was made for."""
        return self._leads == _leads(layers)

    def forward(self, layers: Sequence[Stacks]) -> list[list[Tensor]]:
        """For each layer its stacks of dense matrices, each ``(*lead, rows, columns)``."""
        found: dict[tuple[int, Telescopic], Tensor] = {}
        for number, (structure, leads) in enumerate(self._leads.items()):
            members = [(k, stored) for k, stacks in enumerate(layers) for s, stored in stacks if s == structure]
            flat = torch.cat([p.reshape(-1) for _, stored in members for p in stored.values()])
            matrices = _dense(structure, flat, getattr(self, f"positions{number}"), sum(lead.numel() for lead in leads))
            parts = matrices.split([lead.numel() for lead in leads])
            for (k, _), lead, part in zip(members, leads, parts, strict=True):
                found[k, structure] = part.unflatten(0, lead) if lead else part.squeeze(0)
        return [[found[k, structure] for structure, _ in stacks] for k, stacks in enumerate(layers)]


def _leads(layers: Sequence[Stacks]) -> dict[Telescopic, list[torch.Size]]:
    """For each structure the leading axes of the parameters of each layer that has it."""
    leads: dict[Telescopic, list[torch.Size]] = {}
    for stacks in layers:
        for structure, stored in stacks:
            lead = stored["D0"].shape[: stored["D0"].dim() - len(structure.parameter_shapes["D0"])]
            leads.setdefault(structure, []).append(lead)
    return leads


def _dense(structure: Telescopic, flat: Tensor, positions: Tensor, count: int) -> Tensor:
    """So many dense matrices, (count, rows, columns), from all their parameters one after another."""
    full = _full_shapes(structure)
    sizes = [p * q for p, q in full.values()]
    placed = flat.new_zeros(count * sum(sizes)).index_copy(0, positions, flat).unflatten(0, (count, -1))
    parts = {
        name: part.unflatten(1, shape) for (name, shape), part in zip(full.items(), placed.split(sizes, 1), strict=True)
    }
    matrix = parts["D0"]
    for level in range(1, structure.levels + 1):
        diagonal, left, right = (parts[f"{letter}{level}"] for letter in "DUV")
        matrix = torch.baddbmm(diagonal, left @ matrix, right.mT)
    return matrix


def _full_shapes(structure: Telescopic) -> dict[str, tuple[int, int]]:
    """The shape of the block diagonal matrix of each stack; of the leaves without padding."""
    shapes = {}
    for name, (nodes, p, q) in structure.stack_shapes.items():
        leaf = int(name[1:]) == structure.levels
        rows = structure.columns if name[0] == "V" else structure.rows
        shapes[name] = (rows if leaf else nodes * p, structure.columns if leaf and name[0] == "D" else nodes * q)
    return shapes


def _positions(structure: Telescopic, counts: Sequence[int]) -> IntArray:
    """Where each stored number goes in the block diagonal matrices, matrix by matrix.

    The numbers are those of sets of parameters, each of so many matrices, and in each set name by name.
    """
    places, before, full = [], 0, _full_shapes(structure)
    for name, (nodes, p, q) in structure.stack_shapes.items():
        leaf, columns = int(name[1:]) == structure.levels, full[name][1]
        down, across = (np.arange(nodes * size).reshape(nodes, size) for size in (p, q))
        if leaf:
            down = _indices(structure.col_tree if name[0] == "V" else structure.row_tree)
            across = _indices(structure.col_tree) if name[0] == "D" else across
        place = (down[:, :, None] * columns + across[:, None, :]).ravel()
        places.append(before + place[structure.true_entries.get(name, slice(None))])
        before += full[name][0] * columns
    found, first = [], 0
    for count in counts:
        matrices = before * np.arange(first, first + count)[:, None]
        found += [(matrices + place).ravel() for place in places]
        first += count
    return np.concatenate(found)


def _indices(tree: ClusterTree) -> IntArray:
    """The index in each slot of the padded leaves, (leaves, leaf size); any number where there is none."""
    found = np.zeros((1 << tree.depth) * tree.leaf_size, dtype=np.int64)
    found[tree.leaf_slots] = np.arange(tree.n)
    return found.reshape(-1, tree.leaf_size)
