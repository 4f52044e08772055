"""Mistakes in environments that people bring end in a sentence (F19 to F21), and a bad start loses no run."""

import functools
import warnings

import gymnasium
import jax
import numpy as np
import pytest
from hosted_environments import BadStarts, Counting

from penstock._errors import CapabilityError, ConfigurationError, PenstockError
from penstock._own_code import resolved_spec
from penstock.worlds import make_world
from penstock.worlds.check import check_world
from penstock.worlds.hosted.environments import own_source, stated_limit
from penstock.worlds.hosted.faults import WorldFaultError
from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.loading import load_world

KEY = jax.random.key(3)


def hosted(make, num_envs=2, vectorization="serial", **options):
    return HostedWorld(own_source("mine", functools.partial(make, **options)), num_envs, vectorization)


class Returns(Counting):
    """Returns something of its own choice from ``reset`` or ``step``."""

    def __init__(self, reset=None, step=None):
        super().__init__()
        self.returned = {"reset": reset, "step": step}

    def reset(self, *, seed=None, options=None):
        usual = super().reset(seed=seed)
        return usual if self.returned["reset"] is None else self.returned["reset"](usual)

    def step(self, action):
        usual = super().step(action)
        return usual if self.returned["step"] is None else self.returned["step"](usual)


@pytest.mark.parametrize(
    ("mistake", "sentence"),
    [
        ({"reset": lambda r: r[0]}, r"reset\(\) returned a ndarray; return \(observation, info\)"),
        ({"step": lambda r: r[:4]}, r"step\(\) returned 4 values; return \(observation, reward, terminated"),
        ({"step": lambda r: (r[0], None, *r[2:])}, r"step\(\) returned the reward None; return one number"),
        ({"step": lambda r: ([1.0, [2.0]], *r[1:])}, r"step\(\) returned an observation that is no array of numbers"),
        ({"step": lambda r: (["a", "b"], *r[1:])}, r"step\(\) returned an observation that is no array of numbers"),
        ({"step": lambda r: (None, *r[1:])}, r"step\(\) returned an observation"),
        (
            {"step": lambda r: (*r[:2], np.array([True, False]), *r[3:])},
            r"step\(\) returned terminated of shape \(2,\)",
        ),
    ],
)
def test_what_is_returned_wrongly_is_told(mistake, sentence):
    world = hosted(Returns, **mistake)
    with pytest.raises(WorldFaultError, match=sentence):
        world.step(world.reset(KEY), np.zeros((2, 1), np.float32))
    found = {f.title: f for f in check_world(hosted(Returns, **mistake))}
    assert "error" in {f.severity for f in found.values()}


def test_info_of_two_environments_need_not_fit_together():
    class Talks(Returns):
        def __init__(self):
            super().__init__(
                step=lambda r: (*r[:4], {"trace": np.zeros(self.age), "k": None if self.offset > 500 else 3})
            )

        def reset(self, *, seed=None, options=None):
            observation, _ = super().reset(seed=seed)
            return observation, None

    world = hosted(Talks)
    state = world.reset(KEY)
    for _ in range(7):
        state, transition = world.step(state, np.zeros((2, 1), np.float32))
    assert not [f for f in check_world(hosted(Talks)) if f.severity == "error"] and transition.reward.shape == (2,)


def test_the_time_limit_of_a_vector_is_that_of_its_environments():
    def pendulums(num_envs):
        return gymnasium.vector.SyncVectorEnv([lambda: gymnasium.make("Pendulum-v1", max_episode_steps=20)] * num_envs)

    assert stated_limit(pendulums(2), "mine") == 20
    stated = pendulums(2)
    stated.max_episode_steps = 12  # what the vector itself says comes first
    assert stated_limit(stated, "mine") == 12


def test_an_environment_without_spaces_is_refused():
    class Bare(gymnasium.Env):
        pass

    with pytest.raises(ConfigurationError, match=r"'mine' has no action_space\. Set self\.action_space"):
        hosted(Bare)


def test_an_environment_that_cannot_be_closed_can_be_played():
    class Open(Counting):
        def close(self):
            raise RuntimeError("stuck")

    world = hosted(Open)
    world.step(world.reset(KEY), np.zeros((2, 1), np.float32))
    world.close()


def test_a_later_environment_that_cannot_be_made_is_told():
    made = []

    def make():
        made.append(1)
        if len(made) > 2:
            raise RuntimeError("only two of me")
        return Counting()

    with pytest.raises(WorldFaultError, match=r"making the environment raised RuntimeError: only two of me"):
        hosted(make).reset(KEY)


@pytest.mark.parametrize(
    ("space", "box", "error", "sentence"),
    [
        ("observation_space", ((0,), np.float32), ConfigurationError, r"holds no number"),
        ("action_space", ((0,), np.float32), ConfigurationError, r"shape \(0,\); an action has entries"),
        ("action_space", ((1,), np.int64), CapabilityError, r"actions of type int64.*dtype=np\.float32"),
    ],
)
def test_spaces_that_hold_nothing_or_whole_numbers_are_refused(space, box, error, sentence):
    class Odd(Counting):
        def __init__(self):
            super().__init__()
            setattr(self, space, gymnasium.spaces.Box(-1, 1, *box))

    with pytest.raises(error, match=sentence):
        hosted(Odd)


# ------------------------------------------------------------------------------------------------- bad starts


def test_an_episode_that_begins_with_nan_is_left_out():
    world = hosted(BadStarts, num_envs=1)
    state = world.reset(KEY)
    for _ in range(20):
        state, transition = world.step(state, np.zeros((1, 1), np.float32))
        for leaf in jax.tree.leaves((state.observation, transition.observation, transition.final_observation)):
            assert np.isfinite(leaf).all()
        assert not transition.diverged.any()
    assert int(state.episode[0]) == 10 + 5  # every third was left out
    assert world.take_bad_starts() == 5 and world.take_bad_starts() == 0
    assert "observation[0] is nan in environment 0 right after the reset of episode 2" in world.take_faults()[0]


def test_a_bad_start_of_one_environment_leaves_the_others_alone():
    """Which episodes begin badly follows from their seeds, so that the two environments differ."""
    starts = []
    for period in (10**9, 3):
        world = hosted(BadStarts, period=period, by_offset=True)
        state, seen = world.reset(KEY), {}
        for _ in range(12):
            assert np.isfinite(state.observation.vector).all()
            for env, (offset, age) in enumerate(state.observation.vector.tolist()):
                if age == 0.0:
                    seen[env, int(state.episode[env])] = offset
            state, _ = world.step(state, np.zeros((2, 1), np.float32))
        starts.append(seen)
    good, bad = starts
    assert all(offset % 3 for offset in bad.values()) and not all(offset % 3 for offset in good.values())
    shared = set(good) & set(bad)  # the same episode begins the same, whether another one was left out or not
    assert len(shared) >= 3 and all(good[key] == bad[key] for key in shared)


def test_an_environment_that_always_begins_with_nan_stops_the_run():
    with pytest.raises(WorldFaultError, match=r"observation\[0\] is nan .* in 8 episodes.*Correct the environment's"):
        hosted(BadStarts, period=1).reset(KEY)
    found = {f.title: f for f in check_world(hosted(BadStarts, period=1))}
    assert found["Start"].severity == "error"
    found = {f.title: f for f in check_world(hosted(BadStarts, period=2, num_envs=1))}
    assert found["Finite numbers at the start"].severity == "error"


# ------------------------------------------------------------------------------------------------- names


def test_an_id_of_another_package_may_hold_a_colon(tmp_path, monkeypatch):
    (tmp_path / "somebodys_package.py").write_text(
        "import gymnasium\ngymnasium.register('Theirs-v0', 'gymnasium.envs.classic_control:PendulumEnv', "
        "max_episode_steps=7)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    name = "gym/somebodys_package:Theirs-v0"
    assert resolved_spec(name) == name
    world = load_world(name, 2)
    assert world.episode_length == 7
    with pytest.raises(PenstockError, match=r"'gym/no_such_package:Theirs-v0' needs the package no_such_package"):
        load_world("gym/no_such_package:Theirs-v0", 2)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"max_episode_steps": 2000}, r"max_episode_steps = 2000: the task itself ends after 1000 control steps"),
        ({"max_episode_steps": "abc"}, r"max_episode_steps"),
        ({"action_repeat": "two"}, r"action_repeat"),
    ],
)
def test_options_of_dm_control_are_refused_in_words(options, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        make_world("dmc/cartpole-balance", 1, **options)


def test_a_task_without_a_time_limit_needs_one():
    with pytest.raises(ConfigurationError, match=r"'dmc/lqr-lqr_2_1' has no time limit.*max_episode_steps=1000"):
        make_world("dmc/lqr-lqr_2_1", 1)
    with pytest.raises(ConfigurationError, match=r"action 0 has the bounds \[-1e\+10, 1e\+10\]"):
        make_world("dmc/lqr-lqr_2_1", 1, max_episode_steps=100)
    world = make_world("dmc/lqr-lqr_2_1", 1, max_episode_steps=100, action_limit=1.0)
    assert world.episode_length == 100 and world.declared.actions.high.tolist() == [1.0]


def test_a_dead_worker_is_named_without_other_noise():
    class Exits(Counting):
        def step(self, action):
            import os

            os._exit(3)

    world = hosted(Exits, vectorization="processes")
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with pytest.raises(WorldFaultError, match=r"process of environment 0 \(exit code 3\)"):
            world.step(world.reset(KEY), np.zeros((2, 1), np.float32))
    assert not [w for w in seen if "Calling `close`" in str(w.message)]
