"""HODLR matrices: weak admissibility, independent bases."""
