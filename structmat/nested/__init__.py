"""The nested pass: storage, products and entries of matrices with nested bases, HSS and H2."""

from .matrix import NestedMatrix
from .storage import NestedStorage

__all__ = ["NestedMatrix", "NestedStorage"]
