"""Random admissible blocks of kernels that cheap low-rank approximation finds hard."""

from dataclasses import dataclass

import numpy as np

from structmat.kernelfunctions import Laplace, Matern, distances
from structmat.sources import KernelSource


def double_layer(x, y):
    """(x - y) . n(y) / |x - y|^d with points (..., 2 d) that carry normals; zero for all x in the plane of y."""
    d = x.shape[-1] // 2
    difference = x[..., :, None, :d] - y[..., None, :, :d]
    along = np.einsum("...ijk,...jk->...ij", difference, y[..., d:])
    return along / np.maximum((difference**2).sum(-1), 1e-30) ** (d / 2)


def helmholtz(x, y, wave_number=20.0):
    r = np.maximum(distances(x, y), 1e-300)
    return np.exp(1j * wave_number * r) / r


def parts_that_do_not_see_each_other(x, y):
    """Zero unless x and y lie in parts of the same number; the parts are strips, as wide as half a block."""
    number = [np.floor(20 * points[..., 0] + 7 * points[..., 1]) % 2 for points in (x, y)]
    return Laplace(dim=2)(x, y) * (number[0][..., :, None] == number[1][..., None, :])


def discontinuous(x, y):
    """A smooth kernel that jumps where x or y cross a circle, and is larger where both have."""
    inside = [((points**2).sum(-1) % 0.3 > 0.17).astype(float) for points in (x, y)]
    both = inside[0][..., :, None] * inside[1][..., None, :]
    return Laplace(dim=2)(x, y) * (1 + 3 * inside[0][..., :, None]) + 0.1 * both


for function in (double_layer, helmholtz, parts_that_do_not_see_each_other, discontinuous):
    function.batched = True


def square_boundary(rng, n):
    """Points of a square and a circle in it, with normals: (n, 4)."""
    side, t = rng.integers(0, 5, n), rng.random(n)
    angle = np.where(side < 4, side * np.pi / 2, 2 * np.pi * t)
    normal = np.column_stack([np.cos(angle), np.sin(angle)])
    along = np.column_stack([-normal[:, 1], normal[:, 0]])
    flat = 0.5 * normal + (t[:, None] - 0.5) * along
    return np.column_stack([np.where(side[:, None] < 4, flat, 0.2 * normal), normal])


def cube_boundary(rng, n):
    """Points of a cube, with normals: (n, 6)."""
    points, axis, sign = rng.random((n, 3)) - 0.5, rng.integers(0, 3, n), rng.choice([-1.0, 1.0], n)
    normal = sign[:, None] * np.eye(3)[axis]
    return np.column_stack([np.where(normal != 0, 0.5 * normal, points), normal])


def cloud(dimension):
    return lambda rng, n: rng.random((n, dimension))


KERNELS = {
    "double layer, 2-D": (double_layer, square_boundary, 2),
    "double layer, 3-D": (double_layer, cube_boundary, 3),
    "Helmholtz": (helmholtz, cloud(3), 3),
    "Matern": (Matern(nu=1.5, length=0.3), cloud(2), 2),
    "zero parts": (parts_that_do_not_see_each_other, cloud(2), 2),
    "discontinuous": (discontinuous, cloud(2), 2),
}


@dataclass
class Blocks:
    """Blocks of a matrix: `rows` (nb, p) and `cols` (nb, q), padded at random places with -1."""

    source: KernelSource
    rows: np.ndarray
    cols: np.ndarray

    def dense(self):
        return self.source.blocks(self.rows, self.cols)


def admissible_blocks(rng, name, count, *, largest=150, points=4000):
    """`count` blocks of points near two random centres, closer to them than half of what is between."""
    kernel, surface, d = KERNELS[name]
    x = surface(rng, points)
    places = x[:, :d]
    rows, cols = [], []
    while len(rows) < count:
        one, other = places[rng.integers(0, points, 2)]
        gap = np.linalg.norm(one - other)
        ball = gap * rng.uniform(0.2, 0.3)
        near, far = (np.flatnonzero(np.linalg.norm(places - c, axis=1) < ball) for c in (one, other))
        if min(len(near), len(far)) > 4:
            rows.append(rng.permutation(near)[: rng.integers(4, largest + 1)])
            cols.append(rng.permutation(far)[: rng.integers(4, largest + 1)])
    return Blocks(KernelSource(kernel, x, x), padded(rng, rows), padded(rng, cols))


def padded(rng, lists):
    width = max(map(len, lists)) + 1
    out = np.full((len(lists), width), -1)
    for line, index in zip(out, lists, strict=True):
        line[np.sort(rng.permutation(width)[: len(index)])] = index
    return out


def errors(blocks, batch):
    """Frobenius norms of the errors, and of the blocks."""
    rest = blocks - batch.left @ batch.right.conj().swapaxes(1, 2)
    return np.linalg.norm(rest, axis=(1, 2)), np.linalg.norm(blocks, axis=(1, 2))
