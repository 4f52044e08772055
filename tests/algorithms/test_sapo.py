"""SAPO's entropy bonus and temperature, against hand numbers."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_worlds import compiled, empty_window, learner

from penstock.algorithms.sapo import normalised_entropy, temperature_loss


@pytest.mark.parametrize("scale", [0.5, 3.0, 111.0])
def test_normalised_entropy(scale):
    entropy = jnp.array([-scale, 0.0, scale, 3.0 * scale])
    np.testing.assert_allclose(normalised_entropy(entropy, scale), [0.0, 0.5, 1.0, 2.0], atol=1e-6)


@pytest.mark.parametrize("chunk_length", [1, 2])
def test_target_entropy_counts_the_whole_chunk(chunk_length):
    assert learner("sapo", chunk_length=chunk_length).target_entropy == -1.0 * chunk_length


def test_temperature_loss_by_hand():
    value, slope = jax.value_and_grad(temperature_loss)(jnp.log(2.0), jnp.asarray(1.5), -3.0)
    np.testing.assert_allclose(value, 2.0 * 3.0 * (1.5 + 3.0), rtol=1e-6)
    np.testing.assert_allclose(slope, 27.0, rtol=1e-6)  # d alpha / d log alpha = alpha
    assert float(jax.grad(temperature_loss, argnums=1)(jnp.log(2.0), jnp.asarray(1.5), -3.0)) == 0.0


def recorded(entropy, decisions=4):
    """A window whose ``decisions`` decisions per environment recorded this entropy."""
    window = empty_window("sapo")
    made = jnp.broadcast_to((jnp.arange(4) < decisions)[:, None], (4, 4))
    return eqx.tree_at(lambda w: (w.decision, w.bonus_record), window, (made, jnp.where(made, entropy, 0.0)))


@pytest.mark.parametrize(("entropy", "direction"), [(-0.5, -1), (-1.5, 1), (40.0, -1), (-40.0, 1)])
@pytest.mark.parametrize("decisions", [4, 2])
def test_temperature_falls_above_the_target_entropy_and_rises_below(entropy, direction, decisions):
    """The target is -d / 2 = -1; what counts is the mean over decisions, not over steps."""
    program = compiled("sapo")
    state = program.learner.init(jax.random.key(0))
    metrics = {}
    memory = program.learner.remember(state, recorded(entropy, decisions), metrics)
    change = float(memory.log_alpha - state.learned.memory.log_alpha)
    assert np.sign(change) == direction
    np.testing.assert_allclose(abs(change), 5e-3, rtol=0.02)  # Adam's first step; log alpha is 0, so nothing decays
    np.testing.assert_allclose(metrics["policy/entropy"], entropy, rtol=1e-6)
    np.testing.assert_allclose(metrics["policy/temperature"], 1.0)


def test_temperature_stays_when_it_is_not_learned_or_not_finite():
    program = compiled("sapo")
    state = program.learner.init(jax.random.key(0))
    memory = program.learner.remember(state, recorded(jnp.nan), {})
    assert float(memory.log_alpha) == 0.0
    fixed = learner("sapo", learn_temperature=False, initial_temperature=0.3)
    state = fixed.init(jax.random.key(0))
    memory = fixed.remember(state, recorded(5.0), {})
    np.testing.assert_allclose(jnp.exp(memory.log_alpha), 0.3, rtol=1e-6)


def test_bonus_is_alpha_times_the_normalised_entropy_of_a_fresh_sample():
    program = compiled("sapo")
    algorithm, state = program.learner, program.start
    memory = eqx.tree_at(lambda m: m.log_alpha, state.learned.memory, jnp.log(2.0))
    agent, observation, key = algorithm.agent(state), state.world.observation, jax.random.key(7)
    bonus, entropy = algorithm.bonus(memory, agent, observation, key)
    features, keys = agent.features(observation), jax.random.split(key, 4)
    for env in range(4):
        latent = agent.actor.policy.sample(features[env], keys[env]).latent
        by_hand = -float(agent.actor.policy.log_prob(features[env], latent))
        np.testing.assert_allclose(entropy[env], by_hand, rtol=1e-4)
        np.testing.assert_allclose(bonus[env], 2.0 * (by_hand + 1.0) / 2.0, rtol=1e-4, atol=1e-5)
    # The executed action has noise of its own: its latents differ from those of the bonus.
    executed = agent.sample(observation, jax.random.key(8)).latent
    assert np.abs(executed - agent.sample(observation, key).latent).max() > 1e-3


def test_raising_the_entropy_raises_the_return():
    """The bonus carries gradient: with no reward in play, more noise is better while the box is far."""
    program = compiled("sapo")
    algorithm, state = program.learner, program.learner.init(jax.random.key(0))

    def total(shift):
        policy = state.learned.actor.policy
        bias = policy.network.output.bias.at[2:].add(shift)
        agent = eqx.tree_at(lambda a: a.actor.policy.network.output.bias, algorithm.agent(state), bias)
        return algorithm.bonus(state.learned.memory, agent, state.world.observation, jax.random.key(1))[0].sum()

    gradient, step = jax.grad(total)(jnp.asarray(0.0)), 1e-2
    np.testing.assert_allclose(gradient, (total(step) - total(-step)) / (2 * step), rtol=1e-2)
    assert float(gradient) > 0
