"""Compute kernels: `reference` in plain array operations for every library, `cpu` compiled with Numba."""
