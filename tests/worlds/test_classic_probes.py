"""The probe worlds' own answers are right: values by playing them, the bimodal margin by exhaustive search."""

import importlib.util
import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

_path = pathlib.Path(__file__).parent.parent / "learning" / "probe_worlds.py"
_spec = importlib.util.spec_from_file_location("probe_worlds", _path)
probes = importlib.util.module_from_spec(_spec)
sys.modules["probe_worlds"] = probes
_spec.loader.exec_module(probes)


def _play(task, policy, num_envs=8, steps=4, key=0):
    world = probes.probe(task, num_envs)

    @jax.jit
    def run(key):
        state = world.reset(key)

        def step(state, key):
            action = policy(state.observation, key)
            state, transition = world.step(state, action)
            return state, transition

        first = state.observation
        return first, jax.lax.scan(step, state, jax.random.split(key, steps))[1]

    first, transitions = run(jax.random.key(key))
    return first, jax.tree.map(np.asarray, transitions)


def _discounted_until_end(transitions, discount):
    done = transitions.terminated | transitions.truncated
    alive = np.cumprod(np.concatenate([np.ones_like(done[:1]), ~done[:-1]]), 0)
    powers = discount ** np.arange(len(transitions.reward))
    return (alive * powers[:, None] * transitions.reward).sum(0)


def _idle(action_size):
    return lambda observation, key: jnp.full((observation.vector.shape[0], action_size), 0.2)


@pytest.mark.parametrize("probe_class", probes.ALL)
def test_probes_are_worlds(probe_class):
    task = probe_class()
    _, transitions = _play(task, _idle(task.action_size), steps=3)
    assert np.isfinite(transitions.reward).all() and not transitions.diverged.any()


def test_values_of_terminating_probes_equal_the_returns_of_playing_them():
    for discount in (0.5, 0.9):
        for task, steps in (
            (probes.OneStep(), 1),
            (probes.ConstantRewardTerminated(), 4),
            (probes.TwoStepDiscount(), 2),
        ):
            _, transitions = _play(task, _idle(1), steps=6)
            np.testing.assert_allclose(
                _discounted_until_end(transitions, discount), task.right_value(discount), rtol=1e-6
            )
            assert transitions.terminated[steps - 1].all() and not transitions.truncated.any()
    first, transitions = _play(probes.ObservationReward(), _idle(1), num_envs=32, steps=1)
    np.testing.assert_allclose(transitions.reward[0], np.asarray(first.vector)[:, 0])
    assert set(np.asarray(first.vector).ravel().tolist()) == {-1.0, 1.0}


def test_the_truncated_probe_is_truncated_only():
    _, transitions = _play(probes.ConstantRewardTruncated(), _idle(1), steps=16)
    assert transitions.truncated[[7, 15]].all() and transitions.truncated.sum() == 2 * 8
    assert not transitions.terminated.any() and (transitions.reward == 1).all()


def test_right_actions_earn_the_right_reward_and_are_stationary():
    best = jnp.asarray(probes.ActionReward().best)
    _, transitions = _play(probes.ActionReward(), lambda o, k: jnp.broadcast_to(best, (8, 2)), steps=1)
    np.testing.assert_allclose(transitions.reward, 0.0, atol=1e-12)
    task = probes.ObservationActionReward()
    _, transitions = _play(task, lambda o, k: task.right_action(o.vector), steps=2)
    np.testing.assert_allclose(transitions.reward, 0.0, atol=1e-12)
    _, transitions = _play(probes.Regulator(), lambda o, k: -o.vector, steps=5)
    np.testing.assert_allclose(transitions.reward, 0.0, atol=1e-3)
    _, transitions = _play(probes.PointCloud(), lambda o, k: o.points[:, :, 0].mean(1)[:, None], num_envs=512, steps=2)
    np.testing.assert_allclose(transitions.reward.mean(), -0.01 / 6, rtol=0.15)


# --- two doors --------------------------------------------------------------------------------------------------

GRID = np.linspace(-1.0, 1.0, 1001)


def _gaussian_weights(mean, std, squash):
    """Probability of each grid cell under a clipped or squashed Gaussian, by fine quadrature."""
    z = np.linspace(-6, 6, 4001)
    density = np.exp(-0.5 * z**2)
    action = np.tanh(mean + std * z) if squash else np.clip(mean + std * z, -1, 1)
    weights, _ = np.histogram(action, bins=np.append(GRID - 0.001, 1.001), weights=density / density.sum())
    return weights


def test_the_best_gaussian_is_far_worse_than_two_doors():
    task = probes.TwoDoors()
    value = jax.jit(jax.vmap(lambda weights: task.expected_return(jnp.asarray(GRID, jnp.float32), weights)))
    for squash in (False, True):
        family = [
            _gaussian_weights(mean, std, squash)
            for mean in np.linspace(0.0, 1.2, 25)
            for std in np.geomspace(0.01, 3.0, 25)
        ]
        best = float(value(jnp.asarray(np.stack(family), jnp.float32)).max())
        assert 0.5 < best < task.GAUSSIAN_BOUND
    single = float(value(jnp.eye(1001, dtype=jnp.float32)).max())
    assert 0.49 < single < 0.51
    doors = np.zeros(1001)
    doors[[250, 750]] = 0.5
    assert abs(float(value(jnp.asarray(doors[None], jnp.float32))[0]) - task.BEST) < 2e-3
    # What a flow can do: two soft modes.
    soft = np.exp(-0.5 * ((GRID - 0.5) / 0.05) ** 2) + np.exp(-0.5 * ((GRID + 0.5) / 0.05) ** 2)
    assert float(value(jnp.asarray((soft / soft.sum())[None], jnp.float32))[0]) > 0.88


def test_playing_two_doors_gives_the_predicted_returns():
    def coin(observation, key):
        return jnp.where(jax.random.bernoulli(key, shape=(2048, 1)), 0.5, -0.5)

    def wide(observation, key):
        return 0.5 * jax.random.normal(key, (2048, 1))

    _, transitions = _play(probes.TwoDoors(), coin, num_envs=2048)
    assert abs(_discounted_until_end(transitions, 1.0).mean() - 0.9375) < 0.02
    _, transitions = _play(probes.TwoDoors(), wide, num_envs=2048)
    weights = jnp.asarray(_gaussian_weights(0.0, 0.5, False), jnp.float32)
    predicted = float(probes.TwoDoors().expected_return(jnp.asarray(GRID, jnp.float32), weights))
    assert abs(_discounted_until_end(transitions, 1.0).mean() - predicted) < 0.03
    assert np.all(np.asarray(transitions.observation.vector) == 0.0)  # nothing to see


def test_every_action_has_a_gradient_towards_the_unlocked_door():
    task = probes.TwoDoors()
    slope = jax.vmap(jax.grad(lambda a: task.advance(jnp.array([1.0, 1.0]), a[None])[1].reward))
    actions = jnp.array([-1.0, -0.5, -0.2, 0.0, 0.3, 0.45, 0.55, 0.7, 1.0])
    got = np.asarray(slope(actions))
    assert np.all(np.sign(got) == np.sign(0.5 - np.asarray(actions))) and np.all(np.abs(got) > 1e-6)
