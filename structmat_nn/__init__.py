"""Trainable rank-structured matrices for PyTorch.

``structmat_nn`` holds the generators of a `structmat` matrix as torch parameters, and builds neural solvers
from them. It imports `structmat`, never the reverse. The layers arrive in later releases: this one holds the
version only.
"""

try:
    import torch  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise  # torch is there, but something that it needs is not: its own message says what
    message = 'structmat_nn needs PyTorch, which is not installed; install it: pip install "structmat[nn]"'
    raise ImportError(message, name="torch") from error

from structmat import __version__

__all__ = ["__version__"]
