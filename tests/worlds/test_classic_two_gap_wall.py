"""The two-gap wall separates unimodal from bimodal policies in expected return; known without learning."""

import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.worlds import make_world
from penstock.worlds.classic.two_gap_wall import TwoGapWall

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
import best_policies

NUM_ENVS = 256
WORLD = make_world("classic/two-gap-wall", NUM_ENVS)


def evaluate(policy, key):
    """Share of episodes that get through, and mean undiscounted return, under ``policy(observation, key)``."""
    key_reset, key_noise = jax.random.split(key)

    def step(carry, key):
        state, alive, success, total = carry
        action = policy(WORLD.task.observe(state).vector, key)
        state, outcome = WORLD.task.advance(state, jnp.clip(action, -1.0, 1.0))
        success = jnp.maximum(success, alive * outcome.diagnostics["success"])
        total = total + alive * outcome.reward
        return (state, alive * ~outcome.terminated, success, total), None

    zeros = jnp.zeros(NUM_ENVS)
    start = (WORLD.task.initial(key_reset, NUM_ENVS), zeros + 1.0, zeros, zeros)
    (_, _, success, total), _ = jax.lax.scan(step, start, jax.random.split(key_noise, WORLD.episode_length))
    return jnp.stack([success.mean(), total.mean()])


def two_aims(observation, key):
    """Tosses a coin at every step; only the one at the launch counts."""
    key_side, key_noise = jax.random.split(key)
    side = jnp.where(jax.random.bernoulli(key_side, shape=(NUM_ENVS,)), 0.533, -0.533)
    aim = jnp.stack([jnp.zeros(NUM_ENVS), side], 1)
    return aim + 0.02 * jax.random.normal(key_noise, (NUM_ENVS, 2))


@pytest.mark.slow
def test_the_best_gaussian_loses_to_two_aims():
    """By the recursion over tabulated launches: no episodes, no learning."""
    best = best_policies.two_gap_wall(aims=200, means=9, spreads=12, ascent=20)
    returns = {name: row["return"] for name, row in best.items()}
    assert 3.9 < returns["two aims"] < 4.2 and best["two aims"]["success"] > 0.95
    assert returns["any law"] < returns["two aims"] + 0.1
    assert 0.4 < returns["one aim"] < 0.6 and best["one aim"]["success"] == pytest.approx(0.5, abs=1e-3)
    assert max(returns["tanh-Gaussian"], returns["clipped Gaussian"]) < returns["one aim"] + 0.05
    # Even knowing the open side for all but the lateral launch, hence for every other choice a Gaussian has.
    generous = returns["tanh-Gaussian, all else done knowing the side"]
    assert returns["one aim"] < generous < TwoGapWall.GAUSSIAN_BOUND < returns["two aims"] - 3.0


def test_playing_gives_the_predicted_returns():
    edges, grid = best_policies.cells(200)
    table = best_policies.launches(TwoGapWall(), grid)
    predicted = lambda weights: np.asarray(best_policies.two_gap_return(table, jnp.asarray(weights)))  # noqa: E731

    def wide(observation, key):
        return jnp.tanh(0.67 * jax.random.normal(key, (NUM_ENVS, 2))) * jnp.array([0.0, 1.0])

    aims = np.isclose(np.abs(grid), 0.535).astype(float)
    law = best_policies.gaussian_weights(edges, [0.0], [0.67])[0, 0]
    assert law.sum() == pytest.approx(1.0)
    for policy, weights in ((two_aims, aims / aims.sum()), (wide, law)):
        success, total = np.asarray(jax.jit(lambda key, p=policy: evaluate(p, key))(jax.random.key(3)))
        # 256 episodes of standard deviation 2.5, and the start's noise, which these aims do not compensate.
        assert total == pytest.approx(predicted(weights)[0], abs=0.5)
        assert success == pytest.approx(predicted(weights)[1], abs=0.1)


def test_deterministic_policies_find_one_gap_at_most():
    aims = jnp.linspace(-1.0, 1.0, 41)

    def policy(aim):
        return lambda observation, key: jnp.broadcast_to(jnp.stack([jnp.zeros(()), aim]), (NUM_ENVS, 2))

    scores = jax.jit(lambda many: jax.vmap(lambda a: evaluate(policy(a), jax.random.key(5)))(many))(aims)
    assert scores[:, 0].max() < 0.6
    assert scores[20, 0] == 0.0  # the pillar in the middle


def test_a_policy_that_sees_the_side_gets_through_at_once():
    world = make_world("classic/two-gap-wall", 64, hidden=False)
    state = jax.jit(world.reset)(jax.random.key(0))
    side = state.observation.vector[:, 4]
    assert abs(float(side.mean())) < 0.5
    step = jax.jit(world.step)
    through = jnp.zeros(64, bool)
    action = jnp.stack([jnp.zeros(64), 0.56 * side], 1)
    for _ in range(16):
        state, transition = step(state, action)
        through = through | transition.terminated
    assert through.all()


def _attempt(task, aim, side, steps=9):
    start = jnp.array([task.launch, 0.0])
    state = task.initial(jax.random.key(0))
    state = eqx.tree_at(lambda s: (s.position, s.start, s.side), state, (start, start, side))

    def step(carry, t):
        state, alive = carry
        state, outcome = task.advance(state, jnp.where(t == 0, jnp.stack([jnp.zeros_like(aim), aim]), 0.0))
        return (state, alive * ~outcome.terminated), (alive * outcome.reward, state, outcome)

    (_, _), (rewards, states, outcomes) = jax.lax.scan(step, (state, jnp.ones(())), jnp.arange(steps))
    return rewards.sum(), states, outcomes


compiled_attempt = eqx.filter_jit(_attempt)


def test_gradients_reach_the_launch_from_everywhere_and_push_away_from_the_pillar():
    task = TwoGapWall()
    slope = jax.jit(jax.vmap(jax.grad(lambda aim, side: _attempt(task, aim, side)[0]), (0, None)))
    aims = jnp.array([-1.0, -0.6, -0.4, -0.2, -0.05, 0.05, 0.2, 0.4, 0.8, 1.0])
    known = slope(aims, jnp.asarray(1.0))
    assert np.all(np.asarray(known)[:8] > 1e-3) and np.all(np.asarray(known)[8:] < -1e-3)
    # Without knowing the side, the expected gradient leads away from the pillar, and back from outside.
    expected = 0.5 * (known + slope(aims, jnp.asarray(-1.0)))
    assert np.all(np.sign(expected) == [1, 1, -1, -1, -1, 1, 1, 1, -1, -1])
    assert np.all(np.abs(expected) > 0.02)


def test_gradient_of_an_attempt_matches_finite_differences():
    with jax.enable_x64(True):
        task = TwoGapWall()
        value = jax.jit(lambda aim: _attempt(task, aim, jnp.asarray(1.0))[0])
        slope = jax.jit(jax.grad(value))
        for aim in (-0.5, 0.1, 0.45, 0.56, 0.9):
            aim = jnp.asarray(aim, jnp.float64)
            numeric = (value(aim + 1e-5) - value(aim - 1e-5)) / 2e-5
            np.testing.assert_allclose(slope(aim), numeric, rtol=1e-4, atol=1e-5)


def test_the_wall_takes_at_least_three_steps_and_blocked_attempts_start_over_unchanged():
    task = TwoGapWall()
    _, states, _ = compiled_attempt(task, jnp.asarray(0.56), jnp.asarray(1.0), 12)
    x = states.position[:, 0]
    assert int(((x > -2 * task.wall_width) & (x < 2 * task.wall_width)).sum()) >= 3
    _, states, outcomes = compiled_attempt(task, jnp.asarray(0.56), jnp.asarray(-1.0), 20)
    back = np.asarray(outcomes.diagnostics["thrown_back"])
    first = int(back.argmax())
    assert back[first] == 1.0 and first >= 6
    np.testing.assert_array_equal(states.position[first], np.array([task.launch, 0.0], np.float32))
    np.testing.assert_array_equal(states.velocity[first], np.array([task.speed, 0.0], np.float32))
    assert states.attempts[first] == 1.0 and states.side[first] == -1.0


def test_a_blocked_attempt_earns_nothing_and_success_earns_five():
    task = TwoGapWall()
    blocked, _, outcomes = compiled_attempt(task, jnp.asarray(0.0), jnp.asarray(1.0), 20)
    first = int(np.asarray(outcomes.diagnostics["thrown_back"]).argmax())
    assert float(outcomes.reward[: first + 1].sum()) < -0.02 * first
    passed, _, _ = compiled_attempt(task, jnp.asarray(0.56), jnp.asarray(1.0), 14)
    assert 4.3 < float(passed) < 5.0
    assert blocked < 0
