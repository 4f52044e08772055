"""Fitting value networks: the loss by hand, phases of chunks, minibatches, and what receives gradient."""

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


NO_PHASE = jnp.zeros(M, jnp.int32)


def critic(size=2, phases=1):
    return Critic(jax.random.key(0), SPEC, Trunk(hidden=(8,)), size, phases)


def data(seed=0):
    vector = jax.random.normal(jax.random.key(seed), (M, 2))
    return Observation(vector), jnp.sin(vector[:, 0]) + vector[:, 1]


def fit(ensemble, observation, target, phase=None, *, passes=1, minibatches=1, optimizer=None):
    phase = jnp.zeros(target.shape, jnp.int32) if phase is None else phase
    optimizer = optimizer or make_optimizer(1e-2, 1e-2, 1, clip=1.0, betas=(0.7, 0.95), weight_decay=0.0)

    @jax.jit
    def run(ensemble, observation, phase, target):
        return fit_values(
            ensemble,
            optimizer,
            optimizer.init(ensemble),
            NORMALIZER,
            observation,
            phase,
            target,
            passes=passes,
            minibatches=minibatches,
        )

    return run(ensemble, observation, phase, target)


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
    values = np.asarray(ensemble.values(observation, NORMALIZER))
    expected = np.sum((values - np.asarray(target)) ** 2) / M
    np.testing.assert_allclose(value_loss(ensemble, NORMALIZER, observation, NO_PHASE, target), expected, rtol=1e-5)


def test_the_phase_is_a_one_hot_input_behind_the_features():
    ensemble, (observation, _) = critic(phases=3), data()
    phase = jnp.arange(M) % 3
    normalised = np.asarray(NORMALIZER(observation).vector)
    inputs = np.concatenate([normalised, np.eye(3)[np.arange(M) % 3]], axis=1)
    plain = Critic(jax.random.key(0), ObservationSpec(5), Trunk(hidden=(8,)), 2)
    expected = plain.values(Observation(jnp.asarray(inputs, jnp.float32)), Normalizer.create(5, enabled=False))
    np.testing.assert_allclose(ensemble.values(observation, NORMALIZER, phase), expected, rtol=1e-5, atol=1e-6)
    one = ensemble.values(observation, NORMALIZER, 2)
    np.testing.assert_array_equal(one, ensemble.values(observation, NORMALIZER, jnp.full(M, 2)))
    assert np.abs(one - ensemble.values(observation, NORMALIZER)).max() > 1e-2


def test_values_that_differ_by_phase_alone_are_learned():
    ensemble, (observation, _) = critic(phases=4), data()
    phase = jnp.arange(M) % 4
    fitted, _, _ = fit(ensemble, observation, 10.0 * phase, phase, passes=600)
    np.testing.assert_allclose(fitted.values(observation, NORMALIZER, phase), jnp.stack([10.0 * phase] * 2), atol=0.5)


def test_gradient_reaches_the_critic_alone():
    ensemble, (observation, target) = critic(), data()
    of_critic, of_observation, of_target = jax.jit(jax.grad(value_loss, argnums=(0, 2, 4)))(
        ensemble, NORMALIZER, observation, NO_PHASE, target
    )
    np.testing.assert_array_equal(of_observation.vector, 0.0)
    np.testing.assert_array_equal(of_target, 0.0)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(of_critic))


def test_fitting_reduces_the_loss_and_keeps_members_apart():
    ensemble, (observation, target) = critic(), data()
    before = value_loss(ensemble, NORMALIZER, observation, NO_PHASE, target)
    fitted, _, metrics = fit(ensemble, observation, target, passes=200, minibatches=4)
    after = value_loss(fitted, NORMALIZER, observation, NO_PHASE, target)
    assert float(after) < 0.02 * float(before)
    assert float(metrics["critic/loss"]) < 0.05 * float(before)
    assert float(metrics["critic/skipped"]) == 0.0
    values = fitted.values(observation, NORMALIZER)
    np.testing.assert_allclose(values, np.stack([target] * 2), atol=0.5)
    other = fitted.values(data(7)[0], NORMALIZER)
    assert np.abs(other[0] - other[1]).max() > 1e-3


def test_minibatches_are_contiguous_and_in_order():
    """One pass of plain gradient descent over 4 parts equals 4 explicit steps on rows 0-3, 4-7, 8-11, 12-15."""
    ensemble, (observation, target) = critic(), data()
    descent = optax.sgd(0.05)
    fitted, _, metrics = fit(ensemble, observation, target, minibatches=4, optimizer=descent)
    gradient = jax.jit(jax.value_and_grad(value_loss))
    expected, losses = ensemble, []
    for start in range(0, M, 4):
        rows = slice(start, start + 4)
        loss, slope = gradient(
            expected, NORMALIZER, Observation(observation.vector[rows]), NO_PHASE[rows], target[rows]
        )
        expected = jax.tree.map(lambda p, g: p - 0.05 * g, expected, slope)
        losses.append(float(loss))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), fitted, expected)
    np.testing.assert_allclose(metrics["critic/loss"], np.mean(losses), rtol=1e-4)


@pytest.mark.parametrize("poison", [np.nan, np.inf])
def test_a_poisoned_minibatch_is_skipped_and_counted(poison):
    ensemble, (observation, target) = critic(), data()
    fitted, _, metrics = fit(ensemble, observation, target.at[5].set(poison), passes=3, minibatches=4)
    assert float(metrics["critic/skipped"]) == 3.0
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(fitted))
    assert any(np.abs(a - b).max() > 0 for a, b in zip(*map(jax.tree.leaves, (ensemble, fitted)), strict=True))
