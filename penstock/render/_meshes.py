"""Turns the items of a scene into coloured triangles."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from penstock._errors import require
from penstock.render._raster import Mesh
from penstock.scene.items import Ball, Segment, Solid, Surface
from penstock.scene.shapes import ball, is_closed

CONTRACTION, NEUTRAL, EXPANSION = (0.90, 0.42, 0.27), (0.95, 0.92, 0.86), (0.24, 0.55, 0.82)
"""Tints at values 1, 0 and -1: a diverging scale that red-green colour blindness keeps apart."""


def tint(values: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 3"]:
    """Colours of the diverging scale for ``values`` in [-1, 1] (clipped; NaN counts as 0)."""
    clean = np.clip(np.nan_to_num(values), -1.0, 1.0)[:, None]
    neutral = np.array(NEUTRAL)
    end = np.where(clean > 0, CONTRACTION, EXPANSION)
    # The root lets small activations show.
    return neutral + np.abs(clean) ** 0.8 * (end - neutral)


def rgb(color: str) -> Float[np.ndarray, "3"]:
    """``#rrggbb`` as three numbers in [0, 1]."""
    valid = len(color) == 7 and color.startswith("#") and all(c in "0123456789abcdefABCDEF" for c in color[1:])
    require(valid, "color", color, "must be written as #rrggbb")
    return np.array([int(color[i : i + 2], 16) for i in (1, 3, 5)]) / 255


def mesh_of(item: Surface | Segment | Ball, lines: Bool[np.ndarray, "F 3"] | None = None) -> Mesh:
    """Triangles of one item.

    Args:
        item: a surface, segment (becomes a tube) or ball.
        lines: which mesh lines of a surface to draw; decided from its present shape if None.
    """
    if isinstance(item, Surface):
        vertices, faces = np.asarray(item.vertices, float), np.asarray(item.faces)
        if item.values is None:
            colors = np.broadcast_to(rgb(item.color), (len(faces), 3))
        else:
            colors = tint(np.asarray(item.values, float))
        return Mesh(vertices, faces, colors, outline(vertices, faces) if lines is None else lines, is_closed(faces))
    if isinstance(item, Ball):
        return _merged([Solid(ball(item.radius), item.center, np.eye(3), item.color)], closed=True, convex=True)
    vertices, faces = _tube(np.asarray(item.points, float), item.width / 2)
    colors = np.broadcast_to(rgb(item.color), (len(faces), 3))
    return Mesh(vertices, faces, colors, np.zeros(faces.shape, bool), closed=True, roundness=0.6)


def meshes_of_solids(solids: Sequence[Solid]) -> list[Mesh]:
    """Triangles of rigid bodies, without mesh lines, in few meshes: one mesh costs less than many."""
    groups: dict[tuple[bool, bool], list[Solid]] = {}
    for solid in solids:
        if len(solid.shape.faces):
            groups.setdefault((solid.shape.closed, solid.shape.convex), []).append(solid)
    return [_merged(group, *kind) for kind, group in groups.items()]


def _merged(solids: Sequence[Solid], closed: bool, convex: bool) -> Mesh:
    shapes = [solid.shape for solid in solids]
    starts = np.cumsum([0, *[len(shape.vertices) for shape in shapes]])
    rotations = [np.asarray(solid.rotation, float).T for solid in solids]
    placed = zip(shapes, rotations, solids, strict=True)
    vertices = np.concatenate([shape.vertices @ turn + np.asarray(solid.position) for shape, turn, solid in placed])
    normals = np.concatenate([shape.normals @ turn for shape, turn in zip(shapes, rotations, strict=True)])
    faces = np.concatenate([shape.faces + start for shape, start in zip(shapes, starts[:-1], strict=True)])
    colors = np.repeat([rgb(solid.color) for solid in solids], [len(shape.faces) for shape in shapes], axis=0)
    hulls = tuple(itertools.starmap(slice, itertools.pairwise(starts.tolist()))) if convex else ()
    return Mesh(vertices, faces, colors, np.zeros(faces.shape, bool), closed, normals=normals, hulls=hulls)


def outline(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Bool[np.ndarray, "F 3"]:
    """Chooses mesh lines: every edge except the diagonals of (nearly) flat quadrilaterals.

    Args:
        vertices: a shape near rest.
        faces: triangles.

    Returns:
        ``(F, 3)`` flags for the edge opposite each corner.
    """
    ends = faces[:, [[1, 2], [2, 0], [0, 1]]]
    lengths = np.linalg.norm(vertices[ends[..., 0]] - vertices[ends[..., 1]], axis=-1)
    corners = vertices[faces]
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normals /= np.maximum(np.linalg.norm(normals, axis=-1, keepdims=True), 1e-12)
    longest = lengths >= 1.15 * np.sort(lengths, axis=1)[:, 1:2]
    owners: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for face, corner in np.argwhere(longest):
        low, high = sorted(int(v) for v in ends[face, corner])
        owners.setdefault((low, high), []).append((int(face), int(corner)))
    drawn = np.ones(faces.shape, bool)
    for shared in owners.values():
        if len(shared) == 2 and normals[shared[0][0]] @ normals[shared[1][0]] > math.cos(math.radians(25)):
            for face, corner in shared:
                drawn[face, corner] = False
    return drawn


AROUND = 12
"""Corners of a tube's cross-section."""


def _tube(points: Float[np.ndarray, "n 3"], radius: float) -> tuple[np.ndarray, np.ndarray]:
    turn = np.linspace(0, 2 * math.pi, AROUND, endpoint=False)[:, None]
    rings = []
    tangents = np.gradient(points, axis=0)
    for point, tangent in zip(points, tangents, strict=True):
        tangent = tangent / max(float(np.linalg.norm(tangent)), 1e-12)
        aside = np.array([0.0, 0.0, 1.0]) if abs(tangent[2]) < 0.9 else np.array([0.0, 1.0, 0.0])
        first = np.cross(tangent, aside)
        first /= max(float(np.linalg.norm(first)), 1e-12)
        rings.append(point + radius * (np.cos(turn) * first + np.sin(turn) * np.cross(first, tangent)))
    vertices = np.concatenate([*rings, points[:1], points[-1:]])
    start, end, last = len(points) * AROUND, len(points) * AROUND + 1, (len(points) - 1) * AROUND
    faces = []
    for i in range(AROUND):
        j = (i + 1) % AROUND
        for ring in range(0, last, AROUND):
            a, b = ring + i, ring + j
            faces += [(a, a + AROUND, b), (b, a + AROUND, b + AROUND)]
        faces += [(start, i, j), (end, last + j, last + i)]
    return vertices, np.array(faces)
