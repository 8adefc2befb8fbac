"""Triangle meshes: geometry, generators, files, and what is refused."""

import sys

import matplotlib.pyplot as plt
import numpy as np
import pytest

import structmat as sm
from structmat.bem import TriangleMesh

TETRAHEDRON = (
    np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=float),
    [
        [0, 2, 1],
        [0, 1, 3],
        [0, 3, 2],
        [1, 2, 3],
    ],
)


def test_geometry_of_a_tetrahedron():
    mesh = TriangleMesh(*TETRAHEDRON)
    np.testing.assert_allclose(mesh.areas, [0.5, 0.5, 0.5, np.sqrt(3) / 2])
    np.testing.assert_allclose(mesh.normals[:3], -np.eye(3)[[2, 1, 0]], atol=1e-15)
    np.testing.assert_allclose(mesh.normals[3], np.full(3, 3**-0.5))
    np.testing.assert_allclose(mesh.centroids[3], np.full(3, 1 / 3))
    assert mesh.volume == pytest.approx(1 / 6)
    assert (mesh.is_closed, mesh.is_oriented, len(mesh), len(mesh.unused_points)) == (True, True, 4, 0)


@pytest.mark.parametrize(("intervals", "grading"), [(1, 1.0), (2, 1.0), (5, 2.0), (8, 3.5)])
def test_boxes(intervals, grading):
    mesh = TriangleMesh.box((1, 2, 3), intervals=intervals, grading=grading)
    assert len(mesh) == 12 * intervals**2
    assert len(mesh.points) == len(mesh) / 2 + 2  # Euler: a closed surface without holes
    assert mesh.is_closed
    assert mesh.is_oriented
    assert mesh.area == pytest.approx(22)
    assert mesh.volume == pytest.approx(6)  # positive: outward normals
    ticks = np.unique(mesh.points[:, 0])
    np.testing.assert_allclose(ticks + ticks[::-1], 1.0, rtol=1e-14)
    if intervals > 1:
        assert ticks[1] == pytest.approx(0.5 * (2 / intervals) ** grading)


def test_spheres():
    errors = []
    for refinements in (1, 2, 3):
        mesh = TriangleMesh.sphere(refinements, radius=2.0)
        assert len(mesh) == 20 * 4**refinements
        assert mesh.is_closed
        assert mesh.is_oriented
        np.testing.assert_allclose(np.linalg.norm(mesh.points, axis=1), 2.0)
        errors.append(1 - mesh.volume / (4 / 3 * np.pi * 8))
    assert errors[2] > 0
    assert np.array(errors[:2]) / errors[1:] == pytest.approx(4.0, rel=0.1)  # O(h^2)


def test_refinement_keeps_the_surface():
    mesh = TriangleMesh.box(intervals=3, grading=2)
    fine = mesh.refine()
    assert len(fine) == 4 * len(mesh)
    assert fine.is_closed
    assert fine.is_oriented
    np.testing.assert_allclose(fine.areas.reshape(-1, 4), np.repeat(mesh.areas[:, None] / 4, 4, axis=1))
    np.testing.assert_allclose(fine.normals.reshape(-1, 4, 3), np.repeat(mesh.normals[:, None], 4, axis=1), atol=1e-12)


def test_open_and_badly_oriented_surfaces():
    points, triangles = TETRAHEDRON
    opened = TriangleMesh(points, triangles[:3])
    turned = TriangleMesh(points, [*triangles[:3], triangles[3][::-1]])
    assert (opened.is_closed, opened.is_oriented) == (False, True)
    assert (turned.is_closed, turned.is_oriented) == (True, False)
    for mesh in (opened, turned):
        with pytest.raises(sm.MeshError, match="only a closed surface of consistently oriented triangles"):
            _ = mesh.volume


@pytest.mark.parametrize(
    ("points", "triangles", "error", "message"),
    [
        (np.zeros((3, 2)), [[0, 1, 2]], sm.ShapeError, r"points must have shape \(p, 3\)"),
        (np.full((3, 3), np.nan), [[0, 1, 2]], sm.NonFiniteError, "points must be finite"),
        (np.eye(3), [[0, 1]], sm.ShapeError, r"triangles must be a non-empty \(n, 3\) array of integers"),
        (np.eye(3), np.zeros((0, 3), int), sm.ShapeError, "non-empty"),
        (np.eye(3), [[0.0, 1.0, 2.0]], sm.ShapeError, "array of integers"),
        (np.eye(3), [[0, 1, 2], [0, 1, 3]], sm.MeshError, r"triangle 1 has the corners \[0, 1, 3\], but there are 3"),
        (np.eye(3), [[0, 1, 2], [1, 1, 2]], sm.MeshError, r"1 of 2 triangles have no area \(the first is number 1"),
        ([[0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]], sm.MeshError, "no area"),
    ],
)
def test_meshes_that_are_refused(points, triangles, error, message):
    with pytest.raises(error, match=message):
        TriangleMesh(points, triangles)


def test_generators_refuse():
    with pytest.raises(ValueError, match="sides must be positive"):
        TriangleMesh.box((1, 0, 1))
    with pytest.raises(ValueError, match="grading must be"):
        TriangleMesh.box(grading=0.5)
    with pytest.raises(ValueError, match="radius must be"):
        TriangleMesh.sphere(1, radius=-1)


@pytest.mark.parametrize("ending", ["msh", "vtu", "stl", "off", "ply"])
def test_files(tmp_path, ending):
    pytest.importorskip("meshio", reason="meshio is not installed")
    mesh = TriangleMesh.box(intervals=3, grading=2)
    data = {"density": np.arange(len(mesh), dtype=float)} if ending in ("msh", "vtu") else {}
    mesh.write(tmp_path / f"cube.{ending}", **data)
    back = TriangleMesh.read(tmp_path / f"cube.{ending}")
    single = ending == "stl"  # which stores float32, and each corner by itself
    assert len(back) == len(mesh)
    np.testing.assert_allclose(back.corners, mesh.corners, rtol=1e-6 if single else 1e-14, atol=1e-7)
    assert back.is_closed or single


def test_what_belongs_to_no_triangle_is_left_out(tmp_path):
    meshio = pytest.importorskip("meshio", reason="meshio is not installed")
    points = np.concatenate([[[9.0, 9.0, 9.0]], TETRAHEDRON[0]])
    cells = [("line", np.array([[1, 2]])), ("triangle", np.array(TETRAHEDRON[1][:2]) + 1)]
    cells.append(("triangle", np.array(TETRAHEDRON[1][2:]) + 1))
    meshio.Mesh(points, cells).write(tmp_path / "mixed.vtu")
    mesh = TriangleMesh.read(tmp_path / "mixed.vtu")
    assert mesh.volume == pytest.approx(1 / 6)
    assert len(mesh.points) == 4
    meshio.Mesh(points, cells[:1]).write(tmp_path / "lines.vtu")
    with pytest.raises(sm.MeshError, match=r"lines.vtu holds no triangles, but line; mesh the surface"):
        TriangleMesh.read(tmp_path / "lines.vtu")
    assert TriangleMesh(points, np.array(TETRAHEDRON[1]) + 1).unused_points.tolist() == [0]


def test_a_mesh_of_gmsh(tmp_path):
    """The mesher itself, where its system libraries are there."""
    pytest.importorskip("meshio", reason="meshio is not installed")
    gmsh = pytest.importorskip(
        "gmsh", reason="gmsh is not installed, or misses a library", exc_type=(ImportError, OSError)
    )
    gmsh.initialize(interruptible=False)
    try:
        gmsh.option.setNumber("General.Terminal", 0)
        gmsh.model.occ.addSphere(0, 0, 0, 1)
        gmsh.model.occ.synchronize()
        gmsh.option.setNumber("Mesh.MeshSizeMax", 0.3)
        gmsh.model.mesh.generate(2)
        gmsh.write(str(tmp_path / "sphere.msh"))
    finally:
        gmsh.finalize()
    mesh = TriangleMesh.read(tmp_path / "sphere.msh")
    assert mesh.is_closed
    assert mesh.volume == pytest.approx(4 / 3 * np.pi, rel=0.03)


def test_without_meshio(monkeypatch):
    monkeypatch.setitem(sys.modules, "meshio", None)
    with pytest.raises(sm.MissingLibraryError, match=r'pip install "structmat\[bem\]"'):
        TriangleMesh.read("cube.msh")


def test_pictures():
    mesh = TriangleMesh.box(intervals=2)
    axes = mesh.plot(mesh.areas, label="area")
    np.testing.assert_array_equal(axes.collections[0].get_array(), mesh.areas)
    mesh.plot(ax=axes)
    with pytest.raises(sm.ShapeError, match="values must have length 48"):
        mesh.plot(np.ones(3))
    axes.figure.canvas.draw()
    plt.close("all")
