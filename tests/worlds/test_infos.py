"""What environments tell in ``info``: success and named numbers, however they are put together."""

import functools

import gymnasium
import jax
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode
from hosted_environments import Counting, Tells

from penstock.worlds.hosted.environments import own_source
from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.hosted.infos import InfoReader
from penstock.worlds.hosted.own import own_world

KEY = jax.random.key(0)
NAMES = ("age", "deep.x", "mixed", "array", "text")


def told(world, steps):
    """What was told of every step, environments behind each other, and where the step was one."""
    state, played = world.reset(KEY), []
    for _ in range(steps):
        state, transition = world.step(state, np.zeros((world.num_envs, 1), np.float32))
        happened = np.ones(world.num_envs, bool) if transition.valid is None else transition.valid
        played.append((transition.diagnostics, happened))
    world.close()
    return played


@pytest.mark.parametrize("vectorization", ["serial", pytest.param("processes", marks=pytest.mark.slow)])
def test_single_environments_tell_success_and_what_is_named(vectorization):
    world = HostedWorld(own_source("mine", functools.partial(Tells, limit=3, mixed=True)), 2, vectorization).with_info(
        NAMES
    )
    played = told(world, 4)
    assert [step["success"].tolist() for step, _ in played] == [[0, 0], [1, 1], [0, 0], [0, 0]]
    assert [step["info/age"].tolist() for step, _ in played] == [[1, 1], [2, 2], [3, 3], [1, 1]]
    assert played[0][0]["info/deep.x"].tolist() == [-1.0, -1.0] and played[0][0]["success"].dtype == np.float32
    assert "info/mixed" in played[0][0] and "info/mixed" not in played[1][0], "a text is no number"
    assert not {"info/array", "info/text"} & set(played[0][0])
    assert world.told_info() == ("is_success", {"age", "deep.x", "mixed"})
    sentence = world.missing_info()
    assert "'array' is no number in the info" in sentence and "'text'" in sentence and "'age'" not in sentence
    assert "Known names: age, deep.x, is_success, mixed." in sentence


def test_nothing_is_missing_before_an_episode_has_ended():
    world = HostedWorld(own_source("mine", functools.partial(Counting, limit=2)), 1).with_info(("age",))
    state = world.reset(KEY)
    state, _ = world.step(state, np.zeros((1, 1), np.float32))
    assert world.missing_info() == ""
    world.step(state, np.zeros((1, 1), np.float32))
    assert world.missing_info() == (
        "log_info: 'age' is no number in the info of any step so far. The environment tells no number there."
    )


@pytest.mark.parametrize("mode", list(AutoresetMode), ids=lambda mode: mode.name)
def test_every_vector_tells_the_last_step_of_an_episode(mode):
    """Same-step resets hide it in ``final_info``; the step of a next-step reset tells nothing."""

    def make(num_envs):
        envs = gymnasium.vector.SyncVectorEnv(
            [functools.partial(Tells, limit=limit) for limit in (2, 3)][:num_envs], autoreset_mode=mode
        )
        envs.max_episode_steps = 5
        return envs

    world = own_world("mine", make, make(2), 2, {"num_envs": 2}, {}).with_info(("age",))
    ages = [[], []]
    for diagnostics, happened in told(world, 6):
        for env in np.flatnonzero(happened):
            ages[env].append((diagnostics["info/age"][env], diagnostics["success"][env]))
        assert np.isnan(diagnostics["info/age"][~happened]).all()
    first, second = ([(1, 0), (2, 1)] * 3, [(1, 0), (2, 1), (3, 0)] * 2)
    assert ages[0] == first[: len(ages[0])] and ages[1] == second[: len(ages[1])]


def read(info, ended=(False, False), counted=(True, True), log_info=("x",)):
    reader = InfoReader(log_info, 2)
    return {name: value.tolist() for name, value in reader.read(info, np.array(ended), np.array(counted)).items()}


def test_what_was_not_told_is_nan_or_absent():
    nan = pytest.approx(np.nan, nan_ok=True)
    assert read({"x": np.array([1.0, 2.0])}) == {"info/x": [1.0, 2.0]}, "EnvPool has no masks"
    assert read({"x": np.array([1.0, 2.0]), "_x": np.array([True, False])}) == {"info/x": [1.0, nan]}
    assert read({"x": np.array([1.0, np.inf])}) == {"info/x": [1.0, nan]}
    assert read({"x": np.array([1.0, 2.0])}, counted=(False, True)) == {"info/x": [nan, 2.0]}
    assert read({"x": np.array([[1.0], [2.0]])}) == {"info/x": [1.0, 2.0]}
    assert read({"x": np.array([None, 3], object)}) == {"info/x": [nan, 3.0]}
    assert read({"x": np.zeros((2, 4))}) == read({"x": "text"}) == read(None) == read({"y": np.ones(2)}) == {}
    assert read({"success": np.array([0.0, 7.0])}) == {"success": [0.0, 1.0]}
    both = {"success": np.ones(2), "is_success": np.array([True, False])}
    assert read(both) == {"success": [1.0, 0.0]}, "the first name counts"
    assert read(both, log_info=("success",)) == {"success": [1.0, 0.0], "info/success": [1.0, 1.0]}


def test_the_end_of_an_episode_may_be_listed_as_dictionaries():
    info = {"x": np.array([0.0, 0.5]), "final_info": np.array([{"x": 9, "is_success": True}, None], object)}
    nan = pytest.approx(np.nan, nan_ok=True)
    assert read(info, ended=(True, False)) == {"success": [1.0, nan], "info/x": [9.0, 0.5]}
    assert read(info) == {"info/x": [0.0, 0.5]}
