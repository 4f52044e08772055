"""Squashing by tanh and by clipping, and latents whose actions are uniform."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.networks import Trunk
from penstock.policies import CouplingSettings, Density, DeterministicAction, GaussianSettings, Need
from penstock.policies.squash import SQUASHINGS, log_tanh_derivative, squashed_log_prob, uniform_action_latents
from tests.drawn_weights import drawn_anew


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


def test_squashings_by_hand():
    latent = jnp.array([-2.0, -1.0, -0.5, 0.995, 3.0])
    tanh, clip = SQUASHINGS["tanh"], SQUASHINGS["clip"]
    np.testing.assert_allclose(tanh.action(latent), np.tanh(latent), rtol=1e-6)
    assert clip.action(latent).tolist() == pytest.approx([-1.0, -1.0, -0.5, 0.995, 1.0])
    assert clip.saturated(clip.action(latent)).tolist() == [True, True, False, False, True]
    assert tanh.saturated(jnp.array([-0.995, 0.98, 0.9901])).tolist() == [True, False, True]
    np.testing.assert_allclose(tanh.latent(tanh.action(latent)), latent, rtol=1e-4)
    assert np.isfinite(tanh.latent(jnp.array([-1.0, 1.0]))).all()
    assert clip.latent(jnp.array([-1.0, 0.25])).tolist() == [-1.0, 0.25]
    assert clip.log_prob(jnp.asarray(0.7), latent) == np.float32(0.7)


@pytest.mark.parametrize("settings", [GaussianSettings(initial_log_std=0.0), CouplingSettings(bound=0.5)])
def test_a_clipped_policy_has_the_density_of_its_latent(settings):
    """The same weights with both: one latent, the actions apart, and densities that differ by the change of volume."""

    def built(settings):
        return drawn_anew(settings.build(jax.random.key(0), 2, 3, Trunk((8, 8), layer_norm=False)))

    tanh, clip = built(settings), built(settings.clipped())
    features, noise = jnp.array([0.5, -1.0]), 2.0 * jax.random.normal(jax.random.key(1), (16, 3))
    (smooth, dense), (cut, known) = (
        jax.jit(jax.vmap(policy.draw_with_log_prob, in_axes=(None, 0)))(features, noise) for policy in (tanh, clip)
    )
    np.testing.assert_allclose(cut.latent, smooth.latent, atol=1e-6)
    np.testing.assert_allclose(cut.record, cut.latent, atol=1e-6)
    np.testing.assert_allclose(cut.action, np.clip(cut.latent, -1.0, 1.0), atol=1e-6)
    assert (np.abs(cut.latent) > 1.0).any() and (np.abs(cut.latent) < 1.0).any()
    np.testing.assert_allclose(known, dense + log_tanh_derivative(cut.latent).sum(axis=1), rtol=1e-4, atol=1e-4)
    again = jax.vmap(clip.log_prob, in_axes=(None, 0))(features, cut.record)
    np.testing.assert_allclose(again, known, rtol=1e-4, atol=1e-4)
    assert (tanh.density, clip.density) == (Density.ACTION, Density.LATENT)
    assert clip.offers(Need.DENSITY) and not clip.offers(Need.ACTION_DENSITY)
    assert tanh.offers(Need.ACTION_GRADIENT) and not clip.offers(Need.ACTION_GRADIENT)


@pytest.mark.parametrize("rule", ["zero", "typical", "mean", "modal", "likeliest"])
def test_a_clipped_policy_without_noise_stays_in_the_box(rule):
    made = CouplingSettings().clipped().build(jax.random.key(0), 2, 2, Trunk((8, 8), layer_norm=False))
    policy = drawn_anew(made, 0.4)
    decide = DeterministicAction(rule)
    decide.require(policy)
    drawn = jax.jit(jax.vmap(lambda features: decide(policy, features)))(jax.random.normal(jax.random.key(2), (64, 2)))
    if rule == "mean":
        assert np.abs(drawn.action).max() <= 1.0  # the mean of clipped actions
    else:
        np.testing.assert_allclose(drawn.action, np.clip(drawn.latent, -1.0, 1.0), atol=1e-6)
    assert (np.abs(drawn.action) < 1.0).any() and np.isfinite(drawn.latent).all()
