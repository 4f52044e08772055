"""A small software rasteriser in NumPy: triangles to pixels with a depth buffer, smooth shading, faint mesh lines."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Bool, Float

from penstock.render.camera import Camera

NEAR = 1e-3
"""Faces with a corner closer to the camera than this (metres) are left out."""

LIGHT = np.array([-0.30, 0.80, 0.52]) / np.linalg.norm([-0.30, 0.80, 0.52])
"""Unit vector towards the light; shadows fall along its opposite."""

LINE_STRENGTH = 0.28
"""How much darker mesh lines are than the surface."""

_PIXELS_AT_ONCE = 1_000_000


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Triangles ready to draw.

    Attributes:
        vertices: ``(V, 3)`` metres.
        faces: ``(F, 3)`` outward oriented.
        colors: ``(F, 3)`` in [0, 1].
        lines: ``(F, 3)`` flags: whether the edge opposite each corner is drawn.
        closed: whether the surface encloses a volume, so that faces turned away can be left out.
        roundness: how much of the shading normal comes from the vertices (1) rather than the face (0).
        normals: ``(F, 3, 3)`` unit normals at each corner of each face, where known; ``roundness`` has no effect then.
        hulls: ranges of the vertices of convex parts, where the mesh consists of such. Their shadows are cheap.
    """

    vertices: np.ndarray
    faces: np.ndarray
    colors: np.ndarray
    lines: np.ndarray
    closed: bool = False
    roundness: float = 0.75
    normals: np.ndarray | None = None
    hulls: Sequence[slice] = ()


def rasterize(
    meshes: Sequence[Mesh], camera: Camera, size: tuple[int, int], supersampling: int = 2
) -> tuple[tuple[int, int], Float[np.ndarray, "4 h w"]] | None:
    """Draws meshes on transparency.

    Args:
        meshes: what to draw; they hide each other correctly.
        camera: where from.
        size: of the whole picture, (width, height).
        supersampling: samples per pixel and axis.

    Returns:
        The upper left corner (x, y) of a box that holds everything visible, and the box: ``(4, h, w)`` colours times
        coverage, and coverage, in [0, 1]. None if nothing is visible.
    """
    whole = np.array(size) * supersampling
    parts = [_prepare(mesh, camera, (int(whole[0]), int(whole[1]))) for mesh in meshes]
    corners, nearness, colors, lines = (np.concatenate(part) for part in zip(*parts, strict=True))
    inside = (corners.min(1) < whole).all(1) & (corners.max(1) > 0).all(1)
    corners, nearness, colors, lines = corners[inside], nearness[inside], colors[inside], lines[inside]
    if len(corners) == 0:
        return None
    # The box is aligned to whole output pixels so that samples average cleanly.
    first = np.maximum(corners.min((0, 1)) // supersampling, 0).astype(int)
    last = np.minimum(-(-corners.max((0, 1)) // supersampling), size).astype(int)
    wide, high = ((last - first) * supersampling).tolist()
    attributes = np.concatenate([nearness[:, None], colors.transpose(0, 2, 1), _heights(corners, lines)], 1)
    box = np.zeros((4, high * wide), np.float32)
    for pixel, found in _cover(corners - first * supersampling, attributes, (wide, high)):
        # Mesh lines: within a constant distance of an edge, measured on the screen.
        distance = np.minimum(np.minimum(found[:, 3], found[:, 4]), found[:, 5])
        ink = 1 - LINE_STRENGTH * np.clip(1.2 - distance / np.float32(0.9 * supersampling), 0.0, 1.0)
        for channel in range(3):
            box[channel][pixel] = found[:, channel] * ink
        box[3][pixel] = 1
    box = box.reshape(4, high, wide)
    # Summing strided views is several times faster than a mean over two short axes.
    k = supersampling
    layer = np.zeros((4, high // k, wide // k), np.float32)
    for i, j in itertools.product(range(k), repeat=2):
        layer += box[:, i::k, j::k] * np.float32(1 / k**2)
    return (int(first[0]), int(first[1])), layer


def _prepare(
    mesh: Mesh, camera: Camera, size: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Screen corners, inverse depth and shaded colour per corner, and mesh lines of the faces that can be seen."""
    screen, depth = camera.project(np.asarray(mesh.vertices, float), size)
    seen = (depth[mesh.faces] > NEAR).all(1)
    triangles = np.asarray(mesh.vertices, float)[mesh.faces]
    flat = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
    seen &= np.isfinite(flat).all(1) & np.isfinite(screen[mesh.faces]).all((1, 2))
    flat = np.nan_to_num(flat, posinf=0.0, neginf=0.0)  # a broken face may not spoil its neighbours' normals
    if mesh.closed:
        seen &= np.einsum("fk,fk->f", flat, triangles[:, 0] - camera.position) < 0
    faces = mesh.faces[seen]
    normals = mesh.normals[seen] if mesh.normals is not None else _normals(mesh, flat)[seen]
    shaded = _shade(normals, mesh.colors[seen], mesh.closed, camera)
    return screen[faces], 1 / depth[faces], shaded, mesh.lines[seen]


def _normals(mesh: Mesh, flat: Float[np.ndarray, "F 3"]) -> Float[np.ndarray, "F 3 3"]:
    """Normals for shading, from the shape."""
    smooth = np.zeros(np.shape(mesh.vertices))
    for corner in range(3):
        np.add.at(smooth, mesh.faces[:, corner], flat)  # area-weighted
    smooth, flat = _unit(smooth), _unit(flat)
    return _unit(mesh.roundness * smooth[mesh.faces] + (1 - mesh.roundness) * flat[:, None])


def _shade(
    normal: Float[np.ndarray, "f 3 3"], colors: Float[np.ndarray, "f 3"], closed: bool, camera: Camera
) -> Float[np.ndarray, "f 3 3"]:
    """Colour at each corner of each face: (face, corner, channel)."""
    toward = -camera.axes[2]
    facing = normal @ toward
    # The back of an open surface is lit like its front.
    normal = np.where(facing[..., None] < 0, -normal, normal) if not closed else normal
    lit = np.maximum(normal @ LIGHT, 0.0)
    sky = 0.5 + 0.5 * normal[..., 1]
    shine = np.maximum(normal @ _unit(LIGHT + toward), 0.0) ** 20
    brightness = 0.54 + 0.16 * sky + 0.38 * lit
    return np.clip(colors[:, None] * brightness[..., None] + 0.09 * shine[..., None], 0, 1)


def _heights(corners: Float[np.ndarray, "f 3 2"], lines: Bool[np.ndarray, "f 3"]) -> Float[np.ndarray, "f 3 3"]:
    """Attributes whose interpolation is the distance to each edge in samples (far away where no line is drawn)."""
    ab, ac = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    doubled = np.abs(ab[:, 0] * ac[:, 1] - ab[:, 1] * ac[:, 0])
    sides = np.linalg.norm(corners[:, [2, 0, 1]] - corners[:, [1, 2, 0]], axis=-1)
    height = doubled[:, None] / np.maximum(sides, 1e-9)
    result = np.zeros((len(corners), 3, 3))
    for edge in range(3):
        result[:, edge, edge] = height[:, edge]
        result[~lines[:, edge], edge] = 1e3
    return result


def _cover(
    corners: Float[np.ndarray, "f 3 2"], attributes: Float[np.ndarray, "f q 3"], box: tuple[int, int]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Finds the frontmost face of every sample and interpolates attributes there, linearly on the screen.

    Args:
        corners: screen positions of each face's corners.
        attributes: q numbers per corner; the first is the inverse depth, which decides what is in front.
        box: width and height in samples.

    Yields:
        In pieces: flat indices ``(s,)`` of covered samples, and the attributes after the first there, ``(s, q - 1)``.
    """
    wide, high = box
    x, y = corners[..., 0], corners[..., 1]
    following, previous = [1, 2, 0], [2, 0, 1]
    # Weight i is 1 at corner i and zero on the edge opposite: a x + b y + c.
    a = y[:, following] - y[:, previous]
    b = x[:, previous] - x[:, following]
    c = x[:, following] * y[:, previous] - x[:, previous] * y[:, following]
    area = c.sum(1)
    ok = np.abs(area) > 1e-9
    safe = np.where(ok, area, 1.0)[:, None]
    a, b, c = a / safe, b / safe, c / safe

    first_row = np.clip(np.ceil(y.min(1) - 0.5), 0, high).astype(int)
    last_row = np.clip(np.floor(y.max(1) - 0.5), -1, high - 1).astype(int)
    rows = np.where(ok, np.maximum(last_row - first_row + 1, 0), 0)
    owner = np.repeat(np.arange(len(rows)), rows)
    row = np.arange(len(owner)) - np.repeat(np.cumsum(rows) - rows, rows) + first_row[owner]
    # Along a row each weight is slope * x + rest: the face covers where all three are positive.
    slope, rest = a[owner], b[owner] * (row[:, None] + 0.5) + c[owner]
    with np.errstate(divide="ignore", invalid="ignore"):
        crossing = -rest / slope
    start = np.where(slope > 0, crossing, -np.inf).max(1, initial=-np.inf)
    end = np.where(slope < 0, crossing, np.inf).min(1, initial=np.inf)
    start = np.clip(np.ceil(start - 0.5), 0, wide).astype(int)
    end = np.clip(np.floor(end - 0.5), -1, wide - 1).astype(int)
    blocked = ((slope == 0) & (rest < 0)).any(1)
    spans = np.where(blocked, 0, np.maximum(end - start + 1, 0))
    # Every attribute is linear along a span: its value at the first sample and its change per sample.
    change = np.einsum("sqc,sc->sq", attributes[owner], slope).astype(np.float32)
    middle = slope * (start[:, None] + 0.5) + rest
    value = np.einsum("sqc,sc->sq", attributes[owner], middle).astype(np.float32)

    front = np.zeros(wide * high, np.float32)
    pieces = []
    for piece in _pieces(spans):
        count = spans[piece]
        total = int(count.sum())
        step = np.arange(total, dtype=np.int32) - np.repeat((np.cumsum(count) - count).astype(np.int32), count)
        pixel = np.repeat(row[piece] * wide + start[piece], count) + step
        # In float32 like the buffer: a winner must compare equal to what it stored.
        near = np.repeat(value[piece, 0], count) + np.repeat(change[piece, 0], count) * step.astype(np.float32)
        np.maximum.at(front, pixel, near)
        pieces.append((pixel, near, step, np.repeat(np.arange(piece.start, piece.stop), count)))
    for pixel, near, step, span in pieces:
        won = np.flatnonzero(near >= front[pixel])
        found = change.take(span[won], axis=0)  # rows at once: one gather instead of q
        found *= step[won].astype(np.float32)[:, None]
        found += value.take(span[won], axis=0)
        yield pixel[won], found[:, 1:]


def _pieces(spans: np.ndarray) -> list[slice]:
    """Cuts the list of spans so that one piece covers a bounded number of samples."""
    if len(spans) == 0:
        return []
    block = np.cumsum(spans) // _PIXELS_AT_ONCE
    edges = [0, *(np.flatnonzero(np.diff(block)) + 1), len(spans)]
    return [slice(int(i), int(j)) for i, j in itertools.pairwise(edges) if j > i]


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
