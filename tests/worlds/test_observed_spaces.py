"""What environments observe: nested and discrete spaces as numbers, pictures of every layout."""

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium import spaces
from hosted_environments import Counting, hosted

from penstock._errors import ConfigurationError, PenstockError
from penstock.worlds.hosted.spaces import observation_reader, resized

KEY = jax.random.key(3)


NESTED = spaces.Dict(
    {
        "pair": spaces.Tuple((spaces.Box(-2, 2, (2,)), spaces.Discrete(3, start=5))),
        "deep": spaces.Dict({"bits": spaces.MultiBinary(3), "kinds": spaces.MultiDiscrete([2, 3])}),
    }
)


class Nested(Counting):
    """Observes its age in every kind of space."""

    def __init__(self):
        super().__init__(limit=4, ends=3)
        self.observation_space = NESTED

    def _look(self):
        age = self.age
        deep = {"bits": np.array([1, 0, age % 2], np.int8), "kinds": np.array([age % 2, age % 3])}
        return {"pair": (np.array([age, -age], np.float32), 5 + age % 3), "deep": deep}

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._look(), {}

    def step(self, action):
        _, *rest = super().step(action)
        return (self._look(), *rest)


def looks(age):
    """By hand: bits, one-hot kinds, two numbers, one-hot of three."""
    hot = lambda n, i: [float(j == i) for j in range(n)]  # noqa: E731
    return [1.0, 0.0, float(age % 2), *hot(2, age % 2), *hot(3, age % 3), float(age), -float(age), *hot(3, age % 3)]


@pytest.mark.parametrize("vectorization", ["serial", pytest.param("processes", marks=pytest.mark.slow)])
def test_nested_and_discrete_observations_are_numbers(vectorization):
    world = hosted(Nested, vectorization=vectorization)
    state = world.reset(KEY)
    assert world.observation_spec.vector == 13
    for age in (1, 2, 3):
        np.testing.assert_array_equal(state.observation.vector, [looks(age - 1)] * 2)
        state, transition = world.step(state, np.zeros((2, 1), np.float32))
        np.testing.assert_array_equal(transition.final_observation.vector, [looks(age)] * 2)
    np.testing.assert_array_equal(state.observation.vector, [looks(0)] * 2)
    world.close()


@pytest.mark.parametrize("mode", list(gymnasium.vector.AutoresetMode))
def test_nested_observations_in_every_mode_of_automatic_reset(mode):
    def make(num_envs=2):
        envs = gymnasium.vector.SyncVectorEnv([Nested] * num_envs, autoreset_mode=mode)
        envs.max_episode_steps = 4
        return envs

    from penstock.worlds.hosted.own import own_world

    world = own_world("mine", make, make(), 2, {"num_envs": 2}, {})
    state = world.reset(KEY)
    for age in (1, 2, 3):
        state, transition = world.step(state, np.zeros((2, 1), np.float32))
        np.testing.assert_array_equal(transition.final_observation.vector, [looks(age)] * 2)


def test_an_observation_of_a_nested_space_can_be_acted_on():
    env = Nested()
    one, _ = env.reset(seed=1)
    reader = observation_reader(NESTED, "mine")
    observation, single = reader.read_any(one)
    assert single and observation.vector.tolist() == [looks(0)]
    with pytest.raises(ConfigurationError, match=r"pair\.0 \(2,\)"):
        reader.read_any({"pair": one["pair"]})


def test_a_discrete_value_outside_its_space_is_told():
    class Beyond(Counting):
        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Discrete(3)

        def reset(self, *, seed=None, options=None):
            super().reset(seed=seed)
            return 3, {}

    with pytest.raises(PenstockError, match=r"reset\(\) returned an observation of 3; observation_space declares Disc"):
        hosted(Beyond).reset(KEY)


@pytest.mark.parametrize(
    ("shape", "pixels", "place"),
    [
        ((40, 32), (40, 32, 1), lambda p: p[:, :, None]),
        ((40, 32, 3), (40, 32, 3), lambda p: p),
        ((3, 40, 32), (40, 32, 3), lambda p: p.transpose(1, 2, 0)),
        ((4, 40, 32), (40, 32, 4), lambda p: p.transpose(1, 2, 0)),
        ((2, 40, 32, 3), (40, 32, 6), lambda p: np.concatenate([p[0], p[1]], axis=-1)),
        ((2, 3, 40, 32), (40, 32, 6), lambda p: np.concatenate([q.transpose(1, 2, 0) for q in p], axis=-1)),
    ],
)
def test_pictures_of_every_layout(shape, pixels, place):
    space = spaces.Box(0, 255, shape, np.uint8)
    reader = observation_reader(space, "mine")
    batch = np.random.default_rng(0).integers(0, 256, (2, *shape), np.uint8)
    assert reader.spec.pixels == pixels and reader.spec.vector == 0
    np.testing.assert_array_equal(reader.read(batch).pixels, np.stack([place(one) for one in batch]))


def test_a_size_of_pictures_that_are_not_there_is_refused():
    with pytest.raises(ConfigurationError, match=r"image_size = 64: does nothing, because nothing .* is a picture"):
        hosted(Counting, image_size=64)


def test_a_few_bytes_are_no_picture():
    reader = observation_reader(spaces.Box(0, 10, (7, 7, 3), np.uint8), "mine")
    assert reader.spec.pixels is None and reader.spec.vector == 147


def test_pictures_are_brought_to_a_size_by_their_areas():
    picture = np.random.default_rng(1).integers(0, 256, (1, 64, 96, 3), np.uint8)
    blocks = picture.reshape(1, 32, 2, 32, 3, 3).mean(axis=(2, 4))
    np.testing.assert_allclose(resized(picture, 32), blocks, atol=0.5 + 1e-4)
    assert resized(np.full((1, 210, 160, 3), 77, np.uint8), 84).tolist() == np.full((1, 84, 84, 3), 77).tolist()
    reader = observation_reader(spaces.Dict({
        "left": spaces.Box(0, 255, (64, 96, 3), np.uint8), "right": spaces.Box(0, 255, (32, 32, 3), np.uint8)
    }), "mine", 32)  # fmt: skip
    assert reader.spec.pixels == (32, 32, 6)
