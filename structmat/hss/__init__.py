"""Hierarchically semiseparable matrices: weak admissibility, nested bases."""
