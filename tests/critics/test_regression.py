"""Fitting value networks: the loss by hand, weights, minibatches, and what receives gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from penstock.critics import Critic, fit_values
from penstock.critics.regression import value_loss
from penstock.networks import Normalizer, Trunk
from penstock.networks.optimization import make_optimizer
from penstock.worlds import Observation, ObservationSpec

M = 16
SPEC = ObservationSpec(2)
NORMALIZER = Normalizer(jnp.array([0.5, -0.5]), jnp.array([4.0, 0.25]), jnp.asarray(100.0), True)


def critic(size=2):
    return Critic(jax.random.key(0), SPEC, Trunk(hidden=(8,)), size)


def data(seed=0):
    vector = jax.random.normal(jax.random.key(seed), (M, 2))
    return Observation(vector), jnp.sin(vector[:, 0]) + vector[:, 1]


def fit(ensemble, observation, target, weight, *, passes=1, minibatches=1, optimizer=None):
    optimizer = optimizer or make_optimizer(1e-2, 1e-2, 1, clip=1.0, betas=(0.7, 0.95), weight_decay=0.0)

    @jax.jit
    def run(ensemble, observation, target, weight):
        return fit_values(
            ensemble,
            optimizer,
            optimizer.init(ensemble),
            NORMALIZER,
            observation,
            target,
            weight,
            passes=passes,
            minibatches=minibatches,
        )

    return run(ensemble, observation, target, weight)


def test_members_differ_and_see_normalised_observations():
    ensemble, (observation, _) = critic(3), data()
    values = ensemble.values(observation, NORMALIZER)
    assert values.shape == (3, M)
    assert np.abs(np.diff(values, axis=0)).max() > 1e-3
    by_hand = Observation((observation.vector - jnp.array([0.5, -0.5])) / jnp.sqrt(jnp.array([4.0, 0.25]) + 1e-5))
    unchanged = Normalizer.create(2, enabled=False)
    np.testing.assert_allclose(values, ensemble.values(by_hand, unchanged), rtol=1e-5)


def test_loss_by_hand():
    ensemble, (observation, target) = critic(), data()
    weight = jnp.arange(M, dtype=jnp.float32) % 3
    values = np.asarray(ensemble.values(observation, NORMALIZER))
    expected = np.sum(np.asarray(weight) * (values - np.asarray(target)) ** 2) / np.sum(weight)
    np.testing.assert_allclose(value_loss(ensemble, NORMALIZER, observation, target, weight), expected, rtol=1e-5)
    assert float(value_loss(ensemble, NORMALIZER, observation, target, jnp.zeros(M))) == 0.0


def test_gradient_reaches_the_critic_alone():
    ensemble, (observation, target) = critic(), data()
    of_critic, of_observation, of_target = jax.jit(jax.grad(value_loss, argnums=(0, 2, 3)))(
        ensemble, NORMALIZER, observation, target, jnp.ones(M)
    )
    np.testing.assert_array_equal(of_observation.vector, 0.0)
    np.testing.assert_array_equal(of_target, 0.0)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(of_critic))


def test_fitting_reduces_the_loss_and_keeps_members_apart():
    ensemble, (observation, target) = critic(), data()
    before = value_loss(ensemble, NORMALIZER, observation, target, jnp.ones(M))
    fitted, _, metrics = fit(ensemble, observation, target, jnp.ones(M), passes=200, minibatches=4)
    after = value_loss(fitted, NORMALIZER, observation, target, jnp.ones(M))
    assert float(after) < 0.02 * float(before)
    assert float(metrics["critic/loss"]) < 0.05 * float(before)
    assert float(metrics["critic/skipped"]) == 0.0
    values = fitted.values(observation, NORMALIZER)
    np.testing.assert_allclose(values, np.stack([target] * 2), atol=0.5)
    other = fitted.values(data(7)[0], NORMALIZER)
    assert np.abs(other[0] - other[1]).max() > 1e-3


def test_samples_of_weight_zero_do_not_matter():
    ensemble, (observation, target) = critic(), data()
    weight = jnp.ones(M).at[3].set(0.0).at[11].set(0.0)
    spoiled = target.at[3].set(1e4).at[11].set(-1e4)
    one, _, _ = fit(ensemble, observation, target, weight, passes=2, minibatches=2)
    other, _, _ = fit(ensemble, observation, spoiled, weight, passes=2, minibatches=2)
    full, _, _ = fit(ensemble, observation, spoiled, jnp.ones(M), passes=2, minibatches=2)
    jax.tree.map(np.testing.assert_array_equal, one, other)
    assert any(np.abs(a - b).max() > 1e-3 for a, b in zip(*map(jax.tree.leaves, (one, full)), strict=True))


def test_minibatches_are_contiguous_and_in_order():
    """One pass of plain gradient descent over 4 parts equals 4 explicit steps on rows 0-3, 4-7, 8-11, 12-15."""
    ensemble, (observation, target) = critic(), data()
    descent = optax.sgd(0.05)
    fitted, _, metrics = fit(ensemble, observation, target, jnp.ones(M), minibatches=4, optimizer=descent)
    gradient = jax.jit(jax.value_and_grad(value_loss))
    expected, losses = ensemble, []
    for start in range(0, M, 4):
        rows = slice(start, start + 4)
        loss, slope = gradient(expected, NORMALIZER, Observation(observation.vector[rows]), target[rows], jnp.ones(4))
        expected = jax.tree.map(lambda p, g: p - 0.05 * g, expected, slope)
        losses.append(float(loss))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), fitted, expected)
    np.testing.assert_allclose(metrics["critic/loss"], np.mean(losses), rtol=1e-4)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_poisoned_minibatch_is_skipped_and_counted(poison):
    ensemble, (observation, target) = critic(), data()
    fitted, _, metrics = fit(ensemble, observation, target.at[5].set(poison), jnp.ones(M), passes=3, minibatches=4)
    assert float(metrics["critic/skipped"]) == 3.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted))
    assert any(np.abs(a - b).max() > 0 for a, b in zip(*map(jax.tree.leaves, (ensemble, fitted)), strict=True))


def test_a_minibatch_without_data_changes_nothing():
    """Momentum and weight decay would move the parameters even where the gradient is zero."""
    ensemble, (observation, target) = critic(), data()
    optimizer = make_optimizer(1e-2, 1e-2, 8, clip=1.0, betas=(0.7, 0.95), weight_decay=0.1)
    weight = jnp.zeros(M).at[: M // 2].set(1.0)
    halves, _, _ = fit(ensemble, observation, target, weight, passes=2, minibatches=2, optimizer=optimizer)
    first = Observation(observation.vector[: M // 2])
    alone, _, _ = fit(ensemble, first, target[: M // 2], jnp.ones(M // 2), passes=2, optimizer=optimizer)
    for ours, theirs in zip(jax.tree.leaves(halves), jax.tree.leaves(alone), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-7)
