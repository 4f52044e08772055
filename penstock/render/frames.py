"""Draws scenes as frames, on the CPU and without a window."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8

from penstock._errors import require
from penstock._extras import extra
from penstock.render._ground import backdrop, nice_length, sky
from penstock.render._meshes import CONTRACTION, EXPANSION, NEUTRAL, mesh_of, meshes_of_solids, outline
from penstock.render._planar import draw_planar
from penstock.render._raster import rasterize
from penstock.render.camera import Camera, camera_for, camera_path, episodes
from penstock.scene.items import Scene, Solid, Surface

Frame = UInt8[np.ndarray, "_h _w 3"]
"""One picture: rows from the top, red, green, blue."""

INK, QUIET = (34, 38, 43), (107, 114, 128)


def render_scene(scene: Scene, size: tuple[int, int] = (960, 540), camera: Camera | None = None) -> Frame:
    """Draws one frame.

    Bodies are shaded and, where the task gives activations, tinted: warm contracts, blue expands. The ground's pattern
    and its distance markers are fixed in the world.

    Args:
        scene: what to draw. A scene without items gives the empty backdrop.
        size: width and height in pixels; even numbers, at least 64.
        camera: where from; by default at the scene's focus. Planar scenes use its target and extent only.

    Returns:
        ``(height, width, 3)`` bytes.

    Raises:
        ConfigurationError: a size or a colour that cannot be.
        MissingExtraError: Pillow is not installed.
    """
    return _render(scene, size, camera or camera_for(scene), {})


def render_scenes(
    scenes: Sequence[Scene],
    size: tuple[int, int] = (960, 540),
    *,
    timestep: float | int | None = None,
    smoothing: float | int = 8.0,
) -> Iterator[Frame]:
    """Draws a sequence of scenes with a camera that follows smoothly.

    Args:
        scenes: frames in order.
        size: see `render_scene`.
        timestep: seconds between two scenes. Where given, the caption also states the speed along x of a focus that
            moves (m/s, averaged over half a second), and the time where the task wrote nothing.
        smoothing: see `camera_path`.

    Yields:
        One frame per scene.
    """
    cameras = camera_path(scenes, smoothing)
    captions = _captions(scenes, timestep)
    lines: dict[tuple[int, int], np.ndarray] = {}
    for scene, camera, caption in zip(scenes, cameras, captions, strict=True):
        yield _render(dataclasses.replace(scene, caption=caption), size, camera, lines)


def _render(scene: Scene, size: tuple[int, int], camera: Camera, lines: dict[tuple[int, int], np.ndarray]) -> Frame:
    require(min(size) >= 64, "size", size, "must be at least 64 pixels each way")
    require(size[0] % 2 == 0 and size[1] % 2 == 0, "size", size, "must be even (video formats need it)")
    require(bool(camera.extent > 0), "extent", camera.extent, "must be positive")
    if scene.planar:
        frame = draw_planar(scene, np.asarray(camera.target), camera.extent, size)
        if scene.ground:
            frame = _on(frame, lambda pen: _planar_markers(pen, camera, size))
    else:
        frame = _solid(scene, size, camera, lines)
    return _on(frame, lambda pen: _write(pen, scene, size))


def _solid(scene: Scene, size: tuple[int, int], camera: Camera, lines: dict[tuple[int, int], np.ndarray]) -> Frame:
    meshes = meshes_of_solids([item for item in scene.items if isinstance(item, Solid)])
    for index, item in enumerate(scene.items):
        if isinstance(item, Solid):
            continue
        chosen = None
        if isinstance(item, Surface):
            # Chosen in the first frame of a sequence and kept, so that lines do not flicker as the body deforms.
            key = (index, len(item.faces))
            if key not in lines:
                lines[key] = outline(np.asarray(item.vertices, float), np.asarray(item.faces))
            chosen = lines[key]
        meshes.append(mesh_of(item, chosen))
    picture = backdrop(camera, size, meshes) if scene.ground else sky(size, float(size[1]))
    frame = (picture * 255 + 0.5).astype(np.uint8)
    if scene.ground:
        frame = _on(frame, lambda pen: _distance_markers(pen, camera, size))
    layer = rasterize(meshes, camera, size) if meshes else None
    if layer is not None:
        (x, y), box = layer
        part = frame[y : y + box.shape[1], x : x + box.shape[2]]
        for channel in range(3):  # plane by plane: broadcasting over a last axis of three is slow
            part[..., channel] = part[..., channel] * (1 - box[3]) + (box[channel] * 255 + np.float32(0.5))
    return frame


def _on(frame: Frame, draw: Callable[[Any], None]) -> Frame:
    """Draws on a frame with Pillow."""
    canvas = extra("PIL.Image", "video").fromarray(frame)
    draw(extra("PIL.ImageDraw", "video").Draw(canvas, "RGBA"))
    return np.array(canvas)


def _write(pen: Any, scene: Scene, size: tuple[int, int]) -> None:
    """Adds the legend of the tint and the caption."""
    unit = size[1] / 540
    if any(isinstance(item, Surface) and item.values is not None for item in scene.items) and not scene.planar:
        _legend(pen, size, _font(14 * unit), unit)
    if scene.caption:
        pen.text((20 * unit, 16 * unit), scene.caption, font=_font(21 * unit), fill=INK)


def _distance_markers(pen: Any, camera: Camera, size: tuple[int, int]) -> None:
    """A ruler along x that lies on the ground in front of the body."""
    step = nice_length(camera.extent * 0.9)
    font = _font(15 * size[1] / 540)
    reach = 2.0 * camera.extent * size[0] / size[1]
    first, last = (round((camera.target[0] + sign * reach) / step) for sign in (-1, 1))
    # Fixed in the world, moved over only when the body has left its lane.
    lane = 2 * camera.extent
    beside = round(float(camera.target[2]) / lane) * lane + 0.66 * camera.extent
    for k in range(first, last + 1):
        edge = np.array([[k * step, 0, beside], [k * step, 0, beside + 0.14 * camera.extent]])
        (a, b), depth = camera.project(edge, size)
        if (depth > 0.01).all():
            pen.line([*a, *b], fill=(*QUIET, 255), width=max(2, round(size[1] / 250)))
            pen.text((b[0], b[1] + 3), _metres(k * step), font=font, fill=QUIET, anchor="ma")


def _planar_markers(pen: Any, camera: Camera, size: tuple[int, int]) -> None:
    """The same below the line of a planar ground."""
    step = nice_length(camera.extent * 0.9)
    reach = camera.extent * size[0] / size[1]
    scale = size[1] / (2 * camera.extent)
    y = size[1] / 2 + scale * camera.target[1]
    for k in range(math.ceil((camera.target[0] - reach) / step), math.floor((camera.target[0] + reach) / step) + 1):
        x = size[0] / 2 + scale * (k * step - camera.target[0])
        pen.line([x, y, x, y + size[1] * 0.015], fill=QUIET, width=2)
        pen.text((x, y + size[1] * 0.02), _metres(k * step), font=_font(15 * size[1] / 540), fill=QUIET, anchor="ma")


def _metres(length: float) -> str:
    return f"{round(length, 6) + 0.0:g} m"


def _legend(pen: Any, size: tuple[int, int], font: Any, unit: float) -> None:
    right, y, wide, high = size[0] - 20 * unit, 22 * unit, 110 * unit, 9 * unit
    right -= pen.textlength("contracts", font=font) + 8 * unit
    left = right - wide
    steps = max(int(wide), 2)
    for i in range(steps):
        value = 2 * i / (steps - 1) - 1
        end = CONTRACTION if value > 0 else EXPANSION
        color = [round(255 * (n + abs(value) ** 0.8 * (e - n))) for n, e in zip(NEUTRAL, end, strict=True)]
        pen.line([left + i, y, left + i, y + high], fill=tuple(color))
    middle = y + high / 2
    pen.text((right + 8 * unit, middle), "contracts", font=font, fill=QUIET, anchor="lm")
    pen.text((left - 8 * unit, middle), "expands", font=font, fill=QUIET, anchor="rm")


@functools.lru_cache(maxsize=16)
def _font(size: float) -> Any:
    return extra("PIL.ImageFont", "video").load_default(max(size, 8.0))


def _captions(scenes: Sequence[Scene], timestep: float | int | None) -> list[str]:
    captions = [scene.caption for scene in scenes]
    if timestep is None:
        return captions
    require(timestep > 0, "timestep", timestep, "must be positive, in seconds")
    half = max(1, round(0.25 / timestep))
    for episode in episodes(scenes):
        x = np.array([float(np.asarray(scenes[i].focus)[0]) for i in episode])
        moves = np.ptp(x) > 0
        for k, i in enumerate(episode):
            parts = [captions[i] or f"t = {k * timestep:.2f} s"]
            low, high = max(k - half, 0), min(k + half, len(x) - 1)
            if moves and high > low:
                speed = round((x[high] - x[low]) / ((high - low) * timestep), 2) + 0.0  # no minus zero
                parts.append(f"{speed:+.2f} m/s")
            captions[i] = "   ".join(parts)
    return captions
