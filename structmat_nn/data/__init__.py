"""Data sets of the experiments: seeded generators, a cache on disk, normalisers."""

from .cache import CacheWarning, cache_directory
from .dataset import TEST_SETS, DataSet, Pairs, Recipe
from .lifting2d import lift_dirichlet2d
from .loading import load, names, recipe
from .normalise import (
    NORMALISERS,
    CentredMaximumNormaliser,
    IdentityNormaliser,
    MaximumNormaliser,
    MeanStandardNormaliser,
    Normaliser,
)
from .poisson1d import lift_dirichlet
from .well import WellFile, load_well

__all__ = [
    "NORMALISERS",
    "TEST_SETS",
    "CacheWarning",
    "CentredMaximumNormaliser",
    "DataSet",
    "IdentityNormaliser",
    "MaximumNormaliser",
    "MeanStandardNormaliser",
    "Normaliser",
    "Pairs",
    "Recipe",
    "WellFile",
    "cache_directory",
    "lift_dirichlet",
    "lift_dirichlet2d",
    "load",
    "load_well",
    "names",
    "recipe",
]
