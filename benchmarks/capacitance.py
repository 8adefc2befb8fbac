"""Capacitance of the unit cube: convergence on uniform and graded meshes, and the finest mesh in two minutes.

The mesh is written to a file and read by meshio. Galerkin's method with piecewise constants; the compressed matrix is
solved by conjugate gradients with a loose factorisation. The exact value: J. Helsing, K.-M. Perfekt, 2013.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import structmat as sm
from benchmarks.harness import Report, best_time
from structmat.bem import Capacitance, SingleLayer, TriangleMesh, capacitance

EXACT = 0.66067815409957
GRADING = 3.0
RTOL = 1e-6


def run(report: Report, quick: bool) -> None:
    """Measure convergence, the iteration, dense twins and the finest mesh (quick: coarse meshes)."""
    capacitance(mesh_from_file(4, GRADING), rtol=RTOL)  # compiles
    against_dense(report)
    for grading, name in ((1.0, "uniform"), (2.0, "graded, power 2"), (GRADING, "graded, power 3")):
        convergence(report, name, grading, (4, 8) if quick else (4, 8, 16, 32))
    iterations(report, (4, 8) if quick else (8, 16, 32))
    formats(report, 8 if quick else 24)
    finest(report, 16 if quick else 48)


def mesh_from_file(intervals: int, grading: float) -> TriangleMesh:
    """Return the surface of the unit cube, as a file of Gmsh's format has it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cube.msh"
        TriangleMesh.box(intervals=intervals, grading=grading).write(path)
        return TriangleMesh.read(path)


def error(found: Capacitance) -> float:
    """Return the relative error; Galerkin's method is too small."""
    return 1.0 - found.value / EXACT


def against_dense(report: Report) -> None:
    """The sphere, and the compressed solution against a dense one."""
    spheres = [1.0 - capacitance(TriangleMesh.sphere(k), rtol=RTOL).value for k in (2, 3, 4)]
    report.add("sphere of radius 1, 5120 triangles: error", spheres[-1], "", 1e-3)
    report.add("sphere: error by refinement, ratio", spheres[1] / spheres[2], "", 3.8, at_least=True, note="4: O(h^2)")
    mesh = mesh_from_file(12, GRADING)
    layer, every = SingleLayer(mesh), np.arange(len(mesh))
    moments = layer.moments()
    dense = float(moments @ np.linalg.solve(layer(every, every), moments))
    difference = abs(capacitance(mesh, rtol=RTOL).value / dense - 1.0)
    report.add(f"cube, {len(mesh)} triangles: against a dense solve", difference, "", RTOL)


def convergence(report: Report, name: str, grading: float, intervals: tuple[int, ...]) -> None:
    """Errors on finer and finer meshes, and the order between the last two."""
    errors = []
    for m in intervals:
        errors.append(error(capacitance(mesh_from_file(m, grading), rtol=RTOL)))
        report.add(f"cube, {name}, {12 * m * m} triangles: relative error", errors[-1], "")
    order = float(np.log2(errors[-2] / errors[-1]))
    report.add(f"cube, {name}: order in the number of intervals", order, "")


def iterations(report: Report, intervals: tuple[int, ...]) -> None:
    """Steps to a residual of 1e-10, with and without preconditioners."""
    for m in intervals:
        found = capacitance(mesh_from_file(m, GRADING), rtol=RTOL)
        moments = SingleLayer(TriangleMesh.box(intervals=m, grading=GRADING)).moments()
        kinds: dict[str, Any] = {"H-Cholesky, rtol 1e-2": "auto", "HSS-Cholesky, rtol 1e-2": sm.HSSMatrix, "none": None}
        for name, preconditioner in kinds.items():
            solution = sm.solve(found.matrix, moments, rtol=1e-10, preconditioner=preconditioner)
            note = f"built in {solution.build_seconds:.2f} s, {solution.iteration_seconds:.3f} s"
            report.add(f"cube, {12 * m * m} triangles: steps to 1e-10, {name}", solution.iterations, "", note=note)


def formats(report: Report, intervals: int) -> None:
    """The same matrix as H and as H2, from entries and from H: build, storage, product, iteration."""
    mesh = mesh_from_file(intervals, GRADING)
    v, moments = np.ones(len(mesh)), SingleLayer(mesh).moments()
    found = {format.__name__: capacitance(mesh, rtol=RTOL, format=format) for format in (sm.HMatrix, sm.H2Matrix)}
    matrices = {name: (f.matrix, f.matrix_seconds, "from entries") for name, f in found.items()}
    start = time.perf_counter()
    converted = sm.H2Matrix.from_structured(found["HMatrix"].matrix, rtol=RTOL)
    matrices["H2Matrix from HMatrix"] = converted, time.perf_counter() - start, "the conversion alone"
    for label, (a, seconds, note) in matrices.items():
        name = f"cube, {len(mesh)} triangles, {label}"
        report.add(f"{name}: build", seconds, "s", note=note)
        report.add(f"{name}: stored", a.nbytes / 1e6, "MB")
        report.add(f"{name}: product", 1e3 * best_time(lambda a=a: a @ v, 20), "ms")
        solution = sm.solve(a, moments, rtol=1e-10)
        note = f"built in {solution.build_seconds:.2f} s, {solution.iteration_seconds:.3f} s"
        report.add(f"{name}: steps to 1e-10", solution.iterations, "", note=note)
        error = abs(1.0 - float(moments @ solution.x) / EXACT)
        report.add(f"{name}: relative error", error, "", 5e-5 if intervals >= 16 else None)


def finest(report: Report, intervals: int) -> None:
    """The finest mesh that takes under two minutes, from the file to the capacitance."""
    start = time.perf_counter()
    mesh = mesh_from_file(intervals, GRADING)
    found = capacitance(mesh, rtol=RTOL)
    seconds = time.perf_counter() - start
    name, solution = f"cube, finest mesh, {len(mesh)} triangles", found.solution
    note = f"matrix {found.matrix_seconds:.1f} s, preconditioner {solution.build_seconds:.1f} s, "
    note += f"{solution.iterations} steps {solution.iteration_seconds:.1f} s"
    report.add(f"{name}: time", seconds, "s", 120.0, note=note)
    report.add(f"{name}: relative error", abs(error(found)), "", 5e-5, note=f"{found.value:.9f}, exact {EXACT:.9f}")
    report.add(f"{name}: matrix", found.matrix.nbytes / 1e6, "MB", note=f"dense {8e-6 * len(mesh) ** 2:.0f} MB")
    bound = found.matrix.certificate.upper_bound
    report.add(f"{name}: error of the matrix, bound", bound, "", RTOL, note=type(found.matrix).__name__)
