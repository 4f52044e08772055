"""Where a picture is taken from, and how the camera follows a moving body."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from penstock.scene.items import Scene

STEEPEST = 89.9
"""Largest pitch in degrees. Straight down, the horizon would be infinitely far away, and up undefined."""


@dataclasses.dataclass(frozen=True)
class Camera:
    """A perspective camera without roll; ``y`` points up.

    Attributes:
        target: ``(3,)`` point in the middle of the picture.
        extent: half the height of the picture at the target's distance, in metres.
        yaw: degrees around the vertical axis; at 0 the picture's right is ``+x``.
        pitch: degrees above the horizontal; must be positive for the ground to show.
        field_of_view: vertical opening angle in degrees.
    """

    target: np.ndarray
    extent: float = 1.0
    yaw: float = 24.0
    pitch: float = 17.0
    field_of_view: float = 26.0

    @property
    def axes(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Unit vectors of the picture: right, up, and forward into it."""
        yaw, pitch = math.radians(self.yaw), math.radians(self.pitch)
        forward = -np.array([math.sin(yaw) * math.cos(pitch), math.sin(pitch), math.cos(yaw) * math.cos(pitch)])
        right = np.array([math.cos(yaw), 0.0, -math.sin(yaw)])
        return right, np.cross(right, forward), forward

    @property
    def position(self) -> np.ndarray:
        """``(3,)`` where the camera stands."""
        distance = self.extent / math.tan(math.radians(self.field_of_view) / 2)
        return np.asarray(self.target, float) - distance * self.axes[2]

    def focal_length(self, height: int) -> float:
        """Focal length in pixels for a picture ``height`` pixels high."""
        return height / 2 / math.tan(math.radians(self.field_of_view) / 2)

    def project(
        self, points: Float[np.ndarray, "n 3"], size: tuple[int, int]
    ) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n"]]:
        """Projects points into a picture of ``size`` (width, height).

        Returns:
            Pixel coordinates ``(n, 2)``, ``y`` down, and the depth ``(n,)`` in metres along the viewing direction;
            only points of positive depth are in front of the camera.
        """
        right, up, forward = self.axes
        relative = np.asarray(points, float) - self.position
        depth = relative @ forward
        scale = self.focal_length(size[1]) / np.where(np.abs(depth) < 1e-9, 1e-9, depth)
        across, above = relative @ right, relative @ up
        return np.stack([size[0] / 2 + scale * across, size[1] / 2 - scale * above], -1), depth


_ROOM = 0.3
"""How far above or below the camera's target a body may be, of the extent."""


def camera_for(scene: Scene) -> Camera:
    """The camera for one still picture of ``scene``."""
    return _camera(np.asarray(scene.focus, float), float(scene.extent), scene.view)


def _camera(target: np.ndarray, extent: float, view: tuple[float, float] | None) -> Camera:
    if view is None:
        return Camera(target, extent)
    yaw, pitch = view
    return Camera(target, extent, yaw, min(pitch, STEEPEST))


def camera_path(scenes: Sequence[Scene], smoothing: float | int = 8.0) -> list[Camera]:
    """Cameras that follow the focus of a sequence of scenes without lag and without shaking.

    The path is the focus smoothed in both time directions by a Gaussian, so it neither trails behind a steady motion
    nor copies every hop; a leap that would leave the picture is followed. A jump of the focus by more than the extent
    from one frame to the next (a new episode) cuts it.

    Args:
        scenes: frames in order.
        smoothing: standard deviation of the Gaussian, in frames; the height is smoothed four times as strongly.
    """
    if not scenes:
        return []
    focus = np.stack([np.asarray(scene.focus, float) for scene in scenes])
    extent = np.array([float(scene.extent) for scene in scenes])
    smooth = np.empty_like(focus)
    for piece in episodes(scenes):
        for axis, width in enumerate((smoothing, 4 * smoothing, smoothing)):
            smooth[piece, axis] = _gaussian(focus[piece, axis], width)
    # Small hops pass; of a leap the camera keeps at most this far away, without a kink.
    room = _ROOM * extent.max()
    leap = focus[:, 1] - smooth[:, 1]
    smooth[:, 1] += leap - room * np.tanh(leap / room)
    return [_camera(target, float(extent.max()), scenes[0].view) for target in smooth]


def episodes(scenes: Sequence[Scene]) -> list[np.ndarray]:
    """Indices of the frames between two jumps of the focus by more than the extent."""
    if not scenes:
        return []
    focus = np.stack([np.asarray(scene.focus, float) for scene in scenes])
    limit = np.array([float(scene.extent) for scene in scenes[1:]])
    jumps = np.linalg.norm(np.diff(focus, axis=0), axis=1) > limit
    return np.split(np.arange(len(scenes)), np.flatnonzero(jumps) + 1)


def _gaussian(values: np.ndarray, width: float | int) -> np.ndarray:
    if width <= 0 or len(values) < 2:
        return values
    reach = min(int(3 * width) + 1, len(values) - 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    # Odd reflection at the ends continues a steady motion, so the camera does not brake before the first frame.
    before = 2 * values[0] - values[reach:0:-1]
    after = 2 * values[-1] - values[-2 : -reach - 2 : -1]
    return np.convolve(np.concatenate([before, values, after]), kernel / kernel.sum(), "valid")
