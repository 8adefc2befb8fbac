"""Data sets of the experiments: seeded generators, a cache on disk, normalisers."""

from .cache import CacheWarning, cache_directory
from .dataset import TEST_SETS, DataSet, Pairs, Recipe
from .loading import load, names, recipe
from .poisson1d import lift_dirichlet

__all__ = [
    "TEST_SETS",
    "CacheWarning",
    "DataSet",
    "Pairs",
    "Recipe",
    "cache_directory",
    "lift_dirichlet",
    "load",
    "names",
    "recipe",
]
