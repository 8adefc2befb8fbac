"""Boundary integrals on surfaces of flat triangles: meshes, the single-layer operator and capacitances."""

from __future__ import annotations

from .capacitance import Capacitance, capacitance
from .mesh import TriangleMesh
from .singlelayer import SingleLayer

__all__ = ["Capacitance", "SingleLayer", "TriangleMesh", "capacitance"]
