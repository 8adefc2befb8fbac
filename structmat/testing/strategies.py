"""Hypothesis strategies: sizes, trees, ranks, matrices. Needs hypothesis; `structmat` itself does not."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import strategies as st

from ..tree import ClusterTree, KDSplitter, PrincipalAxisSplitter
from .random import random_hss

__all__ = ["dtypes", "hss_matrices", "leaf_sizes", "point_sets", "ranks", "seeds", "sizes", "trees"]


def sizes(largest: int = 200) -> st.SearchStrategy[int]:
    """Numbers of indices, from 1."""
    return st.integers(1, largest)


def leaf_sizes(largest: int = 40) -> st.SearchStrategy[int]:
    """Largest leaf, from 1."""
    return st.integers(1, largest)


def ranks(largest: int = 6) -> st.SearchStrategy[int]:
    """Ranks, from 0."""
    return st.integers(0, largest)


def seeds() -> st.SearchStrategy[int]:
    """Seeds of NumPy's generator."""
    return st.integers(0, 2**32 - 1)


def dtypes() -> st.SearchStrategy[Any]:
    """The four supported types."""
    return st.sampled_from([np.float32, np.float64, np.complex64, np.complex128]).map(np.dtype)


@st.composite
def point_sets(draw: st.DrawFn, largest: int = 200, dimensions: int = 4) -> Any:
    """Points (n, d), in general position or with duplicates, on a line, or all equal."""
    n, d = draw(sizes(largest)), draw(st.integers(1, dimensions))
    x = np.random.default_rng(draw(seeds())).standard_normal((n, d))
    kind = draw(st.sampled_from(["general", "duplicates", "collinear", "equal"]))
    if kind == "duplicates":
        x = np.round(x)
    elif kind == "collinear":
        x = x[:, :1] * np.ones(d)
    elif kind == "equal":
        x = np.zeros((n, d))
    return x


@st.composite
def trees(draw: st.DrawFn, largest: int = 200) -> ClusterTree:
    """Balanced trees and trees of point sets."""
    leaf = draw(leaf_sizes())
    if draw(st.booleans()):
        return ClusterTree.balanced(draw(sizes(largest)), leaf)
    splitter = draw(st.sampled_from([None, KDSplitter(), PrincipalAxisSplitter()]))
    return ClusterTree.from_points(draw(point_sets(largest)), leaf, splitter)


@st.composite
def hss_matrices(draw: st.DrawFn, largest: int = 120, *, dtype: Any = None, shift: float = 0.0) -> Any:
    """Pairs (HSSMatrix, dense twin): square, Hermitian or not; rectangular ones where there is no shift."""
    kind = draw(dtypes()) if dtype is None else np.dtype(dtype)
    tree = draw(trees(largest))
    rng = np.random.default_rng(draw(seeds()))
    shape = draw(st.sampled_from(["general", "symmetric"] if shift else ["general", "symmetric", "rectangular"]))
    columns = None
    if shape == "rectangular":
        columns = ClusterTree.balanced(draw(st.integers(2**tree.depth, 2**tree.depth + largest)), depth=tree.depth)
    return random_hss(rng, tree, draw(ranks()), kind, shape == "symmetric", col_tree=columns, shift=shift)
