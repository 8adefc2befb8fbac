"""Data sets of the experiments: seeded generators, a cache on disk, normalisers."""

from .cache import CacheWarning, cache_directory
from .dataset import TEST_SETS, DataSet, Pairs, Recipe
from .loading import load, names, recipe
from .normalise import NORMALISERS, IdentityNormaliser, MaximumNormaliser, MeanStandardNormaliser, Normaliser
from .poisson1d import lift_dirichlet

__all__ = [
    "NORMALISERS",
    "TEST_SETS",
    "CacheWarning",
    "DataSet",
    "IdentityNormaliser",
    "MaximumNormaliser",
    "MeanStandardNormaliser",
    "Normaliser",
    "Pairs",
    "Recipe",
    "cache_directory",
    "lift_dirichlet",
    "load",
    "names",
    "recipe",
]
