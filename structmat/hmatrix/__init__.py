"""H-matrices: strong admissibility, independent bases."""
