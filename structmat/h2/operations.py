"""The arithmetic of H2Matrix: checks at the door, then the algorithms of this folder."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import _check
from .._backend import is_numpy
from ..certificate import Certificate
from ..exceptions import DeviceError
from ..tree import ClusterTree
from . import truncate
from .blocks import H2Blocks


class H2Operations:
    """Sums, updates, recompression and norms."""

    def _with_blocks(
        self: Any, blocks: H2Blocks, certificate: Certificate | None = None,
        trees: tuple[ClusterTree, ClusterTree] | None = None,
    ) -> Any:  # fmt: skip
        row_tree, col_tree = trees or (self.row_tree, self.col_tree)
        return type(self)(blocks, row_tree, col_tree, certificate or self.certificate)

    def _result(
        self: Any, exact: H2Blocks, rtol: float, *, atol: float = 0.0, max_rank: int | None = None, spent: float = 0.0,
        asked: float | None = None, trees: tuple[ClusterTree, ClusterTree] | None = None,
    ) -> Any:  # fmt: skip
        """Truncate an exact result and certify the truncation; `spent` is the absolute error made before."""
        _require_host(exact)
        cut = truncate.truncate(exact, rtol=rtol, atol=atol, max_rank=max_rank)
        scale = 1.0 / cut.size if cut.size > 0 else 0.0
        rounding = max(cut.rounding * scale, float(np.finfo(exact.near.data.dtype).eps))
        bound = (cut.error + spent) * scale + rounding
        granted = max(rtol if asked is None else asked, atol * scale, 2.0 * rounding)
        certificate = Certificate(granted, bound, bound, 1.0, "recompression of the exact result of the operands")
        certificate.warn_if_not_met("raise max_rank", stacklevel=5)
        return self._with_blocks(cut.blocks, certificate, trees)

    def truncate(self: Any, *, rtol: float | None = None, atol: float = 0.0, max_rank: int | None = None) -> Any:
        """The matrix with ranks as small as the tolerance allows.

        Parameters
        ----------
        rtol, atol : float
            Frobenius error allowed, relative to the norm of the matrix or absolute; the larger one counts. Within a
            level it is spent where it saves most: on the values that are smallest for the numbers that they take.
        max_rank : int, optional
            No rank exceeds this; where the tolerance then is not met, an `AccuracyWarning` says so.

        Notes
        -----
        The error bound in the certificate is guaranteed (relative to the matrix as stored). Cost O(k^3) for each
        coupling and node, O(n k^2) for leaves of about k indices. The result has orthonormal bases.

        References
        ----------
        S. Boerm, "Efficient Numerical Methods for Non-local Operators", EMS 2010, chapter 6.

        Examples
        --------
        >>> import numpy as np, structmat as sm
        >>> points = np.random.default_rng(0).random((2000, 2))
        >>> A = sm.H2Matrix.from_kernel(sm.kernelfunctions.Laplace(dim=2), points, rtol=1e-8)
        >>> B = A.truncate(rtol=1e-3)
        >>> B.certificate.met, B.nbytes < A.nbytes
        (True, True)
        """
        cap = None if max_rank is None else _check.positive_integer(max_rank, "max_rank", minimum=0)
        return self._result(self.blocks, self._tolerance(rtol), atol=_check.tolerance(atol, "atol"), max_rank=cap)

    def _frobenius(self: Any) -> float:
        blocks = self.blocks
        _require_host(blocks)
        return float(np.sqrt(truncate.squared_norm(truncate.orthogonalize(blocks).blocks)))


def _require_host(blocks: H2Blocks) -> None:
    if not is_numpy(blocks.near.data):
        raise DeviceError('sums, recompression and norms of H2-matrices run on the CPU: call A.to_device("cpu") first')
