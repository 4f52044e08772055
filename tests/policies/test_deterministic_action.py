"""Deterministic actions: on one mode and on two, against NumPy, and what stays the same for ever."""

import dataclasses
from typing import get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import CapabilityError, ConfigurationError
from penstock.cli.evaluate import EvaluateOptions
from penstock.networks import Normalizer, Trunk, VectorEncoder
from penstock.policies import Actor, Agent, DeterministicAction, SquashedGaussian, VelocityField, VelocityFlow
from penstock.policies.deterministic_action import (
    DeterministicName,
    _first_of,
    fixed_noises,
    hang_together,
    typical_noise,
)
from penstock.policies.policy import Draw
from penstock.policies.settings import POLICIES
from penstock.worlds import Observation

FEATURES = jnp.zeros(1)


def modal_mean(samples):
    """The mean over the mode of the first sample."""
    return np.asarray(samples)[np.asarray(jax.jit(hang_together)(jnp.asarray(samples)))].mean(axis=0)


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
    return VelocityFlow(field=field, flat_size=size, flow_steps=1, stepper="euler")


def action(rule, policy, draws=8):
    return np.asarray(jax.jit(DeterministicAction(rule, draws))(policy, FEATURES).action)


def actions(policy):
    """Those of all rules, by one program."""

    @jax.jit
    def by_rule(policy):
        return {rule: DeterministicAction(rule, 8)(policy, FEATURES).action for rule in RULES}

    return {rule: np.asarray(found) for rule, found in by_rule(policy).items()}


@pytest.mark.parametrize("size", [1, 2, 6])
def test_between_two_equal_modes_zero_noise_and_the_mean_are_the_worst_actions(size):
    policy = flow(TwoModes(), size)
    mode = np.tanh(0.8)
    by_rule = actions(policy)
    for rule, least, most in (
        ("zero", 0.0, 0.0),
        ("mean", 0.0, 1e-6),
        ("typical", mode - 0.15, mode + 0.15),
        ("modal", mode - 0.1, mode + 0.1),
    ):
        found = by_rule[rule]
        assert least <= abs(found[0]) <= most, (rule, found)


def test_where_zero_noise_was_never_trained_the_others_are_typical():
    policy = flow(Shell(), 64)
    samples = jax.jit(jax.vmap(lambda key: policy.sample(FEATURES, key).action))(
        jax.random.split(jax.random.key(0), 256)
    )
    middle = np.asarray(samples).mean(axis=0)
    by_rule = actions(policy)
    assert np.abs(by_rule["zero"] - middle).max() > 1.0
    for rule in ("typical", "mean", "modal"):
        assert np.abs(by_rule[rule] - middle).max() < 0.3
    assert np.abs(action("mean", policy, 64) - middle).max() < np.abs(by_rule["typical"] - middle).max()


@pytest.mark.parametrize("size", [1, 3, 40])
def test_one_mode_has_one_middle(size):
    """A Gaussian's mean, to a fraction of its standard deviation of 0.2."""
    policy = SquashedGaussian(jax.random.key(0), 1, size, Trunk((4,)), initial_log_std=float(np.log(0.2)))
    mean = np.asarray(policy.mode(FEATURES).action)
    by_rule = actions(policy)
    np.testing.assert_allclose(by_rule["zero"], mean, rtol=1e-6)
    np.testing.assert_allclose(by_rule["mean"], mean, atol=0.01)
    np.testing.assert_allclose(by_rule["modal"], mean, atol=0.01)
    assert np.sqrt(np.mean((by_rule["typical"] - mean) ** 2)) < 0.21


@pytest.mark.parametrize("name", ["gaussian", "coupling"])
def test_the_likeliest_is_that_of_the_highest_density(name):
    policy = POLICIES[name].build(jax.random.key(0), 1, 3, Trunk((4,), output_gain=1.0))
    policy = jax.tree.map(lambda leaf: leaf + 0.4 if eqx.is_inexact_array(leaf) else leaf, policy)
    samples = [policy.draw(FEATURES, jnp.asarray(noise)) for noise in fixed_noises(8, 3)]
    densities = [float(policy.log_prob(FEATURES, drawn.record)) for drawn in samples]
    best = int(np.argmax(densities))
    assert np.diff(np.sort(densities))[-1] > 0.01
    found = jax.jit(DeterministicAction("likeliest"))(policy, FEATURES)
    np.testing.assert_allclose(found.action, samples[best].action, rtol=1e-5)
    np.testing.assert_allclose(found.latent, samples[best].latent, rtol=1e-5)


def test_of_equally_likely_actions_it_is_the_first():
    samples = Draw(jnp.array([[0.1], [0.2], [0.3], [0.4]]), jnp.array([[1.0], [2.0], [3.0], [4.0]]))
    assert _first_of(samples, jnp.array([False, True, False, True])).latent.tolist() == [2.0]


def test_the_likeliest_needs_a_density_of_actions():
    for policy in (flow(TwoModes(), 2), POLICIES["noisy-flow"].build(jax.random.key(0), 1, 2, Trunk((4,)))):
        actor = Actor(VectorEncoder(1), policy)
        with pytest.raises(CapabilityError, match="deterministic_action = 'likeliest' needs the log-density of"):
            Agent(actor, Normalizer.create(1, False), DeterministicAction("likeliest"))


def test_modal_mean_by_hand():
    """Largest distance 0.95, a third of it 0.317: 0, 0.1 and 0.2 hang together, and so do 0.9, 0.93 and 0.95."""
    samples = jnp.array([[0.0], [0.9], [0.2], [0.95], [0.1], [0.93]])
    np.testing.assert_allclose(modal_mean(samples), [0.1], rtol=1e-6)
    np.testing.assert_allclose(modal_mean(samples[jnp.array([1, 0, 2, 3, 4, 5])]), [2.78 / 3], rtol=1e-6)
    chain = jnp.array([[0.0], [1.0], [0.3], [0.9], [0.6], [0.5]])  # every step at most a third: one mode
    np.testing.assert_allclose(modal_mean(chain), [3.3 / 6], rtol=1e-6)


@pytest.mark.parametrize("split", [(4, 4), (3, 5), (5, 3), (2, 6), (1, 7)])
def test_of_unequal_modes_it_is_that_of_the_first_sample(split):
    noise = 0.03 * np.random.default_rng(0).standard_normal((8, 1))
    samples = np.concatenate([np.full((split[0], 1), 0.8), np.full((split[1], 1), -0.8)]) + noise
    np.testing.assert_allclose(modal_mean(jnp.asarray(samples)), samples[: split[0]].mean(0), rtol=1e-5)


@pytest.mark.parametrize(
    "centers",
    [
        pytest.param([[-0.8], [0.0], [0.8]], id="three on a line"),
        pytest.param([[0.0, 0.8], [0.7, -0.4], [-0.7, -0.4]], id="triangle"),
        pytest.param([[0.7, 0.0], [-0.7, 0.0], [0.0, 0.7], [0.0, -0.7]], id="square"),
    ],
)
def test_several_modes(centers):
    centers = np.array(centers)
    noise = 0.03 * np.random.default_rng(1).standard_normal((12, centers.shape[1]))
    samples = centers[np.arange(12) % len(centers)] + noise
    np.testing.assert_allclose(modal_mean(jnp.asarray(samples)), centers[0], atol=0.05)


@pytest.mark.parametrize("draws", [8, 16])
@pytest.mark.parametrize("size", [1, 2, 3, 4, 40, 300])
@pytest.mark.parametrize("std", [0.1, 0.5, 1.0])
def test_wide_and_squashed_laws_of_one_mode_are_averaged_whole(std, size, draws):
    samples = jnp.asarray(np.tanh(std * fixed_noises(draws, size)), jnp.float32)
    assert jax.jit(hang_together)(samples).all()


def test_two_modes_in_many_dimensions_are_told_apart_where_they_are_further_apart_than_wide():
    noise = 0.1 * np.random.default_rng(2).standard_normal((8, 200))
    side = np.where(np.arange(8)[:, None] % 2, 1.0, -1.0)
    apart = side * 0.3 + noise  # half the distance: 0.3 sqrt(200) = 4.2; width 0.1 sqrt(200) = 1.4
    np.testing.assert_allclose(modal_mean(jnp.asarray(apart)), apart[::2].mean(0), atol=1e-5)
    close = side * 0.05 + noise
    np.testing.assert_allclose(modal_mean(jnp.asarray(close)), close.mean(0), atol=1e-5)


def test_noises_are_the_same_for_ever():
    """The first numbers of the legacy Mersenne Twister with seed 0, as NumPy promises."""
    drawn = np.array([[1.764052, 0.400157], [0.978738, 2.240893]])
    first, second = drawn / np.sqrt((drawn**2).mean(axis=0))
    np.testing.assert_allclose(fixed_noises(4, 2), [first, -first, second, -second], rtol=1e-5)
    np.testing.assert_allclose(typical_noise(2), drawn[0] * np.sqrt(2) / np.linalg.norm(drawn[0]), rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(typical_noise(220)), np.sqrt(220.0), rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_agents_and_chunks_act_by_the_rule(rule):
    policy = flow(TwoModes(), 6)
    agent = Agent(Actor(VectorEncoder(1), policy), Normalizer.create(1, False), DeterministicAction(rule, 8), 3)
    found = eqx.filter_jit(agent.mode)(Observation(jnp.zeros((2, 1))))
    np.testing.assert_allclose(found.action, np.stack([action(rule, policy, 8)] * 2), rtol=1e-6)
    np.testing.assert_allclose(np.tanh(found.latent), found.action, atol=1e-6)


@pytest.mark.parametrize("spread", [0.0, 1e-6])
def test_latents_of_saturated_and_of_equal_actions_are_finite(spread):
    policy = flow(TwoModes(centre=30.0, spread=spread), 2)
    assert np.isfinite(jax.jit(DeterministicAction("modal"))(policy, FEATURES).latent).all()


@pytest.mark.parametrize(("rule", "draws"), [("mean", 3), ("mean", 0), ("modal", 6)])
def test_refusals(rule, draws):
    with pytest.raises(ConfigurationError, match=f"deterministic_draws = {draws}: must be"):
        DeterministicAction(rule, draws)


def test_the_command_line_knows_every_rule():
    """Its list is written out, because the command must not import JAX before it is set up."""
    (choices,) = (f.type for f in dataclasses.fields(EvaluateOptions) if f.name == "deterministic_action")
    assert get_args(choices) == ("run", *get_args(DeterministicName))
