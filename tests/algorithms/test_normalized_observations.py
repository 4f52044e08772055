"""Off-policy observation normalisation: statistics in the state, used alike for acting and learning, then frozen."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_worlds import world

from penstock.algorithms.learner import Clock
from penstock.algorithms.registry import algorithm_entry
from penstock.data import Batch
from penstock.worlds import Observation

TINY = {"batch_size": 8, "warmup_steps": 8, "actor_hidden": (6,), "critic_hidden": (6, 6, 6), "replay_capacity": 64}
QUICKLY = [pytest.param(name, marks=[] if name == "sac" else pytest.mark.slow) for name in ("sac", "td3", "flowrl")]
OFFSET, SCALE = np.array([500.0, -0.3, 0.0]), np.array([100.0, 0.1, 1.0])


@functools.cache
def learner(name, normalize):
    entry = algorithm_entry(name)
    settings = entry.config.of(**TINY, normalize_observations=normalize)
    return entry.learner(settings, world(), 10)


@functools.cache
def begun(name, normalize):
    """What the learner begins with."""
    algorithm = learner(name, normalize)
    return jax.jit(lambda key: algorithm.init(algorithm.run_keys(key).learned))(jax.random.key(1))


@functools.cache
def update_of(name, normalize):
    """What an update learns, compiled once for all tests."""
    algorithm = learner(name, normalize)
    return eqx.filter_jit(
        lambda learned, data, clock: algorithm.update(learned, data, jax.random.key(5), clock).learned
    )


def batch(seed):
    generator = np.random.default_rng(seed)
    now, then = (generator.normal(size=(8, 3)) * SCALE + OFFSET for _ in range(2))
    action = np.tanh(generator.normal(size=(8, 2)))
    parts = (now, action, generator.normal(size=8), np.full(8, 0.9), then)
    observation, action, reward, bootstrap, following = (jnp.asarray(part, jnp.float32) for part in parts)
    return Batch(Observation(observation), action, reward, bootstrap, Observation(following))


@pytest.mark.parametrize("name", QUICKLY)
def test_an_update_is_one_on_normalised_batches(name):
    """Statistics are those of all batches so far, by NumPy; the rest of the step does not know of them."""
    bare, learned = begun(name, False), begun(name, True)
    assert bare.normalizer is None
    update, reference, seen = update_of(name, True), update_of(name, False), []
    for step in range(3):
        clock = dataclasses.replace(Clock.start(), gradient_steps=jnp.asarray(step, jnp.int32))
        data = batch(step)
        seen.append(np.asarray(data.observation.vector, np.float64))
        everything = np.concatenate(seen)
        mean, deviation = everything.mean(0), np.sqrt(everything.var(0) + 1e-5)
        learned = update(learned, data, clock)
        np.testing.assert_allclose(learned.normalizer.mean, mean, rtol=1e-4)
        np.testing.assert_allclose(learned.normalizer.variance, everything.var(0), rtol=1e-2)
        both = [
            Observation((part.vector - learned.normalizer.mean) / jnp.sqrt(learned.normalizer.variance + 1e-5))
            for part in (data.observation, data.next_observation)
        ]
        np.testing.assert_allclose(both[0].vector, (seen[-1] - mean) / deviation, atol=2e-2)
        bare = reference(bare, dataclasses.replace(data, observation=both[0], next_observation=both[1]), clock)
        ours, theirs = (jax.tree.leaves(dataclasses.replace(tree, normalizer=None)) for tree in (learned, bare))
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("name", QUICKLY)
def test_acting_uses_the_statistics_and_leaves_them(name):
    algorithm, plain = learner(name, True), learner(name, False)
    learned = update_of(name, True)(begun(name, True), batch(0), Clock.start())
    observation = batch(1).observation
    acted = algorithm.agent(learned).mode(observation).action
    bare = dataclasses.replace(learned, normalizer=None)
    np.testing.assert_allclose(acted, plain.agent(bare).mode(learned.normalizer(observation)).action, rtol=1e-6)
    assert not np.allclose(acted, plain.agent(bare).mode(observation).action)
    before = jax.tree.leaves(learned)
    algorithm.evaluated(learned).sample(observation, jax.random.key(3))
    assert all((a == b).all() for a, b in zip(before, jax.tree.leaves(learned), strict=True))


def test_runs_without_it_have_the_state_that_they_had():
    for name in ("sac", "td3", "crossq", "sac-flow", "flowrl"):
        shapes = learner(name, False).shapes()
        assert "normalizer" not in str([path for path, _ in jax.tree_util.tree_flatten_with_path(shapes)[0]])
