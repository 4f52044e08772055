"""Pictures of environments that render themselves."""

import gymnasium
import jax
import numpy as np
import pytest
from hosted_environments import Counting, Tells

from penstock._errors import PenstockError
from penstock.worlds.check import check_world
from penstock.worlds.hosted.environments import own_source
from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.hosted.own import own_world
from penstock.worlds.hosted.pictures import frame_of, rendering, takes_render_mode


class Renders(Counting):
    """Renders what it is given."""

    metadata = {"render_modes": ["rgb_array"]}  # noqa: RUF012

    def __init__(self, picture):
        super().__init__()
        self.picture = picture
        self.render_mode = None

    def render(self):
        if isinstance(self.picture, Exception):
            raise self.picture
        return self.picture if self.render_mode == "rgb_array" else "nothing"


BYTES = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (BYTES, BYTES),
        (BYTES / 255.0, BYTES),
        (np.concatenate([BYTES, BYTES[..., :1]], axis=-1), BYTES),
        (np.moveaxis(BYTES, -1, 0), BYTES),
        (BYTES[..., 0], np.repeat(BYTES[..., :1], 3, axis=-1)),
        ([np.zeros_like(BYTES), BYTES], BYTES),
    ],
    ids=["bytes", "floats", "alpha", "channels first", "gray", "list"],
)
def test_what_is_rendered_becomes_bytes(picture, expected):
    frame = frame_of(rendering(lambda: Renders(picture), by_name=False), "mine")
    np.testing.assert_allclose(frame, expected, atol=1)
    assert frame.dtype == np.uint8


@pytest.mark.parametrize(
    ("picture", "sentence"),
    [
        (None, r"render\(\) returned None; pictures are arrays"),
        (np.zeros((3, 3, 3, 3)), r"an array of shape \(3, 3, 3, 3\)"),
        (RuntimeError("no OpenGL context"), r"MUJOCO_GL is .* render\(\) raised RuntimeError: no OpenGL context"),
        (ValueError("lost"), r"could not be rendered. render\(\) raised ValueError: lost"),
    ],
    ids=["nothing", "shape", "OpenGL", "another fault"],
)
def test_what_cannot_be_rendered_is_told(picture, sentence):
    with pytest.raises(PenstockError, match=sentence):
        frame_of(rendering(lambda: Renders(picture), by_name=False), "mine")
    films = {f.title: f for f in check_world(HostedWorld(own_source("mine", lambda: Renders(picture), 5), 1))}["Films"]
    assert films.severity == "warning", "training works all the same"


def test_render_mode_is_given_where_it_is_taken():
    assert takes_render_mode(Tells) and takes_render_mode(lambda **options: None) and not takes_render_mode(Renders)
    source = own_source("mine", Tells, 5, render_by_name=True)
    assert HostedWorld(source, 3).filmed().num_envs == 1
    filmed = HostedWorld(source, 3, "processes").filmed()
    filmed.reset(jax.random.key(0))
    assert filmed.frame().shape == (41, 81, 3)
    filmed.close()


def test_a_vector_renders_its_first_environment():
    def make(num_envs):
        envs = gymnasium.vector.SyncVectorEnv([lambda: Renders(BYTES)] * num_envs)
        envs.max_episode_steps = 5
        return envs

    filmed = own_world("mine", make, make(2), 2, {"num_envs": 2}, {}).filmed()
    filmed.reset(jax.random.key(0))
    np.testing.assert_array_equal(filmed.frame(), BYTES)
    filmed.close()
