"""Compiled kernels for the CPU: Galerkin integrals of 1 / |x - y| over pairs of flat triangles.

Triangles are rows of plain arrays: `corners` (n, 9) holds three points one after the other, `points` (n, 3, q) the
coordinates of the quadrature points of a rule, padded so that whole vectors of them are read. See
`structmat.bem.singlelayer` for the formulas and the choice of the rules.
"""

from __future__ import annotations

import numpy as np
from numba import uint64

from .cpu import jit

# Rules by the gap between two triangles, in units of the radius of the smaller one (CLOSE) or of the larger one: the
# relative errors of the rules, on random pairs with such gaps, are about 1e-5 and less.
CLOSE, NEAR, FAR = 0.3, 0.5, 12.0


@jit
def triangle_potential(corners, normals, t, x, y, z):
    """The integral of 1 / |p - q| over the points q of triangle t, for the point p = (x, y, z), in closed form.

    Each edge gives its distance from p in the plane times the potential of a charged segment, log((a + b + l) / (a + b
    - l)) for the distances a and b from its ends; the solid angle of the triangle times the height is taken off.
    """
    ax, ay, az = corners[t, 0] - x, corners[t, 1] - y, corners[t, 2] - z
    bx, by, bz = corners[t, 3] - x, corners[t, 4] - y, corners[t, 5] - z
    cx, cy, cz = corners[t, 6] - x, corners[t, 7] - y, corners[t, 8] - z
    nx, ny, nz = normals[t, 0], normals[t, 1], normals[t, 2]
    a = np.sqrt(ax * ax + ay * ay + az * az)
    b = np.sqrt(bx * bx + by * by + bz * bz)
    c = np.sqrt(cx * cx + cy * cy + cz * cz)
    total = edge_potential(ax, ay, az, a, bx, by, bz, b, nx, ny, nz)
    total += edge_potential(bx, by, bz, b, cx, cy, cz, c, nx, ny, nz)
    total += edge_potential(cx, cy, cz, c, ax, ay, az, a, nx, ny, nz)
    height = nx * ax + ny * ay + nz * az
    volume = ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)
    ab, bc, ca = ax * bx + ay * by + az * bz, bx * cx + by * cy + bz * cz, cx * ax + cy * ay + cz * az
    angle = 2.0 * np.arctan2(abs(volume), a * b * c + ab * c + bc * a + ca * b)
    return total - abs(height) * angle


@jit
def edge_potential(ax, ay, az, a, bx, by, bz, b, nx, ny, nz):
    """What the edge from a to b, seen from the origin, adds to the potential: 0 where the origin is on its line."""
    ex, ey, ez = bx - ax, by - ay, bz - az
    length = np.sqrt(ex * ex + ey * ey + ez * ez)
    # edge x normal points outwards, and is as long as the edge
    offset = ax * (ey * nz - ez * ny) + ay * (ez * nx - ex * nz) + az * (ex * ny - ey * nx)
    gap = a + b - length
    if gap <= 1e-15 * length:
        return 0.0
    return offset / length * np.log((a + b + length) / gap)


@jit
def self_integral(corners, areas, t):
    """The integral over both points in triangle t: 4/3 area^2 times the sum over edges of log(p / (p - 2 l)) / l.

    p is the perimeter and l the length of the edge.
    """
    lengths = np.empty(3)
    for k in range(3):
        i, j = 3 * k, 3 * ((k + 1) % 3)
        square = 0.0
        for d in range(3):
            square += (corners[t, j + d] - corners[t, i + d]) ** 2
        lengths[k] = np.sqrt(square)
    perimeter = lengths.sum()
    total = 0.0
    for k in range(3):
        # the difference of the other two and this one, without cancellation for needles
        total += np.log(perimeter / (lengths[(k + 1) % 3] + lengths[(k + 2) % 3] - lengths[k])) / lengths[k]
    return 4.0 / 3.0 * areas[t] ** 2 * total


@jit
def exact_inside(corners, normals, areas, outer, inner, rule):
    """The potential of triangle `inner` integrated over `outer` by a rule (q, 3): two coordinates and a weight."""
    total = 0.0
    for k in range(rule.shape[0]):
        u, v = rule[k, 0], rule[k, 1]
        w = 1.0 - u - v
        x = w * corners[outer, 0] + u * corners[outer, 3] + v * corners[outer, 6]
        y = w * corners[outer, 1] + u * corners[outer, 4] + v * corners[outer, 7]
        z = w * corners[outer, 2] + u * corners[outer, 5] + v * corners[outer, 8]
        total += rule[k, 2] * triangle_potential(corners, normals, inner, x, y, z)
    return total * areas[outer]


@jit
def by_points(points, weights, areas, i, j):
    """The integral over both triangles by the points (n, 3, q) of one rule with weights (q,), padded with zeros."""
    total = 0.0
    q = uint64(weights.shape[0])
    i, j = uint64(i), uint64(j)
    for a in range(q):
        if weights[a] == 0.0:
            break
        x, y, z = points[i, 0, a], points[i, 1, a], points[i, 2, a]
        part = 0.0
        for b in range(q):
            dx, dy, dz = points[j, 0, b] - x, points[j, 1, b] - y, points[j, 2, b] - z
            part += weights[b] / np.sqrt(dx * dx + dy * dy + dz * dz)
        total += weights[a] * part
    return total * areas[i] * areas[j]


@jit
def pair_integral(
    corners, normals, areas, centres, radii, touching, close, middle, near, near_weights, far, far_weights, i, j
):
    """The integral over triangles i and j; the outer one is the smaller one, so that (i, j) and (j, i) agree."""
    if i == j:
        return self_integral(corners, areas, i)
    if radii[i] > radii[j] or (radii[i] == radii[j] and i > j):
        i, j = j, i
    square = 0.0
    for d in range(3):
        square += (centres[i, d] - centres[j, d]) ** 2
    gap = np.sqrt(square) - radii[i] - radii[j]  # a lower bound of the distance
    if gap > FAR * radii[j]:
        return by_points(far, far_weights, areas, i, j)
    if gap > NEAR * radii[j]:
        return by_points(near, near_weights, areas, i, j)
    if gap > CLOSE * radii[i]:
        return exact_inside(corners, normals, areas, i, j, middle)
    return exact_inside(corners, normals, areas, i, j, touching if share_a_corner(corners, i, j) else close)


@jit
def share_a_corner(corners, i, j):
    """Whether two triangles have a point in common, by its coordinates."""
    for a in range(0, 9, 3):
        for b in range(0, 9, 3):
            same = corners[i, a] == corners[j, b] and corners[i, a + 1] == corners[j, b + 1]
            if same and corners[i, a + 2] == corners[j, b + 2]:
                return True
    return False


@jit
def single_layer_blocks(
    corners, normals, areas, centres, radii, touching, close, middle, near, near_weights, far, far_weights, scale,
    rows, cols, out, first, last,
):  # fmt: skip
    """Rows first .. last - 1 of all rows of the blocks out (nb, p, q) at triangles rows (nb, p) and cols (nb, q)."""
    p, q = rows.shape[1], cols.shape[1]
    for m in range(first, last):
        b, a = m // p, m % p
        i = rows[b, a]
        for c in range(q):
            j = cols[b, c]
            value = pair_integral(
                corners,
                normals,
                areas,
                centres,
                radii,
                touching,
                close,
                middle,
                near,
                near_weights,
                far,
                far_weights,
                i,
                j,
            )
            out[b, a, c] = scale[i] * scale[j] * value


@jit
def layer_potentials(corners, normals, density, targets, out, first, last):
    """Potentials of the density (n,) at targets (m, 3), each triangle's in closed form."""
    for m in range(first, last):
        total = 0.0
        for t in range(corners.shape[0]):
            total += density[t] * triangle_potential(corners, normals, t, targets[m, 0], targets[m, 1], targets[m, 2])
        out[m] = total
