"""Draws two-dimensional scenes straight on, with Pillow."""

import itertools
from typing import Any

import numpy as np
from jaxtyping import UInt8

from penstock._extras import extra
from penstock.render._ground import nice_length
from penstock.scene.items import Ball, Scene, Segment, Solid

PAPER, GRID, SOIL, SOIL_EDGE = "#f7f8fa", "#e6e9ed", "#dde2e7", "#a9b1bb"

_SUPERSAMPLING = 3


def draw_planar(scene: Scene, center: np.ndarray, extent: float, size: tuple[int, int]) -> UInt8[np.ndarray, "h w 3"]:
    """One frame of a planar scene.

    Args:
        scene: what to draw; ``z`` is ignored and later items cover earlier ones.
        center: ``(3,)`` point in the middle of the picture.
        extent: half its height in metres.
        size: (width, height) in pixels.
    """
    image, drawing = extra("PIL.Image", "video"), extra("PIL.ImageDraw", "video")
    wide, high = size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING
    scale = high / (2 * extent)
    picture = image.new("RGB", (wide, high), PAPER)
    pen = drawing.Draw(picture)

    def place(points: Any) -> np.ndarray:
        points = np.asarray(points, float)
        return np.stack(
            [wide / 2 + scale * (points[..., 0] - center[0]), high / 2 - scale * (points[..., 1] - center[1])], -1
        )

    _paper(pen, place, center, extent, (wide, high), scene.ground)
    for item in scene.items:
        if isinstance(item, Ball):
            _disc(pen, place(item.center), item.radius * scale, item.color)
        elif isinstance(item, Segment):
            _stroke(pen, place(item.points), item.width * scale, item.color)
        else:
            if isinstance(item, Solid):
                vertices, faces = item.shape.vertices @ np.asarray(item.rotation).T + item.position, item.shape.faces
            else:
                vertices, faces = item.vertices, item.faces
            corners = place(vertices)[np.asarray(faces)]
            for triangle in corners.reshape(-1, 6).tolist():
                pen.polygon(triangle, fill=item.color)
    return np.asarray(picture.reduce(_SUPERSAMPLING))


def _paper(pen: Any, place: Any, center: np.ndarray, extent: float, size: tuple[int, int], ground: bool) -> None:
    step = nice_length(extent / 2)
    reach = extent * size[0] / size[1]
    thin = max(1, _SUPERSAMPLING)
    for k in range(int(np.floor((center[0] - reach) / step)), int(np.ceil((center[0] + reach) / step)) + 1):
        x = float(place([k * step, 0.0])[0])
        pen.line([x, 0, x, size[1]], fill=GRID, width=thin)
    for k in range(int(np.floor((center[1] - extent) / step)), int(np.ceil((center[1] + extent) / step)) + 1):
        y = float(place([0.0, k * step])[1])
        pen.line([0, y, size[0], y], fill=GRID, width=thin)
    if ground:
        y = float(place([0.0, 0.0])[1])
        if y < size[1]:
            pen.rectangle([0, y, size[0], size[1]], fill=SOIL)
            pen.line([0, y, size[0], y], fill=SOIL_EDGE, width=2 * _SUPERSAMPLING)


def _disc(pen: Any, middle: np.ndarray, radius: float, color: str) -> None:
    radius = max(radius, 1.5 * _SUPERSAMPLING)
    pen.ellipse([*(middle - radius), *(middle + radius)], fill=color)


def _stroke(pen: Any, points: np.ndarray, width: float, color: str) -> None:
    # Ends are cut straight: a gap in a wall must look as wide as it is. Inner joints are rounded.
    width = max(width, 1.5 * _SUPERSAMPLING)
    for a, b in itertools.pairwise(points):
        direction = b - a
        length = float(np.hypot(*direction))
        if length == 0:
            continue
        side = np.array([-direction[1], direction[0]]) / length * width / 2
        pen.polygon([*(a + side), *(b + side), *(b - side), *(a - side)], fill=color)
    for joint in points[1:-1]:
        pen.ellipse([*(joint - width / 2), *(joint + width / 2)], fill=color)
