"""Rigid shapes made of triangles, in their own frame: made once, placed many times by `Solid`.

The long axis of capsules and cylinders is ``z``, as in MuJoCo. Round cross-sections are polygons of the circle's area.
"""

import math

import numpy as np
from jaxtyping import Float, Int

from penstock.scene.items import Shape

AROUND = 24
"""Corners of a round cross-section."""

ARCS = 6
"""Steps from the equator of a hemisphere to its pole."""


def ball(radius: float) -> Shape:
    """A ball."""
    return ellipsoid((radius, radius, radius))


def ellipsoid(semi_axes: tuple[float, float, float]) -> Shape:
    """An ellipsoid by its three semi-axes in metres."""
    polar = np.linspace(0.0, math.pi, 2 * ARCS + 1)
    unit, faces = _turned(np.sin(polar), np.cos(polar))
    # The gradient of (x / a)^2 + (y / b)^2 + (z / c)^2 stands on the surface.
    normals = _unit(unit / np.asarray(semi_axes))
    return Shape(unit * semi_axes, faces, normals[faces])


def capsule(radius: float, half_length: float) -> Shape:
    """A cylinder of length ``2 half_length`` with a hemisphere on each end."""
    upper = np.linspace(0.0, math.pi / 2, ARCS + 1)
    polar = np.concatenate([upper, math.pi - upper[::-1]])
    shift = np.repeat([half_length, -half_length], ARCS + 1)
    vertices, faces = _turned(radius * np.sin(polar), radius * np.cos(polar) + shift)
    middle = np.clip(vertices, [0.0, 0.0, -half_length], [0.0, 0.0, half_length])
    return Shape(vertices, faces, _unit(vertices - middle)[faces])


def cylinder(radius: float, half_length: float) -> Shape:
    """A cylinder of length ``2 half_length``."""
    vertices, faces = _turned(np.array([0.0, radius, radius, 0.0]), half_length * np.array([1.0, 1.0, -1.0, -1.0]))
    normals = _flat(vertices, faces)
    side = np.abs(normals[:, 0, 2]) < 0.5
    outward = vertices * [1.0, 1.0, 0.0]
    normals[side] = _unit(outward[faces[side]])
    return Shape(vertices, faces, normals)


def box(half_sizes: tuple[float, float, float]) -> Shape:
    """A box by its half sizes in metres."""
    corners = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], float)
    quads = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])
    faces = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    vertices = corners * half_sizes
    return Shape(vertices, faces, _flat(vertices, faces))


def rectangle(half_width: float, half_height: float) -> Shape:
    """A flat rectangle that faces ``+z``."""
    vertices = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], float) * [half_width, half_height, 1.0]
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    return Shape(vertices, faces, _flat(vertices, faces), closed=False)


def height_field(heights: Float[np.ndarray, "rows columns"], half_width: float, half_depth: float) -> Shape:
    """A landscape: ``heights`` in metres over a rectangle, rows along ``y`` and columns along ``x``."""
    rows, columns = heights.shape
    x, y = np.meshgrid(np.linspace(-half_width, half_width, columns), np.linspace(-half_depth, half_depth, rows))
    vertices = np.stack([x, y, heights], -1).reshape(-1, 3)
    a = (np.arange(rows - 1)[:, None] * columns + np.arange(columns - 1)[None]).reshape(-1)
    faces = np.concatenate([np.stack([a, a + 1, a + columns + 1], -1), np.stack([a, a + columns + 1, a + columns], -1)])
    along_y, along_x = np.gradient(heights, 2 * half_depth / (rows - 1), 2 * half_width / (columns - 1))
    normals = _unit(np.stack([-along_x, -along_y, np.ones_like(heights)], -1)).reshape(-1, 3)
    return Shape(vertices, faces, normals[faces], closed=False, convex=False)


def is_closed(faces: Int[np.ndarray, "F 3"]) -> bool:
    """Whether every edge is shared by two faces that run along it in opposite directions."""
    edges = faces[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2).astype(np.int64)
    span = int(edges.max(initial=0)) + 1
    forth, back = edges[:, 0] * span + edges[:, 1], edges[:, 1] * span + edges[:, 0]
    return bool(np.array_equal(np.sort(forth), np.sort(back)))


def _turned(
    radii: Float[np.ndarray, "n"], heights: Float[np.ndarray, "n"]
) -> tuple[Float[np.ndarray, "V 3"], Int[np.ndarray, "F 3"]]:
    """The closed surface of revolution of a profile that runs from the upper pole to the lower one."""
    turn = np.linspace(0.0, 2 * math.pi, AROUND, endpoint=False)
    step = 2 * math.pi / AROUND
    wide = radii[1:-1, None] * math.sqrt(step / math.sin(step))
    level = np.broadcast_to(heights[1:-1, None], (len(radii) - 2, AROUND))
    rings = np.stack([wide * np.cos(turn), wide * np.sin(turn), level], -1).reshape(-1, 3)
    vertices = np.concatenate([rings, [[0, 0, heights[0]], [0, 0, heights[-1]]]])
    here, there = np.arange(AROUND), (np.arange(AROUND) + 1) % AROUND
    upper, lower, last = len(rings), len(rings) + 1, len(rings) - AROUND
    parts = [np.stack([np.full(AROUND, upper), here, there], -1)]
    for ring in range(0, last, AROUND):
        a, b, c, d = ring + here, ring + there, ring + AROUND + here, ring + AROUND + there
        parts += [np.stack([a, c, b], -1), np.stack([b, c, d], -1)]
    parts.append(np.stack([np.full(AROUND, lower), last + there, last + here], -1))
    return vertices, np.concatenate(parts)


def _flat(vertices: Float[np.ndarray, "V 3"], faces: Int[np.ndarray, "F 3"]) -> Float[np.ndarray, "F 3 3"]:
    """The normal of each face, at its three corners."""
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    return np.repeat(_unit(np.cross(b - a, c - a))[:, None], 3, axis=1)


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
