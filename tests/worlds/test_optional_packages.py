"""Worlds whose packages are extras: EnvPool and HumanoidBench. Each test runs where its package is installed."""

import importlib.util

import jax
import numpy as np
import pytest

from penstock.worlds import make_world
from penstock.worlds.check import check_world


def episodes(world, steps, action):
    """Observation, action and transition of every control step."""
    state = world.reset(jax.random.key(3))
    seen = []
    for t in range(steps):
        before = state.observation.vector.copy()
        state, transition = world.step(state, action(t))
        seen.append((before, transition, state.observation.vector.copy()))
    world.close()
    return seen


def faults(world):
    return [finding for finding in check_world(world) if finding.severity == "error"]


def swing(t):
    return np.full((2, 1), np.sin(0.1 * t), np.float32)


def test_envpool_steps_the_pendulum_of_gymnasium():
    """The next angle is that of Gymnasium's source: dt 0.05, g 10, torque up to 2; episodes are cut after 200 steps."""
    pytest.importorskip("envpool")
    world = make_world("gym/Pendulum-v1", 2, vectorization="envpool")
    seen = episodes(world, 203, swing)
    for t, (before, transition, after) in enumerate(seen):
        over = transition.truncated | transition.terminated
        assert over.tolist() == [t == 199] * 2 and not transition.terminated.any()
        angle, speed = np.arctan2(before[:, 1], before[:, 0]), before[:, 2]
        torque = 2.0 * swing(t)[:, 0]
        expected = np.clip(speed + (15.0 * np.sin(angle) + 3.0 * torque) * 0.05, -8.0, 8.0)
        final = transition.final_observation.vector
        np.testing.assert_allclose(final[:, 2], expected, atol=1e-3)
        np.testing.assert_allclose(final[:, 0], np.cos(angle + 0.05 * expected), atol=1e-3)
        cost = angle**2 + 0.1 * speed**2 + 0.001 * torque**2
        np.testing.assert_allclose(transition.reward, -cost, atol=1e-3)
        assert np.array_equal(final, after) == (t != 199)  # a new episode begins without a step in between
    again = make_world("gym/Pendulum-v1", 2, vectorization="envpool")
    same = episodes(again, 20, swing)
    for (_, one, _), (_, other, _) in zip(seen[:20], same, strict=True):
        np.testing.assert_array_equal(one.reward, other.reward)


def test_envpool_worlds_pass_the_checker():
    pytest.importorskip("envpool")
    assert not faults(make_world("gym/Hopper-v4", 2, vectorization="envpool"))


def test_humanoid_bench():
    if importlib.util.find_spec("humanoid_bench") is None:  # importing it whole needs more than its worlds do
        pytest.skip("HumanoidBench is not here")
    world = make_world("humanoidbench/h1-walk-v0", 1)
    assert world.action_size == 19 and world.observation_spec.vector == 51
    seen = episodes(world, 5, lambda t: np.full((1, 19), 0.1, np.float32))
    assert all(np.isfinite(transition.reward).all() for _, transition, _ in seen)
    assert not np.array_equal(seen[0][0], seen[4][2])
    assert not faults(make_world("humanoidbench/h1-walk-v0", 1))
