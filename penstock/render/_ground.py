"""The backdrop: sky, and a checkered ground that stays fixed in the world, so that motion shows."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from penstock._extras import extra
from penstock.render._raster import LIGHT, Mesh
from penstock.render.camera import Camera

SKY_TOP, SKY_LOW = np.array([0.80, 0.86, 0.92]), np.array([0.955, 0.965, 0.975])
LIGHT_TILE, DARK_TILE = np.array([0.905, 0.915, 0.925]), np.array([0.775, 0.800, 0.825])
SHADOW = np.array([0.40, 0.45, 0.52])
"""What the ground's colour is multiplied by in full shadow."""


def nice_length(length: float) -> float:
    """The largest of 1, 2, 5 times a power of ten that is not above ``length``."""
    power = 10.0 ** math.floor(math.log10(length) + 1e-9)
    return power * max(step for step in (1, 2, 5) if step * power <= length * (1 + 1e-9))


def sky(size: tuple[int, int], horizon: float) -> Float[np.ndarray, "h w 3"]:
    """A vertical gradient that is palest at the row ``horizon``."""
    height = np.arange(size[1], dtype=np.float32) + 0.5
    mix = np.clip(1 - height / max(horizon, 1.0), 0, 1)[:, None, None]
    return np.broadcast_to(SKY_LOW + mix * (SKY_TOP - SKY_LOW), (size[1], size[0], 3)).astype(np.float32)


def backdrop(camera: Camera, size: tuple[int, int], meshes: Sequence[Mesh]) -> Float[np.ndarray, "h w 3"]:
    """Sky, checkered ground in perspective that fades into the distance, and the shadows of ``meshes`` on it."""
    wide, high = size
    right, up, forward = camera.axes
    position, focal = camera.position, camera.focal_length(high)
    horizon = high / 2 + focal * forward[1] / up[1]
    picture = sky(size, horizon)
    first = min(max(math.ceil(horizon + 0.5), 0), high)
    if first >= high or position[1] <= 0:
        return picture

    # Without roll, all pixels of a row see the ground at the same depth; x and z are linear along the row.
    down = (np.arange(first, high) + 0.5 - high / 2) / focal
    depth = position[1] / (up[1] * down - forward[1])
    along = ((np.arange(wide) + 0.5 - wide / 2) / focal).astype(np.float32)
    tile = nice_length(camera.extent / 2.2)
    signs = []
    for axis in (0, 2):
        middle = (position[axis] + depth * (forward[axis] - down * up[axis])) / tile
        across = depth * right[axis] / tile
        footprint = np.abs(across) / focal + np.abs(np.gradient(middle))
        middle -= 2 * np.round(position[axis] / tile / 2)  # small numbers keep single precision exact far from 0
        middle, across, footprint = (column.astype(np.float32)[:, None] for column in (middle, across, footprint))
        signs.append(_alternating(middle + across * along, footprint))
    checks = 0.5 - 0.5 * signs[0] * signs[1]
    shade = _shadows(meshes, camera, size)[first:]
    distance = np.linalg.norm(position - camera.target)
    clear = np.exp(-((np.maximum(depth / distance - 1.0, 0) / 1.6) ** 1.5)).astype(np.float32)[:, None]
    for channel in range(3):  # contiguous planes are faster than a last axis of three
        light, dark, kept = LIGHT_TILE[channel], DARK_TILE[channel], SHADOW[channel]
        ground = np.float32(light) + checks * np.float32(dark - light)
        ground *= 1 - shade * np.float32(1 - kept)
        far = np.float32(SKY_LOW[channel])
        ground -= far
        ground *= clear
        ground += far
        picture[first:, :, channel] = ground
    return picture


def _alternating(where: np.ndarray, footprint: np.ndarray) -> np.ndarray:
    """A square wave of period 2 averaged over ``footprint``, so that far tiles fade to grey instead of flickering."""
    low, high = where - footprint / 2, where + footprint / 2
    return 2 * (_ramp(high) - _ramp(low)) / footprint


def _ramp(x: np.ndarray) -> np.ndarray:
    half = x * np.float32(0.5)
    half -= np.floor(half)
    half -= np.float32(0.5)
    np.abs(half, out=half)
    return -half


def _shadows(meshes: Sequence[Mesh], camera: Camera, size: tuple[int, int]) -> Float[np.ndarray, "h w"]:
    """How dark each pixel of the ground is, in [0, 1]: the sun's shadow, and a softer one straight below."""
    drawing, image, filters = (extra(f"PIL.{name}", "video") for name in ("ImageDraw", "Image", "ImageFilter"))
    small = (max(size[0] // 3, 1), max(size[1] // 3, 1))
    total = np.zeros((small[1], small[0]), np.float32)
    # Soft directly below (the sky is hidden there), sharper away from the light.
    for direction, strength, blur in ((LIGHT, 0.62, 0.012), (np.array([0.0, 1.0, 0.0]), 0.42, 0.06)):
        mask = image.new("L", small, 0)
        pen = drawing.Draw(mask)
        for mesh in meshes:
            _cast(pen, mesh, camera, small, direction)
        soft = mask.filter(filters.GaussianBlur(max(blur * small[1], 0.8)))
        total = 1 - (1 - total) * (1 - strength * np.asarray(soft, np.float32) / 255)
    full = image.fromarray((total * 255).astype(np.uint8)).resize(size, image.Resampling.BILINEAR)
    return np.asarray(full, np.float32) / 255


def _cast(pen: Any, mesh: Mesh, camera: Camera, size: tuple[int, int], direction: np.ndarray) -> None:
    height = np.maximum(mesh.vertices[:, 1:2], 0)
    fallen = mesh.vertices - height * direction / direction[1]
    fallen[:, 1] = 0
    screen, depth = camera.project(fallen, size)
    limit = 8.0 * max(size)
    usable = (depth > 1e-3) & np.isfinite(screen).all(1) & (np.abs(screen) < limit).all(1)
    if mesh.hulls:
        for part in mesh.hulls:
            if usable[part].all():
                pen.polygon(_hull(screen[part]).reshape(-1).tolist(), fill=255)
        return
    corners = screen[mesh.faces[usable[mesh.faces].all(1)]]
    sides = corners[:, 1:] - corners[:, :1]
    if mesh.closed:  # the faces on either side of the shadow's edge cover it twice
        corners = corners[sides[:, 0, 0] * sides[:, 1, 1] > sides[:, 0, 1] * sides[:, 1, 0]]
    # Faces of fine meshes are smaller than a pixel here: a dot each, all at once.
    low, high = (reduce(corners[:, 0], reduce(corners[:, 1], corners[:, 2])) for reduce in (np.minimum, np.maximum))
    tiny = (high - low < 1.0).all(1)
    for triangle in corners[~tiny].reshape(-1, 6).tolist():
        pen.polygon(triangle, fill=255)
    x, y = np.floor((low[tiny] + high[tiny]) / 2).astype(int).T
    inside = (x >= 0) & (x < size[0]) & (y >= 0) & (y < size[1])
    dots = np.zeros((size[1], size[0]), bool)
    dots[y[inside], x[inside]] = True
    if inside.any():
        pen.point(np.argwhere(dots)[:, ::-1].reshape(-1).tolist(), fill=255)


_DIRECTIONS = np.stack([[math.cos(a), math.sin(a)] for a in np.linspace(0, 2 * math.pi, 32, endpoint=False)], 1)


def _hull(points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "k 2"]:
    """The points that lie farthest in 32 directions, in turn: the convex hull as far as a shadow needs it."""
    return points[np.argmax(points @ _DIRECTIONS, axis=0)]
