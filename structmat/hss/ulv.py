"""ULV factorisation of a square HSS matrix, level by level.

Reference: S. Chandrasekaran, M. Gu, T. Pals, "A fast ULV decomposition solver for hierarchically semiseparable
representations", SIAM J. Matrix Anal. Appl. 28 (2006) 603-622. At each node the rows that the basis does not reach are
rotated out (their step 1), their unknowns are eliminated by an LQ factorisation (step 2), and what is left, one
unknown for each basis vector, is merged with the sibling's (step 3). Backward stable: only orthogonal transformations.

Cost O(n k^2) to factor and O(n k) to solve.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

from .._backend import adjoint, parallel_ranges
from .._typing import Array, NumpyArray
from ..base import Factorization
from ..engine import cpu_solve, cpu_ulv
from ..engine.dense import SERIAL_BYTES, matmul
from ..exceptions import SingularBlockError
from .generators import Generators, halves, pairs, swap_siblings
from .truncate import orthogonalize

if TYPE_CHECKING:
    from ..tree import ClusterTree
    from .matrix import HSSMatrix


@dataclass(frozen=True)
class UlvLevel:
    """The factors of one level; nb = 2**level nodes of size p, k of whose unknowns go to the parent, e = p - k."""

    q: NumpyArray  # (nb, k, p) reflectors of the row transformation
    q_tau: NumpyArray  # (nb, k)
    p_vectors: NumpyArray  # (nb, e, p) reflectors of the column transformation
    p_tau: NumpyArray  # (nb, e)
    lower: NumpyArray  # (nb, e, e)
    front: NumpyArray  # (nb, k, e)
    gone_basis: NumpyArray  # (nb, kv, e)
    rest: NumpyArray  # (nb, k, k), the row basis in the kept coordinates
    kept_basis: NumpyArray  # (nb, k, kv), the column basis in the kept unknowns
    coupling: NumpyArray  # (nb, k, kv), rest times the coupling to the sibling
    transfer: NumpyArray | None  # (nb, kv, kv of the parent), of the column basis

    @property
    def nbytes(self) -> int:
        """Bytes of the factors of this level."""
        return sum(a.nbytes for a in vars(self).values() if a is not None)


def with_padded_diagonal(diagonal: NumpyArray, tree: ClusterTree) -> tuple[NumpyArray, float]:
    """A copy with a number of the block's size on the diagonal where leaves are padded, and the sum of their logs.

    The solution does not change, and the determinant is corrected by the sum; a one would make small blocks look
    singular.
    """
    if not tree.is_padded:
        return diagonal, 0.0
    out = np.array(diagonal)
    short = np.flatnonzero(tree.sizes(tree.depth) < tree.leaf_size)
    largest = np.abs(out[short]).max(axis=(1, 2)).astype(np.float64)
    value = np.exp2(np.round(np.log2(np.where(largest > 0.0, largest, 1.0))))  # powers of two: no rounding
    out[short, -1, -1] = value
    return out, float(np.log(value).sum())


def narrow(g: Generators) -> Generators:
    """Bases with no more columns than rows: orthogonalised where a sum has made them wider."""
    sides = (g.row_basis, g.col_basis)
    spare = [b.height(level) - b.width(level) for b in sides for level in range(1, g.depth + 1)]
    return orthogonalize(g) if min(spare, default=0) < 0 else g


def merge(kept: NumpyArray, across: NumpyArray) -> NumpyArray:
    """The parents' diagonal blocks: the children's on the diagonal, `across` (row child to sibling) off it."""
    count, k = len(kept) // 2, kept.shape[1]
    out = np.empty((count, 2, k, 2, k), dtype=kept.dtype)
    for child in range(2):
        out[:, child, :, child] = kept[child::2]
        out[:, child, :, 1 - child] = across[child::2]
    return out.reshape(count, 2 * k, 2 * k)


class HSSFactorization(Factorization):
    """The ULV factorisation of an HSS matrix: `solve`, `solve_adjoint`, `slogdet`, `inverse`, `rcond`.

    Obtained from `HSSMatrix.factorize`. It holds its own data and does not change.
    """

    def __init__(self, matrix: HSSMatrix) -> None:
        matrix._require_square("a factorisation")
        self._matrix = matrix
        self.shape, self.dtype = matrix.shape, matrix.dtype
        self._tree, self._col_tree = matrix.row_tree, matrix.col_tree
        g = narrow(matrix.generators).expanded()
        diagonal, self._padding = with_padded_diagonal(g.diagonal, matrix.row_tree)
        self._levels, root = _eliminate(g, diagonal)
        self._root = _root_factor(root)

    @property
    def nbytes(self) -> int:
        """Bytes of the factors."""
        return sum(level.nbytes for level in self._levels) + int(self._root[0].nbytes)

    def __repr__(self) -> str:
        return f"HSSFactorization(shape={self.shape}, dtype={self.dtype}, {self.nbytes / 1e6:.3g} MB)"

    # --------------------------------------------------------------------------------- solving

    def _solve_block(self, b: NumpyArray, *, adjointly: bool) -> NumpyArray:
        source, target = (self._col_tree, self._tree) if adjointly else (self._tree, self._col_tree)
        x = np.array(source.to_leaves(b), dtype=np.result_type(b.dtype, self.dtype), order="C")
        solved = self._adjoint_substitution(x) if adjointly else self._substitution(x)
        return np.ascontiguousarray(target.from_leaves(solved))

    def _substitution(self, x: NumpyArray) -> NumpyArray:
        """A x = b on leaf blocks: up the tree, the root, down the tree."""
        columns, kernels = x.shape[2], substitution_kernels(x)
        blocks, outside = [], None  # outside: V^H z of what the nodes below have eliminated
        for level in self._levels:
            kept = np.empty((len(x), level.q.shape[1], columns), dtype=x.dtype)
            outgoing = np.empty((len(x), level.gone_basis.shape[1], columns), dtype=x.dtype)
            _by_node(
                kernels.ulv_forward, len(x),
                level.q, level.q_tau, level.lower, level.front, level.gone_basis, x, kept, outgoing,
            )  # fmt: skip
            if outside is not None:
                outgoing += outside
            outside = _exchange(level, outgoing, kept)
            blocks.append(x)
            x = pairs(kept)
        x = scipy.linalg.lu_solve(self._root, x[0], check_finite=False)[None]
        for level, block in zip(self._levels[::-1], blocks[::-1], strict=True):
            _by_node(kernels.ulv_backward, len(block), level.p_vectors, level.p_tau, block, halves(x))
            x = block
        return x

    def _adjoint_substitution(self, x: NumpyArray) -> NumpyArray:
        """A^H x = b: the same steps transposed and in reverse."""
        blocks, kernels = [], substitution_kernels(x)
        for level in self._levels:
            e = level.lower.shape[1]
            _by_node(kernels.ulv_adjoint_forward, len(x), level.p_vectors, level.p_tau, x)
            blocks.append(x)
            x = pairs(np.ascontiguousarray(x[:, e:]))
        x = scipy.linalg.lu_solve(self._root, x[0], trans=2, check_finite=False)[None]
        inherited = None  # what the eliminated unknowns see of the world outside their parent
        for level, block in zip(self._levels[::-1], blocks[::-1], strict=True):
            e, kept = level.lower.shape[1], halves(x)
            seen = -swap_siblings(matmul(adjoint(level.coupling), kept))
            if level.transfer is not None and inherited is not None:
                seen += matmul(level.transfer, np.repeat(inherited, 2, axis=0))
            gone = block[:, :e] - matmul(adjoint(level.front), kept) + matmul(adjoint(level.gone_basis), seen)
            block = np.concatenate([kept, gone], axis=1)
            _by_node(kernels.ulv_adjoint_backward, len(block), level.q, level.q_tau, level.lower, block)
            inherited, x = seen, block
        return x

    # ----------------------------------------------------------------------------- determinant

    def slogdet(self) -> tuple[Any, float]:
        """Sign (phase, for complex) and log of the absolute value of the determinant. Cost O(n).

        The orthogonal factors carry the sign: each reflector I - tau v v^H has determinant 1 - tau v^H v.
        """
        real = self.dtype.kind != "c"
        sign: Any = 1.0 if real else 1.0 + 0.0j
        logarithm = 0.0
        for level in self._levels:
            sign *= _reflected(level.q_tau) * np.conj(_reflected(level.p_tau))
            sign *= (-1.0) ** (len(level.q) * level.q.shape[1] * level.lower.shape[1])
            part, size = _signs(np.diagonal(level.lower, axis1=1, axis2=2).ravel())
            sign, logarithm = sign * part, logarithm + size
        lu, pivots = self._root
        part, size = _signs(np.diagonal(lu))
        swaps = int((pivots != np.arange(len(pivots))).sum())
        sign *= part * (-1.0) ** swaps * _permutation_sign(self._tree, self._col_tree)
        return (self.dtype.type(np.sign(sign)) if real else sign / abs(sign)), logarithm + size - self._padding

    def inverse(self, *, rtol: float | None = None) -> HSSMatrix:
        """A^-1 as an HSS matrix, recompressed to `rtol` (default: that of the matrix). Cost O(n k^2)."""
        from .inverse import invert

        return invert(self, rtol=rtol)

    def rcond(self, *, rng: Any = None) -> float:
        """Estimate of 1 / (||A||_2 ||A^-1||_2), by Lanczos iteration on A and on A^-1; an upper estimate."""
        from .._check import generator
        from ..norms import two_norm

        randomness = generator(rng)
        large = two_norm(self._matrix, tol=1e-2, rng=randomness)
        small = two_norm(self.aslinearoperator(), tol=1e-2, rng=randomness)
        return 1.0 / (large * small) if large * small > 0 else 0.0


def _eliminate(g: Generators, diagonal: NumpyArray) -> tuple[list[UlvLevel], NumpyArray]:
    """The factors of all levels, from the leaves up, and the root's block."""
    levels: list[UlvLevel] = []
    d = diagonal
    u, v = (g.row_basis[g.depth], g.col_basis[g.depth]) if g.depth else (d, d)
    for number in range(g.depth, 0, -1):
        transfer = np.ascontiguousarray(halves(g.col_basis[number - 1])) if number > 1 else None
        level, kept = _eliminate_level(d, u, v, g.couplings[number - 1], transfer, number)
        levels.append(level)
        d, u, v = _parent_blocks(level, kept, g, number)
    return levels, d[0]


def _eliminate_level(
    d: NumpyArray, u: NumpyArray, v: NumpyArray, b: NumpyArray, transfer: NumpyArray | None, number: int
) -> tuple[UlvLevel, NumpyArray]:
    """The factors of one level and the blocks (nb, k, k) between the unknowns that are left."""
    nb, p, k = u.shape
    e, kv, dtype = p - k, v.shape[2], d.dtype

    def empty(*shape: int) -> NumpyArray:
        return np.empty((nb, *shape), dtype=dtype)

    q, q_tau, rest, kept = empty(k, p), empty(k), empty(k, k), empty(k, k)
    p_vectors, p_tau, lower, front = empty(e, p), empty(e), empty(e, e), empty(k, e)
    gone, kept_basis = empty(kv, e), empty(k, kv)
    weakest = np.empty(nb)
    _by_node(
        cpu_ulv.ulv_eliminate, nb,
        d, u, v, q, q_tau, rest, p_vectors, p_tau, lower, front, kept, gone, kept_basis, weakest,
    )  # fmt: skip
    if weakest.min() <= np.finfo(dtype).eps:
        node = int(weakest.argmin())
        raise SingularBlockError(
            f"the block of node {node} on level {number} is singular (smallest pivot {weakest[node]:.1e} relative to "
            "its row); add_diagonal(shift) regularises, lstsq solves in the least-squares sense",
            number, node,
        )  # fmt: skip
    coupling = matmul(rest, b)
    return UlvLevel(q, q_tau, p_vectors, p_tau, lower, front, gone, rest, kept_basis, coupling, transfer), kept


def _parent_blocks(
    level: UlvLevel, kept: NumpyArray, g: Generators, number: int
) -> tuple[NumpyArray, NumpyArray, NumpyArray]:
    """Diagonal blocks, row and column bases of the parents, in the unknowns that are left."""
    d = merge(kept, matmul(level.coupling, adjoint(swap_siblings(level.kept_basis))))
    if number == 1:
        return d, d, d
    u = pairs(matmul(level.rest, halves(g.row_basis[number - 1])))
    v = pairs(matmul(level.kept_basis, halves(g.col_basis[number - 1])))
    return d, u, v


def _root_factor(root: NumpyArray) -> tuple[NumpyArray, NumpyArray]:
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", scipy.linalg.LinAlgWarning)  # judged below, with the level and the node
        lu, pivots = scipy.linalg.lu_factor(root, check_finite=False)
    diagonal = np.abs(np.diagonal(lu))
    sizes = np.linalg.norm(root, axis=1)
    for step, other in enumerate(pivots):  # the order that pivoting has brought the rows into
        sizes[[step, other]] = sizes[[other, step]]
    if len(diagonal) and (diagonal <= np.finfo(root.dtype).eps * sizes).any():
        raise SingularBlockError(
            f"the block of the root (level 0, node 0) is singular (smallest pivot {diagonal.min():.1e}); "
            "add_diagonal(shift) regularises, lstsq solves in the least-squares sense",
            0, 0,
        )  # fmt: skip
    return lu, pivots


def _exchange(level: UlvLevel, outgoing: NumpyArray, kept: NumpyArray) -> NumpyArray | None:
    """Take off `kept` what the siblings' eliminated unknowns contribute; returns what they send to the grandparents."""
    nb, kv, columns = outgoing.shape
    if columns == 1:
        transfer = np.empty((nb, kv, 0), dtype=outgoing.dtype) if level.transfer is None else level.transfer
        risen = np.empty((nb // 2, transfer.shape[2], 1), dtype=outgoing.dtype)
        _by_node(cpu_solve.ulv_exchange, nb // 2, level.coupling, transfer, outgoing, kept, risen)
        return None if level.transfer is None else risen
    kept -= matmul(level.coupling, swap_siblings(outgoing))
    if level.transfer is None:
        return None
    risen = matmul(adjoint(level.transfer), outgoing)
    return risen[::2] + risen[1::2]


def substitution_kernels(x: NumpyArray) -> Any:
    """The kernels for one right-hand side, or for several."""
    return cpu_solve if x.shape[2] == 1 else cpu_ulv


def _by_node(kernel: Any, count: int, *arrays: NumpyArray) -> None:
    serial = sum(a.nbytes for a in arrays) < SERIAL_BYTES
    parallel_ranges(lambda a, b: kernel(*arrays, a, b), count, serial=serial)


def _reflected(taus: NumpyArray) -> Any:
    """The product of the determinants 1 - tau v^H v of reflectors; that they are unitary gives v^H v from tau."""
    taus = taus[taus != 0]
    if taus.dtype.kind != "c":
        return (-1.0) ** len(taus)
    values = 1.0 - 2.0 * taus.real / taus.conj()
    return np.exp(1j * np.angle(values).sum())


def _signs(values: NumpyArray) -> tuple[Any, float]:
    """Product of the signs (phases) and sum of the logarithms of the absolute values."""
    size = np.abs(values).astype(np.float64)
    if values.dtype.kind != "c":
        return (-1.0) ** int((values < 0).sum()), float(np.log(size).sum())
    return np.exp(1j * np.angle(values).sum()), float(np.log(size).sum())


def _permutation_sign(rows: ClusterTree, cols: ClusterTree) -> float:
    """The determinant of the reordering of rows against columns, where they have different trees."""
    if rows == cols:
        return 1.0
    where = rows.inverse_perm[cols.perm]
    seen = np.zeros(len(where), dtype=bool)
    cycles = 0
    for start in range(len(where)):
        if not seen[start]:
            cycles += 1
            while not seen[start]:
                seen[start] = True
                start = int(where[start])
    return (-1.0) ** (len(where) - cycles)


def factors_of(factorization: HSSFactorization) -> tuple[list[UlvLevel], tuple[Array, Array]]:
    """The factors of the levels (leaves first) and of the root, for algorithms that need more than solves."""
    return factorization._levels, factorization._root
