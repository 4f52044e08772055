"""The multi-goal world by hand: rewards, arrivals, symmetry, and what its best episode is worth."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.worlds import make_world
from penstock.worlds.classic.multi_goal import MultiGoal


def test_a_step_by_hand():
    """From (3, 0.5) by (0.5, -0.5) to (3.5, 0): 1.5 m from the goal at (5, 0), so not there yet."""
    place, outcome = MultiGoal().advance(jnp.array([3.0, 0.5]), jnp.array([0.5, -0.5]))
    np.testing.assert_allclose(place, [3.5, 0.0], atol=1e-6)
    np.testing.assert_allclose(outcome.reward, -2.25 / 25 - 1.2 * 0.5, rtol=1e-6)
    assert not outcome.terminated and float(outcome.diagnostics["success"]) == 0.0


@pytest.mark.parametrize("goals", [4, 6])
def test_each_goal_is_told_apart_and_ends_the_episode(goals):
    task = MultiGoal(goals=goals)
    for i in range(goals):
        angle = 2 * math.pi * i / goals
        near = 4.5 * np.array([math.cos(angle), math.sin(angle)])
        _, outcome = task.advance(jnp.asarray(near, jnp.float32), jnp.zeros(2))
        hit = [float(outcome.diagnostics[f"goal_{j}"]) for j in range(goals)]
        assert outcome.terminated and hit == [float(j == i) for j in range(goals)]
        np.testing.assert_allclose(outcome.reward, -0.25 / 25, rtol=1e-4)


def test_turning_the_world_by_one_goal_changes_nothing():
    task = MultiGoal(goals=6)
    c, s = math.cos(math.pi / 3), math.sin(math.pi / 3)
    turn = jnp.array([[c, -s], [s, c]])
    for seed in range(5):
        place, action = jax.random.uniform(jax.random.key(seed), (2, 2), minval=-1.0, maxval=1.0)
        plain, turned = task.advance(2 * place, 0.7 * action), task.advance(2 * turn @ place, 0.7 * turn @ action)
        np.testing.assert_allclose(turned[1].reward, plain[1].reward, rtol=1e-5)
        np.testing.assert_allclose(turned[0], turn @ plain[0], atol=1e-5)


def test_straight_episodes_return_five_and_standing_still_thirty():
    """Any goal at 0.6 m per step: seven steps; the mean of those four actions is to stand still."""
    world = make_world("classic/multi-goal", 5, start_std=0.0)
    actions = 0.6 * jnp.concatenate([world.task.single.places() / 5.0, jnp.zeros((1, 2))])
    state, total, alive = jax.jit(world.reset)(jax.random.key(0)), jnp.zeros(5), jnp.ones(5)
    step = jax.jit(world.step)
    for _ in range(30):
        state, transition = step(state, actions)
        total, alive = total + alive * transition.reward, alive * (1.0 - transition.terminated)
    best = -sum((5 - 0.6 * k) ** 2 / 25 + 1.2 * 0.36 for k in range(1, 8))
    np.testing.assert_allclose(total, [best] * 4 + [-30.0], rtol=1e-4)
    assert -5.6 < best < -4.8 and alive.tolist() == [0, 0, 0, 0, 1]


def test_impossible_goals_are_refused():
    with pytest.raises(ConfigurationError, match=r"goals = 0: must be at least 1"):
        make_world("classic/multi-goal", 2, goals=0)
    with pytest.raises(ConfigurationError, match=r"threshold = 1\.0: is so large that goals overlap"):
        make_world("classic/multi-goal", 2, goals=40)
