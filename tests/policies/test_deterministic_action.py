"""Deterministic actions: on one mode and on two, against NumPy, and what stays the same for ever."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.networks import Normalizer, Trunk, VectorEncoder
from penstock.policies import Actor, Agent, Chunked, DeterministicAction, SquashedGaussian, VelocityField, VelocityFlow
from penstock.policies.deterministic_action import fixed_noises, modal_mean, typical_noise
from penstock.worlds import Observation

FEATURES = jnp.zeros(1)
RULES = ("zero", "typical", "mean", "modal")


class TwoModes(VelocityField):
    """One step of ``v = centre sign(x) + (spread - 1) x``: two modes at +-centre, of this spread."""

    centre: float = 0.8
    spread: float = 0.1

    def condition(self, features):
        return None

    def __call__(self, condition, x, tau):
        return self.centre * jnp.sign(x[:1]) + (self.spread - 1.0) * x


class Shell(VelocityField):
    """Moves noise of typical norm by ``shift``; noise of small norm somewhere else, where it was never trained."""

    shift: float = 0.5

    def condition(self, features):
        return None

    def __call__(self, condition, x, tau):
        typical = jnp.sum(x**2) > 0.25 * x.shape[0]
        return jnp.where(typical, self.shift, -3.0) - 0.9 * x


def flow(field, size):
    return VelocityFlow(field=field, action_size=size, flow_steps=1, stepper="euler")


def action(rule, policy, draws=8):
    return np.asarray(DeterministicAction(rule, draws)(policy, FEATURES).action)


@pytest.mark.parametrize("size", [1, 2, 6])
def test_between_two_equal_modes_zero_noise_and_the_mean_are_the_worst_actions(size):
    policy = flow(TwoModes(), size)
    mode = np.tanh(0.8)
    for rule, least, most in (
        ("zero", 0.0, 0.0),
        ("mean", 0.0, 1e-6),
        ("typical", mode - 0.15, mode + 0.15),
        ("modal", mode - 0.1, mode + 0.1),
    ):
        found = action(rule, policy)
        assert least <= abs(found[0]) <= most, (rule, found)


def test_where_zero_noise_was_never_trained_the_others_are_typical():
    policy = flow(Shell(), 64)
    samples = jax.vmap(lambda key: policy.sample(FEATURES, key).action)(jax.random.split(jax.random.key(0), 256))
    middle = np.asarray(samples).mean(axis=0)
    assert np.abs(action("zero", policy) - middle).max() > 1.0
    for rule in ("typical", "mean", "modal"):
        assert np.abs(action(rule, policy) - middle).max() < 0.3
    assert np.abs(action("mean", policy, 64) - middle).max() < np.abs(action("typical", policy) - middle).max()


@pytest.mark.parametrize("size", [1, 3, 40])
def test_one_mode_has_one_middle(size):
    """A Gaussian's mean, to a fraction of its standard deviation of 0.2."""
    policy = SquashedGaussian(jax.random.key(0), 1, size, Trunk((4,)), initial_log_std=float(np.log(0.2)))
    mean = np.asarray(policy.mode(FEATURES).action)
    np.testing.assert_array_equal(action("zero", policy), mean)
    np.testing.assert_allclose(action("mean", policy), mean, atol=0.01)
    np.testing.assert_allclose(action("modal", policy), mean, atol=0.01)
    assert np.sqrt(np.mean((action("typical", policy) - mean) ** 2)) < 0.21


def test_modal_mean_by_hand():
    """Around 0.93 (0.9, 0.95, 0.93: mean square 4e-4) and 0.1; the mean of all, 0.52, has nothing near it."""
    samples = jnp.array([[0.0], [0.9], [0.2], [0.95], [0.1], [0.93]])
    np.testing.assert_allclose(modal_mean(samples), [0.1], rtol=1e-6)
    np.testing.assert_allclose(modal_mean(samples[jnp.array([1, 0, 2, 3, 4, 5])]), [2.78 / 3], rtol=1e-6)
    evenly = jnp.array([[0.0], [1.0], [0.2], [0.8], [0.4], [0.6]])
    np.testing.assert_allclose(modal_mean(evenly), [0.5], rtol=1e-6)


def test_noises_are_the_same_for_ever():
    """The first numbers of the legacy Mersenne Twister with seed 0, as NumPy promises."""
    first, second = [1.764052, 0.400157], [0.978738, 2.240893]
    expected = [first, np.negative(first), second, np.negative(second)]
    np.testing.assert_allclose(fixed_noises(4, 2), expected, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(typical_noise(220)), np.sqrt(220.0), rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_agents_and_chunks_act_by_the_rule(rule):
    policy = Chunked(inner=flow(TwoModes(), 6), length=3)
    agent = Agent(Actor(VectorEncoder(1), policy), Normalizer.create(1, False), DeterministicAction(rule, 4))
    found = agent.mode(Observation(jnp.zeros((2, 1))))
    np.testing.assert_allclose(found.action, np.stack([action(rule, policy, 4)] * 2), rtol=1e-6)
    np.testing.assert_allclose(np.tanh(found.latent), found.action, atol=1e-6)


def test_latents_of_saturated_actions_are_finite():
    policy = flow(TwoModes(centre=30.0, spread=0.0), 2)
    assert np.isfinite(DeterministicAction("modal")(policy, FEATURES).latent).all()


@pytest.mark.parametrize("draws", [3, 0])
def test_refusals(draws):
    with pytest.raises(ConfigurationError, match="deterministic_draws"):
        DeterministicAction("mean", draws)
