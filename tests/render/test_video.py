import errno
import resource
import sys

import imageio.v3 as iio
import numpy as np
import pytest
from PIL import Image

from penstock._errors import ConfigurationError, PenstockError
from penstock._files import OutputError, replacing
from penstock.render import video
from penstock.render.video import fitted, thinned, write_episode, write_video
from penstock.scene.items import Scene


def moving_square(count=12, size=(64, 96)):
    for k in range(count):
        frame = np.full((*size, 3), 240, np.uint8)
        frame[20:40, 4 * k : 4 * k + 20] = (200, 40, 40)
        yield frame


def left_edge(frame):
    return int(np.flatnonzero((frame[30, :, 0].astype(int) - frame[30, :, 1]) > 80)[0])


@pytest.mark.parametrize("suffix", [".mp4", ".gif"])
def test_video_reads_back(tmp_path, suffix):
    path = write_video(moving_square(), tmp_path / "videos" / f"run{suffix}", fps=25)
    assert path.suffix == suffix
    frames = iio.imread(path, plugin="FFMPEG" if suffix == ".mp4" else "pillow")
    assert frames.shape == (12, 64, 96, 3)
    edges = [left_edge(frame) for frame in frames]
    assert np.abs(np.array(edges) - 4 * np.arange(12)).max() <= 2
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_gif_keeps_time(tmp_path):
    with Image.open(write_video(moving_square(3), tmp_path / "run.gif", fps=25)) as picture:
        assert picture.info["duration"] == 40


def test_without_ffmpeg_a_gif_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "imageio_ffmpeg", None)
    with pytest.warns(UserWarning, match=r"No ffmpeg was found.*pip install 'penstock\[video\]'"):
        path = write_video(moving_square(3), tmp_path / "run.mp4", fps=25)
    assert path == tmp_path / "run.gif"
    assert len(iio.imread(path)) == 3


def test_an_interrupted_video_leaves_the_old_one(tmp_path):
    path = write_video(moving_square(2), tmp_path / "run.mp4", fps=25)
    before = path.read_bytes()

    def breaks():
        yield from moving_square(3)
        raise RuntimeError("simulation failed")

    with pytest.raises(RuntimeError, match="simulation failed"):
        write_video(breaks(), path, fps=25)
    assert path.read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_video_that_does_not_fit_is_an_error(tmp_path):
    # A limit on file size stops ffmpeg as a full disk does.
    generator = np.random.default_rng(0)
    noise = (generator.integers(0, 255, (128, 128, 3), np.uint8) for _ in range(30))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(OutputError, match=r"Is the disk full"):
            write_video(noise, tmp_path / "run.mp4", fps=25)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_a_sentence(tmp_path):
    target = tmp_path / "figure.png"
    target.write_text("old")
    with pytest.raises(OutputError, match=r"figure\.png: the disk is full"), replacing(target) as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert target.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["figure.png"]


def test_gif_keeps_colours_that_come_late(tmp_path):
    frames = [np.full((32, 32, 3), 240, np.uint8)] * 9 + [np.full((32, 32, 3), (200, 40, 40), np.uint8)]
    last = iio.imread(write_video(frames, tmp_path / "run.gif", fps=25))[-1]
    np.testing.assert_allclose(last.reshape(-1, 3).mean(0), (200, 40, 40), atol=6)


def test_an_episode_plays_in_real_time(tmp_path):
    scenes = [Scene([], np.array([0.01 * k, 0.2, 0.0]), 0.3) for k in range(51)]
    path = write_episode(scenes, tmp_path / "run.mp4", 0.016, size=(128, 72))
    metadata = iio.immeta(path, plugin="FFMPEG")
    assert metadata["fps"] == pytest.approx(31.25)
    assert len(iio.imread(path, plugin="FFMPEG")) == 26  # every second scene
    assert metadata["duration"] == pytest.approx(51 * 0.016, abs=0.05)


def test_errors_are_sentences(tmp_path):
    with pytest.raises(PenstockError, match=r"must end in \.mp4 or \.gif"):
        write_video(moving_square(), tmp_path / "run.avi", fps=25)
    with pytest.raises(PenstockError, match="needs at least one frame"):
        write_video([], tmp_path / "run.mp4", fps=25)
    with pytest.raises(PenstockError, match="differs from the first"):
        write_video([np.zeros((64, 64, 3), np.uint8), np.zeros((64, 66, 3), np.uint8)], tmp_path / "run.mp4", fps=25)
    with pytest.raises(PenstockError, match="even width and height"):
        write_video([np.zeros((63, 64, 3), np.uint8)], tmp_path / "run.mp4", fps=25)
    with pytest.raises(PenstockError, match=r"must hold bytes"):
        write_video([np.zeros((64, 64, 3))], tmp_path / "run.gif", fps=25)
    assert video.FORMATS and not list(tmp_path.iterdir())


def test_pictures_are_fitted_in_the_proportions_of_the_first():
    frames = [np.full((41, 81, 3), 50, np.uint8), np.full((20, 81, 3), 90, np.uint8)]
    shown = list(fitted(frames, (160, 120)))
    assert [frame.shape for frame in shown] == [(80, 160, 3)] * 2 and [frame.mean() for frame in shown] == [50, 90]
    assert next(iter(fitted([np.zeros((300, 10, 3), np.uint8)], (160, 120)))).shape == (120, 4, 3)
    with pytest.raises(ConfigurationError, match="at least 64 pixels"):
        list(fitted(frames, (62, 120)))


def test_of_dense_steps_every_second_or_third_is_shown():
    assert thinned(1 / 30) == (1, 1 / 30) and thinned(1 / 50) == (2, 2 / 50) and thinned(0.01) == (3, 0.03)
