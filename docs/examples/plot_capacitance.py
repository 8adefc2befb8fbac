"""
The capacitance of a cube
=========================

How much charge brings a conducting cube to potential 1? There is no closed form; the best computations say
0.66067815, in units of :math:`4 \\pi \\varepsilon_0` times the edge. The charge density solves an integral equation
on the surface, with a dense matrix of the integrals of 1 / \\|x - y\\| over all pairs of triangles. It is compressed,
and solved by an iteration.
"""

import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LogNorm

import structmat as sm
from structmat.bem import SingleLayer, TriangleMesh, capacitance

EXACT = 0.66067815409957

# %%
# A mesh comes from a file, of any format that meshio reads. Here the file is made first: a cube with triangles that
# become smaller towards its edges, where the charge gathers.

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "cube.msh"
    TriangleMesh.box(intervals=16, grading=3).write(path)
    mesh = TriangleMesh.read(path)
print(mesh)

# %%
# One call builds the compressed matrix, a loose factorisation for the preconditioner, and solves by conjugate
# gradients.

found = capacitance(mesh)
print(f"capacitance {found.value:.7f}, relative error {found.value / EXACT - 1:.1e}")
print(found.solution)
print(f"{found.matrix.nbytes / 8 / len(mesh) ** 2:.0%} of the dense matrix")

# %%
# The density on the surface: it grows like the distance from an edge to the power -1/3, and faster at the corners.
# The brightest triangles are cut off.

figure = plt.figure(figsize=(7, 5.4), layout="constrained")
axes = figure.add_subplot(projection="3d")
mesh.plot(
    found.density, axes, label="charge density at potential 1", norm=LogNorm(vmax=np.quantile(found.density, 0.97))
)
plt.show()

# %%
# Convergence
# -----------
# Galerkin's method gives a capacitance that is too small, by the energy of the error of the density. Uniform meshes
# do not resolve the singularity: the error falls like n to the power -2/3 in the number n of triangles. On graded
# ones it is the power -3/2, which is the best that piecewise constants can do on any surface.

figure, axes = plt.subplots(figsize=(6.4, 4.8), layout="constrained")
for grading, label in ((1, "uniform"), (2, "graded, power 2"), (3, "graded, power 3")):
    meshes = [TriangleMesh.box(intervals=m, grading=grading) for m in (4, 6, 8, 12, 16)]
    sizes = np.array([len(mesh) for mesh in meshes])
    errors = np.array([1 - capacitance(mesh).value / EXACT for mesh in meshes])
    axes.loglog(sizes, errors, "o-", label=label)
    print(f"{label}: {errors[-1]:.1e} with {sizes[-1]} triangles")
axes.loglog(sizes, 0.23 * sizes ** (-2 / 3), "k--", linewidth=0.8, label="$n^{-2/3}$")
axes.loglog(sizes, 2.2 * sizes**-1.5, "k:", linewidth=0.8, label="$n^{-3/2}$")
axes.axhline(5e-5, color="grey", linewidth=0.8)
axes.annotate("four digits", (sizes[2], 5e-5), xytext=(0, 3), textcoords="offset points", color="grey")
axes.set(xlabel="triangles", ylabel="relative error of the capacitance")
axes.legend()
plt.show()

# %%
# The iteration
# -------------
# Without a preconditioner the matrix is well enough conditioned for a few dozen steps, which grow in number with the
# mesh. The loose factorisation needs a handful, on any mesh.

layer = SingleLayer(mesh)
figure, axes = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
for preconditioner in ("auto", sm.HSSMatrix, None):
    solution = sm.solve(found.matrix, layer.moments(), rtol=1e-10, preconditioner=preconditioner)
    solution.plot(axes)
plt.show()

# %%
# Does it solve the problem? The potential of this charge, which :meth:`~structmat.bem.SingleLayer.potential`
# evaluates in closed form, is 1 everywhere inside the conductor.

x = np.linspace(-0.6, 1.6, 90)
points = np.stack([np.repeat(x, len(x)), np.full(x.size**2, 0.5), np.tile(x, len(x))], axis=1)
potential = layer.potential(found.density, points).reshape(x.size, x.size)
figure, axes = plt.subplots(figsize=(5.4, 4.6), layout="constrained")
shown = axes.contourf(x, x, potential.T, levels=np.linspace(0.4, 1.0, 25), extend="both")
figure.colorbar(shown, label="potential in the plane through the centre")
axes.add_patch(plt.Rectangle((0, 0), 1, 1, fill=False, color="white"))
axes.set_aspect("equal")
plt.show()
inside = (np.abs(points[:, [0, 2]] - 0.5) < 0.45).all(axis=1)
print(f"largest deviation from 1 inside: {np.abs(potential.ravel()[inside] - 1).max():.1e}")
