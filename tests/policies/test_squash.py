"""Squashing by tanh, and latents whose actions are uniform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.policies.squash import log_tanh_derivative, squashed_log_prob, uniform_action_latents


def test_uniform_action_latents_are_uniform_in_the_box():
    stats = pytest.importorskip("scipy.stats")
    latents = np.asarray(uniform_action_latents(jax.random.key(0), (20_000,)), np.float64)
    assert stats.kstest(np.tanh(latents), "uniform", args=(-1.0, 2.0)).pvalue > 0.01
    assert stats.kstest(latents, "logistic", args=(0.0, 0.5)).pvalue > 0.01
    np.testing.assert_allclose(latents.std(), np.pi / np.sqrt(12.0), rtol=0.02)


def test_uniform_action_latents_are_bounded_and_independent(monkeypatch):
    latents = np.asarray(uniform_action_latents(jax.random.key(1), (3000, 7)))
    assert latents.shape == (3000, 7)
    assert np.abs(np.corrcoef(latents.T) - np.eye(7)).max() < 0.08
    for p in (0.0, 1.0 - 2.0**-24):  # the ends of what a float32 uniform can return
        monkeypatch.setattr(jax.random, "uniform", lambda key, shape, p=p: jnp.full(shape, p))
        (extreme,) = uniform_action_latents(jax.random.key(2), (1,))
        assert 6.85 < abs(float(extreme)) <= 6.92
        assert abs(float(jnp.tanh(extreme))) < 1.0


def test_log_derivative_of_tanh():
    x = np.linspace(-5.0, 5.0, 11)
    with jax.enable_x64(True):
        np.testing.assert_allclose(log_tanh_derivative(jnp.asarray(x)), np.log1p(-(np.tanh(x) ** 2)), rtol=1e-9)
    # In saturation 1 - tanh^2 underflows; its logarithm tends to 2 log 2 - 2 |x|.
    far = jnp.array([-80.0, -20.0, 20.0, 80.0])
    np.testing.assert_allclose(log_tanh_derivative(far), 2 * np.log(2.0) - 2 * np.abs(far), rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: log_tanh_derivative(x).sum())(far), [2.0, 2.0, -2.0, -2.0], rtol=1e-6)


def test_squashing_adds_the_change_of_volume_of_all_entries():
    latent = jnp.array([0.3, -1.2, 2.0])
    expected = 0.7 - np.sum(np.log(1.0 - np.tanh(np.asarray(latent)) ** 2))
    np.testing.assert_allclose(squashed_log_prob(jnp.asarray(0.7), latent), expected, rtol=1e-5)
