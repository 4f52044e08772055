"""What a picture of a world is made of. A task describes, ``render`` draws."""

import dataclasses
from collections.abc import Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Surface:
    """A triangulated surface: ``vertices (V, 3)`` in metres, ``faces (F, 3)`` outward oriented.

    ``values (F,)`` in [-1, 1], where given, tints each face (soft worlds: the activation of the element below it).
    """

    vertices: np.ndarray
    faces: np.ndarray
    values: np.ndarray | None = None
    color: str = "#4c9f9a"


@dataclasses.dataclass(frozen=True)
class Segment:
    """A thick line through ``points (n, 3)`` (a rod, a wall, a rail), ``width`` in metres."""

    points: np.ndarray
    width: float = 0.05
    color: str = "#30343b"


@dataclasses.dataclass(frozen=True)
class Ball:
    """A ball of ``radius`` metres at ``center (3,)`` (a mass, a goal)."""

    center: np.ndarray
    radius: float = 0.1
    color: str = "#d1495b"


@dataclasses.dataclass(frozen=True, eq=False)
class Shape:
    """Triangles of a rigid thing in its own frame. `penstock.scene.shapes` makes balls, capsules, boxes and others.

    Attributes:
        vertices: ``(V, 3)`` metres.
        faces: ``(F, 3)`` outward oriented.
        normals: ``(F, 3, 3)`` unit vectors: what light sees at each corner of each face.
        closed: whether the triangles enclose a volume, so that those turned away need not be drawn.
        convex: whether the shape is convex, so that its shadow is that of its hull.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    closed: bool = True
    convex: bool = True


@dataclasses.dataclass(frozen=True)
class Solid:
    """A rigid ``shape``, its vertices at ``rotation v + position`` with ``position (3,)`` and ``rotation (3, 3)``.

    For bodies that move without deforming: nothing of the shape is computed anew.
    """

    shape: Shape
    position: np.ndarray
    rotation: np.ndarray
    color: str = "#4c9f9a"


@dataclasses.dataclass(frozen=True)
class Scene:
    """One frame. ``y`` points up. Planar scenes keep everything at ``z = 0`` and are drawn straight on.

    Attributes:
        items: what to draw.
        focus: ``(3,)`` point that the camera follows.
        extent: half the height of what must be visible around the focus, in metres.
        ground: whether to draw the plane ``y = 0`` with its one-decimetre or one-metre pattern.
        planar: whether the scene is two-dimensional.
        caption: a short text for the frame, for example ``t = 1.20 s``.
        view: where the camera stands: degrees around the vertical axis (at 0 the picture's right is ``+x``) and
            degrees above the horizontal, in (0, 90]. None leaves it to who draws.
    """

    items: Sequence[Surface | Segment | Ball | Solid]
    focus: np.ndarray
    extent: float = 1.0
    ground: bool = True
    planar: bool = False
    caption: str = ""
    view: tuple[float, float] | None = None
