"""Says early that H2 is the wrong tool: where ranks grow with the size of the clusters, as those of waves do.

A cluster of half diameter a sends (wavenumber a)^(d - 1) independent waves in d dimensions, so that ranks double with
each doubling of the frequency in 2-D and grow fourfold in 3-D. See S. Boerm, J. M. Melenk, "Approximation of the
high-frequency Helmholtz kernel by nested directional interpolation", Numer. Math. 137 (2017) 1-34.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from .._typing import IntArray
from ..exceptions import StructureWarning
from ..partition import BlockPartition

# size of the largest admissible clusters in wavelengths beyond which a kernel is called oscillatory
WAVELENGTHS = 10.0
# of the bytes of a dense array, and of the entries of the coarsest admissible blocks; smaller matrices are let pass
NO_LESS, NOT_COMPRESSED, SMALL = 0.8, 0.5, 1 << 20


def warn_if_oscillatory(kernel: Any, partition: BlockPartition) -> None:
    """A `StructureWarning` for a kernel with a `wavenumber` that is large for the points, before anything is built."""
    wavenumber = getattr(kernel, "wavenumber", None)
    levels = [level for level, far in enumerate(partition.far) if len(far)]
    if wavenumber is None or not levels:
        return
    diameters = [float(np.linalg.norm(high - low, axis=1).max())
                 for low, high in (t.boxes[0] for t in (partition.row_tree, partition.col_tree))]  # fmt: skip
    low, high = partition.row_tree.boxes[levels[0]]
    largest = float(np.linalg.norm(high - low, axis=1)[partition.far[levels[0]][:, 0]].max())
    waves = (0.5 * wavenumber * largest) ** (low.shape[1] - 1)
    # on a line there are two waves, whatever their length
    if wavenumber * largest > 2.0 * np.pi * WAVELENGTHS and low.shape[1] > 1:
        phase = wavenumber * max(diameters)
        warnings.warn(
            f"H2 is the wrong tool for this oscillatory kernel: wavenumber * diameter = {phase:.3g} is "
            f"{phase / (2 * np.pi):.3g} wavelengths: ranks grow with the size of the clusters, to about {waves:.3g}; "
            "use a directional method or a fast multipole method for high frequencies (to stop here, "
            'warnings.simplefilter("error", structmat.exceptions.StructureWarning))',
            StructureWarning,
            stacklevel=4,
        )


def warn_if_not_compressed(
    stored: BlockPartition, row_ranks: list[IntArray], col_ranks: list[IntArray], itemsize: int
) -> None:
    """A `StructureWarning` where couplings and near field come close to a dense array, before they are evaluated.

    row_ranks, col_ranks: of the nodes of the levels 1 .. depth.
    """
    rows, cols = stored.row_tree, stored.col_tree
    area, kept = np.zeros(stored.depth + 1), np.zeros(stored.depth + 1)
    for level, far in enumerate(stored.far[1:], start=1):
        area[level] = (rows.sizes(level)[far[:, 0]] * cols.sizes(level)[far[:, 1]]).sum()
        kept[level] = (row_ranks[level - 1][far[:, 0]] * col_ranks[level - 1][far[:, 1]]).sum()
    coarse = np.flatnonzero(area[: stored.depth] > 0)
    near = len(stored.near[-1]) * rows.leaf_size * cols.leaf_size
    total, dense = near + kept.sum(), near + area.sum()
    if (
        not len(coarse)
        or rows.n * cols.n < SMALL
        or total < NO_LESS * dense
        or kept[coarse[0]] < NOT_COMPRESSED * area[coarse[0]]
    ):
        return
    means = [round(float(r[r > 0].mean())) for r in row_ranks[::-1] if (r > 0).any()]
    warnings.warn(
        f"the matrix has no H2 structure to speak of at this tolerance: {total * itemsize / 1e6:.3g} MB are needed, a "
        f"dense array takes {dense * itemsize / 1e6:.3g} MB. From the leaves up the ranks are {means}: where they grow "
        "with the clusters, the kernel is oscillatory (use a directional method or a fast multipole method for high "
        "frequencies) or rough; else use a dense array or a larger rtol",
        StructureWarning,
        stacklevel=5,
    )
