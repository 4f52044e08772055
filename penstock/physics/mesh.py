"""Tetrahedral meshes: built from voxels or brought by the user, checked, and turned into surfaces.

Everything here is NumPy in float64 and runs once, before any simulation.
"""

import dataclasses
import itertools
from collections.abc import Iterable

import numpy as np

from penstock._errors import require

_FACES = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
"""Faces of a tetrahedron of positive volume, normals outward."""


@dataclasses.dataclass(frozen=True)
class TetMesh:
    """A tetrahedral mesh.

    Attributes:
        vertices: ``(V, 3)`` float64 positions in metres, ``y`` up.
        tets: ``(T, 4)`` int32 vertex indices; every element has positive volume.
    """

    vertices: np.ndarray
    tets: np.ndarray

    @property
    def volumes(self) -> np.ndarray:
        """``(T,)`` signed element volumes in cubic metres."""
        return tet_volumes(self.vertices, self.tets)


def tet_volumes(vertices: np.ndarray, tets: np.ndarray) -> np.ndarray:
    """Signed volumes ``(T,)`` of the elements ``tets (T, 4)``: positive where corners 1, 2, 3 are right-handed."""
    edges = vertices[tets[:, 1:]] - vertices[tets[:, :1]]
    return np.linalg.det(edges) / 6.0


def voxel_mesh(cells: Iterable[tuple[int, int, int]], spacing: float) -> TetMesh:
    """Meshes a set of cubic voxels with five tetrahedra each.

    A voxel has one tetrahedron of volume ``h^3/3`` on its four corners of even lattice parity and one of ``h^3/6`` at
    each other corner. Because parity is that of the whole lattice, the split alternates from voxel to voxel and the
    face diagonals of neighbours coincide. Elements are ordered voxel by voxel, in the order of ``cells``.

    Args:
        cells: integer lattice positions ``(x, y, z)`` of the voxels, without repetition.
        spacing: edge length h in metres.

    Raises:
        ConfigurationError: no cells, a repeated cell, or a spacing that is not positive.
    """
    chosen = [tuple(int(c) for c in cell) for cell in cells]
    require(len(chosen) > 0, "cells", chosen, "must name at least one voxel")
    require(len(set(chosen)) == len(chosen), "cells", len(chosen), "names a voxel twice; remove the repetition")
    require(spacing > 0, "spacing", spacing, "must be positive (metres)")
    offsets = list(itertools.product((0, 1), repeat=3))
    corners = sorted({tuple(c + o for c, o in zip(cell, off, strict=True)) for cell in chosen for off in offsets})
    index = {corner: i for i, corner in enumerate(corners)}
    tets: list[list[int]] = []
    for cell in chosen:
        lattice = [tuple(c + o for c, o in zip(cell, off, strict=True)) for off in offsets]
        even = [p for p in lattice if sum(p) % 2 == 0]
        tets.append([index[p] for p in even])
        for odd in (p for p in lattice if sum(p) % 2 == 1):
            near = [q for q in lattice if sum(abs(a - b) for a, b in zip(odd, q, strict=True)) == 1]
            tets.append([index[odd], *(index[q] for q in near)])
    vertices = np.array(corners, np.float64) * spacing
    return TetMesh(vertices, _oriented(vertices, np.array(tets, np.int32)))


def _oriented(vertices: np.ndarray, tets: np.ndarray) -> np.ndarray:
    flipped = tets[:, [0, 1, 3, 2]]
    return np.where((tet_volumes(vertices, tets) < 0)[:, None], flipped, tets).astype(np.int32)


def surface(mesh: TetMesh) -> tuple[np.ndarray, np.ndarray]:
    """Extracts the boundary of a mesh.

    Returns:
        ``faces (F, 3)``: vertex indices of the triangles that belong to one element only, normals outward; and
        ``owners (F,)``: the element below each triangle.
    """
    faces = mesh.tets[:, _FACES].reshape(-1, 3)
    owners = np.repeat(np.arange(len(mesh.tets)), 4)
    _, first, count = np.unique(np.sort(faces, axis=1), axis=0, return_index=True, return_counts=True)
    boundary = np.sort(first[count == 1])
    return faces[boundary], owners[boundary]


def without_repetitions(mesh: TetMesh) -> TetMesh:
    """The mesh with every element once, however often it is listed."""
    _, first = np.unique(np.sort(mesh.tets, axis=1), axis=0, return_index=True)
    return mesh if len(first) == len(mesh.tets) else TetMesh(mesh.vertices, mesh.tets[np.sort(first)])


def coinciding_vertices(vertices: np.ndarray, distance: float) -> np.ndarray:
    """For each vertex the first one within ``distance`` metres of it, or of one that is; else itself, ``(V,)``."""
    order = np.argsort(vertices[:, 0], kind="stable")
    ordered = vertices[order]
    first = np.arange(len(vertices))
    for step in range(1, len(vertices)):  # pairs that are ``step`` apart in the order along x
        near = ordered[step:, 0] - ordered[:-step, 0] <= distance
        if not near.any():
            break
        close = near & (np.linalg.norm(ordered[step:] - ordered[:-step], axis=1) <= distance)
        for low, high in zip(order[:-step][close].tolist(), order[step:][close].tolist(), strict=True):
            a, b = _root(first, low), _root(first, high)
            first[max(a, b)] = min(a, b)
    return np.array([_root(first, vertex) for vertex in range(len(vertices))])


def merged(mesh: TetMesh, tolerance: float) -> TetMesh:
    """Joins vertices that are not further apart than ``tolerance`` times the body's size (the diagonal of its box).

    Raises:
        ConfigurationError: the tolerance is not positive, or so large that elements collapse.
    """
    require(0 < tolerance < 0.1, "merge_tolerance", tolerance, "must lie between 0 and 0.1")
    first = coinciding_vertices(mesh.vertices, tolerance * size_of(mesh.vertices))
    kept, inverse = np.unique(first, return_inverse=True)
    tets = inverse.reshape(-1)[mesh.tets].astype(np.int32)
    collapsed = int((np.diff(np.sort(tets, axis=1), axis=1) == 0).any(axis=1).sum())
    require(
        collapsed == 0, "merge_tolerance", tolerance, f"makes {collapsed} elements collapse; choose a smaller tolerance"
    )
    return without_repetitions(TetMesh(mesh.vertices[kept], tets))


def size_of(vertices: np.ndarray) -> float:
    """The diagonal of the box around vertices, in metres."""
    return float(np.linalg.norm(np.ptp(vertices, axis=0)))


def pieces(tets: np.ndarray, shared: int) -> np.ndarray:
    """For each element the number of the first one that it hangs together with, ``(T,)``.

    Args:
        tets: ``(T, 4)``.
        shared: vertices that neighbours share: 3 for a face, 1 for a vertex.
    """
    corners = _FACES if shared == 3 else np.arange(4)[:, None]
    parts = np.sort(tets[:, corners].reshape(-1, shared), axis=1)
    _, group = np.unique(parts, axis=0, return_inverse=True)
    owners = np.repeat(np.arange(len(tets)), 4)
    first = np.arange(len(tets))
    seen: dict[int, int] = {}
    for part, owner in zip(group.reshape(-1).tolist(), owners.tolist(), strict=True):
        if part in seen:
            a, b = _root(first, seen[part]), _root(first, owner)
            first[max(a, b)] = min(a, b)
        else:
            seen[part] = owner
    return np.array([_root(first, element) for element in range(len(tets))])


def _root(first: np.ndarray, index: int) -> int:
    """The head of a set of the union-find forest ``first``, whose paths become shorter on the way."""
    while first[index] != index:
        first[index] = first[first[index]]
        index = first[index]
    return int(index)
