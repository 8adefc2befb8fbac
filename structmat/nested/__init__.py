"""The nested pass: storage, products and entries of matrices with nested bases, HSS and H2."""

from .storage import NestedStorage

__all__ = ["NestedStorage"]
