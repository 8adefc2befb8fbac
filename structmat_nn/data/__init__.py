"""Data sets of the experiments: seeded generators, a cache on disk, normalisers."""
