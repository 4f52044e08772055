"""Writes frames as MP4 (with the bundled ffmpeg) or, where that is missing, as GIF."""

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from penstock._errors import PenstockError, require, suggest
from penstock._extras import MissingExtraError, extra
from penstock._files import OutputError, replacing
from penstock.render.frames import render_scenes
from penstock.scene.items import Scene

FORMATS = (".mp4", ".gif")

_PALETTE_FRAMES = 64

_FFMPEG_STOPPED = "ffmpeg stopped early, {}: nothing was written. Is the disk full, or the folder closed for writing?"


def write_video(frames: Iterable[np.ndarray], path: Path, fps: float | int) -> Path:
    """Writes a video. The file appears complete or not at all.

    Args:
        frames: ``(height, width, 3)`` bytes each, all of one size; may be a generator, read once.
        path: ends in ``.mp4`` or ``.gif``.
        fps: frames per second. GIF players keep time in hundredths of a second, so 50, 25 and 20 are exact there.

    Returns:
        The path written: ``.gif`` instead of ``.mp4``, with a warning, where no ffmpeg is installed.

    Raises:
        ConfigurationError: unknown format, no frames, frames of different sizes.
        OutputError: the disk is full, or the file cannot be written.
        MissingExtraError: imageio is not installed.
    """
    path = Path(path)
    require(path.suffix in FORMATS, "path", str(path), f"must end in .mp4 or .gif.{suggest(path.suffix, FORMATS)}")
    require(fps > 0, "fps", fps, "must be positive")
    if path.suffix == ".mp4" and not _has_ffmpeg():
        warnings.warn(
            f"No ffmpeg was found, so {path.name} becomes a GIF. `pip install 'penstock[video]'` brings one.",
            stacklevel=2,
        )
        path = path.with_suffix(".gif")
    checked = _checked(frames)
    with replacing(path) as temporary:
        if path.suffix == ".gif":
            _write_gif(checked, temporary, fps)
        else:
            _write_mp4(checked, temporary, fps)
    return path


def write_episode(
    scenes: Sequence[Scene],
    path: Path,
    timestep: float,
    *,
    size: tuple[int, int] = (960, 540),
    max_fps: float | int = 35,
    progress: Callable[[float], None] = lambda share: None,
) -> Path:
    """Draws scenes and writes them as a video that plays in real time.

    Args:
        scenes: one per control step.
        path: see `write_video`.
        timestep: seconds between two scenes. Scenes are skipped evenly if they come faster than ``max_fps``.
        size: width and height in pixels.
        max_fps: most frames per second of the video.
        progress: told the share of frames that is drawn.

    Returns:
        The path written.
    """
    require(len(scenes) > 0, "scenes", [], "needs at least one scene; this world may not offer pictures")
    require(timestep > 0, "timestep", timestep, "must be positive, in seconds")
    extra("PIL.Image", "video")  # frames are drawn with it: said before anything else is
    stride, shown = thinned(timestep, max_fps)
    chosen = scenes[::stride]
    frames = render_scenes(chosen, size, timestep=shown, smoothing=0.25 / shown)
    return write_video(announced(frames, len(chosen), progress), path, 1 / shown)


def announced(frames: Iterable[np.ndarray], count: int, progress: Callable[[float], None]) -> Iterator[np.ndarray]:
    """The same frames; tells the share of ``count`` that has been taken."""
    for index, frame in enumerate(frames):
        progress(min(index / max(count, 1), 1.0))
        yield frame


def thinned(timestep: float, max_fps: float | int = 35) -> tuple[int, float]:
    """Of how many steps one is shown, and the seconds between two that are, so that a video is not needlessly dense.

    Args:
        timestep: seconds between two steps.
        max_fps: most frames per second of the video.
    """
    stride = max(1, math.ceil(1 / (timestep * max_fps) - 1e-9))
    return stride, timestep * stride


def fitted(frames: Iterable[np.ndarray], size: tuple[int, int]) -> Iterator[np.ndarray]:
    """Pictures scaled, in the proportions of the first, as large as fits; sides are even, as video formats need them.

    Args:
        frames: ``(height, width, 3)`` bytes each.
        size: width and height at most.
    """
    require(min(size) >= 64, "size", size, "must be at least 64 pixels each way")
    image, sides = extra("PIL.Image", "video"), None
    for frame in frames:
        if sides is None:
            height, width = frame.shape[:2]
            scale = min(size[0] / width, size[1] / height)
            sides = [max(2, 2 * round(scale * side / 2)) for side in (width, height)]
        yield np.asarray(image.fromarray(frame).resize(sides, image.Resampling.BICUBIC))


def _has_ffmpeg() -> bool:
    try:
        extra("imageio_ffmpeg", "video").get_ffmpeg_exe()
    except (MissingExtraError, RuntimeError):  # RuntimeError: the package is there, the binary is not
        return False
    return True


def _checked(frames: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    shape = None
    for frame in frames:
        require(frame.ndim == 3 and frame.shape[-1] == 3, "frame", frame.shape, "must be (height, width, 3)")
        require(frame.dtype == np.uint8, "frame", str(frame.dtype), "must hold bytes (uint8)")
        require(shape in (None, frame.shape), "frame", frame.shape, f"differs from the first, {shape}")
        shape = frame.shape
        yield frame
    require(shape is not None, "frames", [], "needs at least one frame")


def _write_mp4(frames: Iterator[np.ndarray], path: Path, fps: float | int) -> None:
    ffmpeg = extra("imageio_ffmpeg", "video")
    first = next(frames)
    height, width, _ = first.shape
    require(height % 2 == 0 and width % 2 == 0, "frame", first.shape, "needs even width and height for MP4")
    # yuv420p and faststart: what browsers and office programs can play.
    writer = ffmpeg.write_frames(
        str(path),
        (width, height),
        fps=fps,
        codec="libx264",
        pix_fmt_out="yuv420p",
        quality=None,
        macro_block_size=2,
        output_params=["-crf", "20", "-preset", "medium", "-movflags", "+faststart"],
        ffmpeg_log_level="error",
    )
    writer.send(None)
    sent = 0
    try:
        for frame in itertools.chain([first], frames):
            writer.send(np.ascontiguousarray(frame))
            sent += 1
    except (OSError, StopIteration) as error:
        if isinstance(error, PenstockError):
            raise
        raise OutputError(_FFMPEG_STOPPED.format(f"after {sent} frames")) from error
    finally:
        writer.close()
    # ffmpeg's exit status is lost on the way; a full disk shows only in what can be read back.
    try:
        written, _ = ffmpeg.count_frames_and_secs(str(path))
    except RuntimeError as error:
        raise OutputError(_FFMPEG_STOPPED.format("and left no readable video")) from error
    if written != sent:
        raise OutputError(_FFMPEG_STOPPED.format(f"with {written} of {sent} frames on disk"))


def _write_gif(frames: Iterator[np.ndarray], path: Path, fps: float | int) -> None:
    image = extra("PIL.Image", "video")
    opening = list(itertools.islice(frames, _PALETTE_FRAMES))
    require(len(opening) > 0, "frames", [], "needs at least one frame")
    # One palette for all frames: with one per frame, the background flickers. From several, because colours that
    # come later (activations) are missing in the first.
    sample = np.concatenate(opening[:: max(1, len(opening) // 8)])
    palette = image.fromarray(sample).quantize(colors=255, method=image.Quantize.MEDIANCUT)

    def reduced(frame: np.ndarray) -> Any:
        return image.fromarray(frame).quantize(palette=palette, dither=image.Dither.NONE)

    pictures = map(reduced, itertools.chain(opening, frames))
    next(pictures).save(
        path,
        format="GIF",
        save_all=True,
        append_images=pictures,
        duration=max(2, round(100 / fps)) * 10,
        loop=0,
        optimize=False,
    )
