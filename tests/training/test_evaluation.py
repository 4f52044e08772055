"""Evaluation: returns, lengths and means of whole episodes, against numbers worked out by hand."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.networks import Normalizer, Trunk
from penstock.policies import Agent, GaussianSettings, make_actor
from penstock.training.evaluation import Evaluation, as_logged, evaluation_metrics, run_episodes
from penstock.worlds import FunctionalWorld, Observation, ObservationSpec, Outcome, Task

LENGTHS = np.array([1, 3, 5, 7])


class Countdown(Task):
    """Environment i ends after ``LENGTHS[i]`` steps, or at the time limit of 6; step k brings the reward k + 1."""

    action_size: int = eqx.field(static=True, default=1)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(1))
    episode_length: int = eqx.field(static=True, default=6)
    control_timestep: float = eqx.field(static=True, default=1.0)

    def initial(self, key, num_envs):
        return jnp.zeros((num_envs,))

    def advance(self, state, action):
        after = state + 1.0
        return after, Outcome(after, after >= jnp.asarray(LENGTHS), {"k": after, "action": action[:, 0]})

    def observe(self, state):
        return Observation(state[:, None])


def agent(chunk=1):
    settings, trunk = GaussianSettings(initial_log_std=0.0), Trunk((4,), "silu", True, 1.0)
    actor = make_actor(*jax.random.split(jax.random.key(1)), settings, ObservationSpec(1), chunk, trunk)
    return Agent(actor, Normalizer.create(1, False), chunk_length=chunk)


WORLD = FunctionalWorld("test/countdown", Countdown(), 4)


@functools.cache
def episodes(chunk=1, **how):
    """`run_episodes`, compiled once for all tests."""
    return jax.jit(lambda key: run_episodes(agent(chunk), WORLD, key, **how))


def test_returns_and_lengths_stop_at_the_first_end():
    result, bodies = episodes(deterministic=True)(jax.random.key(0))
    lengths = np.minimum(LENGTHS, 6)
    assert np.array_equal(result.episode_length, lengths)
    assert np.array_equal(result.episode_return, lengths * (lengths + 1) / 2)
    assert np.allclose(result.diagnostics["k"], (lengths + 1) / 2), "the mean over the steps of the episode only"
    assert bodies.shape == (6, 4)
    assert np.array_equal(bodies[:, 3], np.arange(6)), "states before each step, for films"


def test_deterministic_ignores_the_key_and_stochastic_does_not():
    def actions(deterministic, seed):
        result, _ = episodes(deterministic=deterministic)(jax.random.key(seed))
        return np.asarray(result.diagnostics["action"])

    assert np.array_equal(actions(True, 0), actions(True, 1))
    assert not np.array_equal(actions(False, 0), actions(False, 1))
    assert np.array_equal(actions(False, 0), actions(False, 0))


def test_replanning_uses_the_first_action_of_a_fresh_chunk():
    chunked = agent(chunk=3)
    plan = jax.jit(lambda k: chunked.mode(Observation(jnp.full((1, 1), k))).action[0])
    first = np.array([plan(float(k))[0] for k in range(6)])
    open_loop, _ = episodes(3, deterministic=True)(jax.random.key(0))
    replanned, _ = episodes(3, deterministic=True, replan_every_step=True)(jax.random.key(0))
    assert np.allclose(replanned.diagnostics["action"][2], first[:5].mean(), atol=1e-6)
    plans = [np.asarray(plan(k)) for k in (0.0, 3.0)]
    assert np.allclose(open_loop.diagnostics["action"][2], (plans[0].sum() + plans[1][:2].sum()) / 5, atol=1e-6)
    assert not np.allclose(open_loop.diagnostics["action"][2], replanned.diagnostics["action"][2])


def test_metrics_are_means_over_episodes():
    metrics = jax.jit(lambda key: evaluation_metrics(agent(), WORLD, key))(jax.random.key(0))
    returns = np.array([1.0, 6.0, 15.0, 21.0])
    assert float(metrics["eval/return_deterministic"]) == pytest.approx(returns.mean())
    assert float(metrics["eval/return_mean"]) == pytest.approx(returns.mean())
    assert float(metrics["eval/return_std"]) == pytest.approx(returns.std())
    assert float(metrics["eval/episode_length"]) == pytest.approx(3.75)
    assert float(metrics["eval/k"]) == pytest.approx((1 + 2 + 3 + 3.5) / 4)
    assert {"eval/stochastic/k", "eval/stochastic/action", "eval/action"} <= set(metrics)


def test_episodes_that_told_nothing_are_left_out_of_a_mean():
    numbers, told = np.ones(3, np.float32), np.float32([1.0, np.nan, 4.0])
    one, other = (Evaluation(numbers, numbers, {"info/x": values}) for values in (told, 2 * told))
    metrics = as_logged(one, other)
    assert float(metrics["eval/info/x"]) == 5.0 and float(metrics["eval/stochastic/info/x"]) == 2.5
