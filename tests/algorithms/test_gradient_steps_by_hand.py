"""One whole gradient step of each learner against its equations, written out plainly here.

With plain gradient descent at rate 1 in place of Adam, what a step changes is the gradient itself, so that every
parameter after the step is compared: signs, minima, entropies, targets, delays and where gradients stop.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from driven import Driven
from tiny_worlds import same, world

from benchmarks.released_flowrl import FlowRL
from penstock.algorithms.registry import algorithm_entry
from penstock.data import Batch
from penstock.worlds import Observation

B, GAMMA = 8, 0.9
TINY = {"batch_size": B, "warmup_steps": 8, "actor_hidden": (6,), "critic_hidden": (6, 6), "replay_capacity": 64}
OPTIMIZERS = {
    "actor_optimizer": "actor",
    "critic_optimizer": "critic",
    "alpha_optimizer": "log_alpha",
    "behaviour_critic_optimizer": "behaviour_critic",
    "behaviour_value_optimizer": "behaviour_value",
}
"""Optimiser states of what is learned, and what each belongs to."""


RELEASED = "benchmarks.released_flowrl:FlowRL"


def by_flowrl(name):
    return name in ("flowrl", RELEASED)


def batch(flat_size=2):
    keys = jax.random.split(jax.random.key(0), 5)
    action = jnp.tanh(jax.random.normal(keys[1], (B, flat_size)))
    ended = jnp.where(jnp.arange(B) % 3 == 0, 0.0, GAMMA)
    now, then = (Observation(2.0 * jax.random.normal(key, (B, 3))) for key in (keys[0], keys[3]))
    return Batch(now, action, 3.0 * jax.random.normal(keys[2], (B,)), ended, then)


def descending(name, **settings):
    """A learner with gradient descent at rate 1, and what it has learned: every network its own."""
    entry = algorithm_entry(name)
    algorithm = Driven(entry.learner(entry.config.of(**{**TINY, **settings}), world(), 10))
    for optimizer in ("actor_optimizer", "critic_optimizer", "alpha_optimizer"):
        if hasattr(algorithm, optimizer):
            setattr(algorithm, optimizer, optax.sgd(1.0))
    learned = jax.jit(algorithm.init_learned)(jax.random.key(1))

    def shaken(tree, seed):
        leaves, structure = jax.tree.flatten(tree)
        keys = jax.random.split(jax.random.key(seed), len(leaves))
        # FlowRL's weights stay inside their bounds, where they slope.
        much = {"flowrl": 0.05, RELEASED: 0.12}.get(name, 0.3)
        return structure.unflatten(
            [a + much * jax.random.normal(k, a.shape) for a, k in zip(leaves, keys, strict=True)]
        )

    apart = ("target", "target_actor", "behaviour_critic", "behaviour_target", "behaviour_value")
    for seed, part in enumerate(apart):
        if getattr(learned, part, None) is not None:
            learned = dataclasses.replace(learned, **{part: shaken(getattr(learned, part), seed)})
    return algorithm, learned


def step_down(part, loss):
    return jax.tree.map(lambda a, g: a - g, part, eqx.filter_grad(loss)(part))


def mixed(old, new, rate):
    return jax.tree.map(lambda a, b: a * (1.0 - rate) + b * rate, old, new)


def draw_by_hand(algorithm, actor, observation, key, training):
    """Actions and log-densities; those of CrossQ's actor from its equations, BatchRenorm still in its warm-up.

    Its third result are the means and variances that the layers saw.
    """
    if algorithm.config.actor_trunk().renorm_warmup is None:
        sample, log_prob = algorithm.agent_in_batches(actor).sample_with_log_prob(observation, key)
        return sample.action, log_prob, []
    network, seen = actor.policy.network, []

    def normed(norm, h):
        seen.append((h.mean(axis=0), h.var(axis=0)))
        mean, variance = seen[-1] if training else (norm.mean, norm.variance)
        return norm.scale * (h - mean) / jnp.sqrt(variance + 1e-3) + norm.offset

    h = normed(network.norms[0], observation.vector)
    for linear, norm in zip(network.linears, network.norms[1:], strict=True):
        h = normed(norm, jnp.maximum(h @ linear.weight.T + linear.bias, 0.0))
    mean, log_std = jnp.split(h @ network.output.weight.T + network.output.bias, 2, axis=1)
    noise = jax.vmap(lambda key: jax.random.normal(key, mean.shape[1:]))(jax.random.split(key, B))
    log_std = jnp.clip(log_std, -5.0, 2.0)
    action = jnp.tanh(mean + jnp.exp(log_std) * noise)
    log_prob = -0.5 * noise**2 - log_std - 0.5 * jnp.log(2.0 * jnp.pi) - jnp.log(1.0 - action**2)
    return action, log_prob.sum(axis=1), seen


def sac_by_hand(algorithm, learned, batch, key):
    """y = r + gamma m (min Q' - alpha log pi'), (Q - y)^2 / 2, alpha log pi - min Q, alpha (-log pi - H)."""
    key_critic, key_actor = jax.random.split(key)
    alpha = jnp.exp(learned.log_alpha)
    next_action, next_log_prob, _ = draw_by_hand(algorithm, learned.actor, batch.next_observation, key_critic, False)

    def critic_loss(critic):
        if learned.target is not None:
            q = critic.values(batch.observation, batch.action)
            q_next = learned.target.values(batch.next_observation, next_action)
        else:  # CrossQ: one batch of both, one critic
            both = jnp.concatenate([batch.observation.vector, batch.next_observation.vector])
            q_both, _ = critic.train_values(Observation(both), jnp.concatenate([batch.action, next_action]))
            q, q_next = q_both[:, :B], q_both[:, B:]
        y = batch.reward + batch.bootstrap * (jnp.minimum(q_next[0], q_next[1]) - alpha * next_log_prob)
        y = jax.lax.stop_gradient(y)
        return sum(((q[i] - y) ** 2).sum() / (2 * B) for i in range(2))

    critic = step_down(learned.critic, critic_loss)
    if learned.target is None:
        both = jnp.concatenate([batch.observation.vector, batch.next_observation.vector])
        _, norms = learned.critic.train_values(Observation(both), jnp.concatenate([batch.action, next_action]))
        statistics = lambda c: [leaf for n in c.norms for leaf in (n.mean, n.variance, n.calls)]  # noqa: E731
        critic = eqx.tree_at(statistics, critic, [leaf for n in norms for leaf in (n.mean, n.variance, n.calls)])

    def actor_loss(actor):
        action, log_prob, _ = draw_by_hand(algorithm, actor, batch.observation, key_actor, True)
        q = critic.values(batch.observation, action)
        return (alpha * log_prob - jnp.minimum(q[0], q[1])).sum() / B

    actor = step_down(learned.actor, actor_loss)
    _, log_prob, seen = draw_by_hand(algorithm, learned.actor, batch.observation, key_actor, True)
    for layer, (mean, variance) in enumerate(seen):
        moved = (0.01 * mean, 0.99 + 0.01 * variance, jnp.ones(()))  # from 0, 1 and 0
        statistics = lambda a, n=layer: [getattr(a.policy.network.norms[n], f) for f in ("mean", "variance", "calls")]  # noqa: E731
        actor = eqx.tree_at(statistics, actor, moved)
    slope = alpha * (-log_prob.mean() - algorithm.entropy_target)
    return dataclasses.replace(
        learned,
        actor=actor,
        critic=critic,
        target=None if learned.target is None else mixed(learned.target, critic, algorithm.config.critic.target_rate),
        log_alpha=learned.log_alpha - slope,
    )


def td3_by_hand(algorithm, learned, batch, key):
    """y = r + gamma m min Q'(s', clip(pi'(s') + clipped noise)), (Q - y)^2 / 2, -Q_1(s, pi(s))."""
    config = algorithm.config
    _, key_noise, _ = jax.random.split(key, 3)
    noise = jnp.clip(config.target_noise * jax.random.normal(key_noise, batch.action.shape), -0.5, 0.5)
    assert config.target_noise_clip == 0.5
    next_action = algorithm.agent_in_batches(learned.target_actor).mode(batch.next_observation).action + noise
    q_next = learned.target.values(batch.next_observation, jnp.clip(next_action, -1.0, 1.0))
    y = batch.reward + batch.bootstrap * jnp.minimum(q_next[0], q_next[1])

    def critic_loss(critic):
        q = critic.values(batch.observation, batch.action)
        return sum(((q[i] - y) ** 2).sum() / (2 * B) for i in range(2))

    critic = step_down(learned.critic, critic_loss)

    def act(actor):
        return algorithm.agent_in_batches(actor).mode(batch.observation).action

    def actor_loss(actor):
        return -critic.values(batch.observation, act(actor))[0].sum() / B

    actor = step_down(learned.actor, actor_loss)
    return dataclasses.replace(
        learned,
        actor=actor,
        critic=critic,
        target=mixed(learned.target, critic, config.critic.target_rate),
        target_actor=mixed(learned.target_actor, actor, config.critic.target_rate),
    )


def flowrl_by_hand(algorithm, learned, batch, key):
    """The module's equations; one midpoint step, so that the policy is tanh(x + v(x + v(x, 0) / 2, 1 / 2))."""
    config, released = algorithm.config, isinstance(algorithm.learner, FlowRL)
    key_next, key_actor = jax.random.split(key)
    key_sample, key_noise, key_time = jax.random.split(key_actor, 3)

    def policy(actor, observation, key):
        def one(state, key):
            x = jax.random.normal(key, (2,))
            x = jnp.clip(x, -1.0, 1.0) if released else x
            v = actor.policy.velocity
            half = x + 0.5 * v(state, x, jnp.asarray(0.0))
            return jnp.tanh(x + v(state, half, jnp.asarray(0.5)))

        return jax.vmap(one)(observation.vector, jax.random.split(key, B))

    def regression(y):
        def loss(critic):
            q = critic.values(batch.observation, batch.action)
            return sum(((q[i] - y) ** 2).mean() for i in range(2))

        return loss

    q_next = learned.target.values(batch.next_observation, policy(learned.actor, batch.next_observation, key_next))
    critic = step_down(learned.critic, regression(batch.reward + batch.bootstrap * jnp.minimum(q_next[0], q_next[1])))
    v_next = learned.behaviour_value.values(batch.next_observation)[0]
    q_stored = learned.behaviour_critic.values(batch.observation, batch.action)
    stored = jnp.minimum(q_stored[0], q_stored[1])  # of before the step
    behaviour = step_down(learned.behaviour_critic, regression(batch.reward + batch.bootstrap * v_next))
    q_b = learned.behaviour_target.values(batch.observation, batch.action)

    def expectile_loss(value):
        u = jnp.minimum(q_b[0], q_b[1]) - value.values(batch.observation)[0]
        return jnp.mean(jnp.where(u < 0, 0.1, 0.9) * u**2)

    assert config.expectile == 0.9 and config.constraint_coefficient == 0.1
    noise = jax.random.normal(key_noise, (B, 2))
    noise = jnp.clip(noise, -1.0, 1.0) if released else noise
    tau = jax.random.uniform(key_time, (B,))

    def actor_loss(actor):
        q = critic.values(batch.observation, policy(actor, batch.observation, key_sample))
        q = jnp.minimum(q[0], q[1])
        difference = jax.lax.stop_gradient(stored - q)

        def one(state, action, noise, tau):
            v = actor.policy.velocity(state, tau * action + (1.0 - tau) * noise, tau)
            return jnp.mean((v - (action - noise)) ** 2)

        e = jax.vmap(one)(batch.observation.vector, batch.action, noise, tau)
        if not released:
            w = jnp.where(difference > 0, 0.1 * jnp.exp(difference - difference.mean()), 0.0)
            return (-q + jnp.minimum(w, config.weight_ceiling) * e).mean()
        positive = jnp.maximum(difference, 0.0)
        w = jnp.clip(0.1 * jnp.exp(positive - positive.mean()), 1e-3, config.weight_ceiling)
        return -q.mean() + w.mean() * e.mean()

    return dataclasses.replace(
        learned,
        actor=step_down(learned.actor, actor_loss),
        critic=critic,
        target=mixed(learned.target, critic, config.critic.target_rate),
        behaviour_critic=behaviour,
        behaviour_target=mixed(learned.behaviour_target, behaviour, config.critic.target_rate),
        behaviour_value=step_down(learned.behaviour_value, expectile_loss),
    )


VALUES = {"critic_hidden": (6, 6, 6), "target_rate": 0.6, "weight_ceiling": 100.0}
CASES = {
    "sac": ("sac", {"target_rate": 0.3, "initial_temperature": 0.4}, sac_by_hand),
    "crossq": ("crossq", {"initial_temperature": 0.4}, sac_by_hand),
    "crossq, plain actor": ("crossq", {"initial_temperature": 0.4, "actor_batch_renorm": False}, sac_by_hand),
    "sac-flow": ("sac-flow", {"critic": "target", "target_rate": 0.3, "flow_steps": 2}, sac_by_hand),
    "sac, chunks": ("sac", {"target_rate": 0.3, "initial_temperature": 0.4, "chunk_length": 2}, sac_by_hand),
    "td3": ("td3", {"target_rate": 0.3}, td3_by_hand),
    "td3, chunks": ("td3", {"target_rate": 0.3, "chunk_length": 2}, td3_by_hand),
    "flowrl, paper": ("flowrl", VALUES, flowrl_by_hand),
    "flowrl, released": (RELEASED, VALUES, flowrl_by_hand),
}


SLOW = ("crossq, plain actor", "sac-flow", "flowrl, released")


@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in CASES])
def test_a_gradient_step_by_hand(case):
    name, settings, by_hand = CASES[case]
    algorithm, learned = descending(name, **settings)
    key, chunk = jax.random.key(5), settings.get("chunk_length", 1)
    drawn = batch(2 * chunk)
    if hasattr(learned, "log_alpha") and name == "sac":
        assert algorithm.entropy_target == -2.0 * chunk  # of all actions of a decision

    step = jax.jit(lambda count: algorithm.gradient_step(learned, drawn, key, count))
    (stepped, metrics), (waited, waiting) = step(jnp.asarray(0)), step(jnp.asarray(1))
    if by_flowrl(name):  # weights that could leak a gradient, on both sides of D = 0 and below the ceiling
        assert 0.2 < metrics["actor/better_stored"] < 0.9
        assert 1e-3 < metrics["actor/weight_mean"] < algorithm.config.weight_ceiling / B
    expected = jax.jit(lambda: by_hand(algorithm, learned, drawn, key))()
    for field in dataclasses.fields(learned):
        if field.name in OPTIMIZERS:
            continue
        got, wanted, before = (getattr(tree, field.name) for tree in (stepped, expected, learned))
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-4, atol=2e-5, err_msg=field.name)
        moved = [np.abs(a - b).max() for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(before), strict=True)]
        assert not moved or max(moved) > 1e-3, f"{field.name} did not move"
    same(waited.critic, stepped.critic)  # the actor's step leaves the critics alone
    same(waited.critic_optimizer, stepped.critic_optimizer)
    if algorithm.config.policy_delay > 1:
        assert float(waiting["actor/steps"]) == 0.0
        same(waited.actor, learned.actor)
        if name == "td3" or by_flowrl(name):  # their targets wait, too
            same(waited.target, learned.target)
