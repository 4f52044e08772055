"""FlowRL: published sizes, the two losses, the bound that they rest on, and every velocity."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import Driven
from tiny_worlds import differ, world

from benchmarks.released_flowrl import CodeWeighting, ConstantWeight
from penstock.algorithms import flowrl
from penstock.algorithms.flow_matching import flow_matching_loss
from penstock.algorithms.learner import results
from penstock.data import Batch
from penstock.policies import VelocityField, VelocityFlow
from penstock.policies.velocity_fields import make_velocity
from penstock.worlds import Observation

TINY = {"batch_size": 8, "warmup_steps": 8, "actor_hidden": (8,), "critic_hidden": (8, 8, 8), "replay_capacity": 64}


def learner(kind=flowrl.Learner, **settings):
    config = getattr(kind, "settings", flowrl.Config).of(**{**TINY, **settings})
    return Driven(kind(config, world(), 10))


class Latents(ConstantWeight):
    """Imitates latents."""

    def imitated(self, action):
        return jnp.arctanh(action)


def batch(size=8):
    keys = jax.random.split(jax.random.key(0), 4)
    action = jnp.tanh(jax.random.normal(keys[1], (size, 2)))
    reward = jax.random.normal(keys[2], (size,))
    now, then = (Observation(jax.random.normal(key, (size, 3))) for key in (keys[0], keys[3]))
    return Batch(now, action, reward, jnp.full((size,), 0.9), then)


def test_the_policy_has_418854_parameters_on_the_dog():
    """223 observations, 38 actions, as released; the value networks are counted in tests/critics."""
    trunk = flowrl.Config().actor_trunk()
    field = jax.eval_shape(lambda: make_velocity(jax.random.key(0), "mlp", 223, 38, trunk, output_gain=1.0))
    assert sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(field)) == 418_854


def actor_metrics(stored, kind=flowrl.Learner, **settings):
    algorithm = learner(kind, **settings)
    learned = jax.jit(algorithm.init_learned)(jax.random.key(0))
    step = jax.jit(lambda data, stored: results(algorithm._actor_step(learned, data, stored, jax.random.key(1))[1]))
    return {name: float(value) for name, value in step(batch(), stored).items()}


STORED = jnp.linspace(-2.0, 2.0, 8)
"""Q_b(s, a), on both sides of Q(s, pi(s))."""


@pytest.mark.slow
def test_the_codes_loss_is_a_plain_sum_and_the_papers_is_not():
    """code: mean(-q + w e) = -mean q + mean(w) mean(e). The paper's weights go with their samples."""
    code = actor_metrics(STORED, CodeWeighting)
    plain = -code["actor/value_mean"] + code["actor/weight_mean"] * code["actor/flow_matching_loss"]
    np.testing.assert_allclose(code["actor/loss"], plain, rtol=1e-5)
    paper = actor_metrics(STORED, constraint_coefficient=0.5)
    plain = -paper["actor/value_mean"] + paper["actor/weight_mean"] * paper["actor/flow_matching_loss"]
    assert 0.2 < paper["actor/better_stored"] < 0.8 and abs(paper["actor/loss"] - plain) > 1e-3


@pytest.mark.slow
def test_constant_weights_by_hand():
    mean = actor_metrics(STORED, ConstantWeight, constraint_coefficient=0.3)
    expected = -mean["actor/value_mean"] + 0.3 * mean["actor/flow_matching_loss"]
    np.testing.assert_allclose(mean["actor/loss"], expected, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "expected"), [(Latents, 0.9), (ConstantWeight, np.tanh(0.9))])
def test_t14_cloning_an_action_of_0_9(kind, expected):
    """Imitation alone of one stored action: the action itself where its latent is imitated, or tanh of it."""
    settings = {"constraint_coefficient": 1e3, "actor_learning_rate": 3e-3}
    algorithm = learner(kind, actor_hidden=(32,), **settings)
    learned = jax.jit(algorithm.init_learned)(jax.random.key(0))
    data = dataclasses.replace(batch(), action=jnp.full((8, 2), 0.9))

    def body(i, now):
        return algorithm._actor_step(now, data, STORED, jax.random.fold_in(jax.random.key(1), i))[0]

    learned = jax.jit(lambda now: jax.lax.fori_loop(0, 3000, body, now))(learned)
    action = algorithm.agent(learned).sample(data.observation, jax.random.key(2)).action
    np.testing.assert_allclose(action.mean(), expected, atol=0.02)


@pytest.mark.slow
def test_without_behaviour_values_the_weight_comes_from_the_policys_own_critic():
    algorithm = learner(behaviour_values=False, policy_delay=1)
    learned = jax.jit(algorithm.init_learned)(jax.random.key(0))
    assert learned.behaviour_critic is None and learned.behaviour_value is None
    after, metrics = jax.jit(algorithm.gradient_step)(learned, batch(), jax.random.key(2), jnp.asarray(0))
    assert differ(after.actor, learned.actor) and differ(after.target, learned.target)
    own = learned.critic.values(batch().observation, batch().action).min(axis=0)
    judge = jax.jit(lambda stored, key: results(algorithm._actor_step(moved, batch(), stored, key)[1]))
    moved = dataclasses.replace(learned, critic=after.critic)
    judged = judge(own, jax.random.split(jax.random.key(2))[1])
    np.testing.assert_allclose(metrics["actor/weight_mean"], judged["actor/weight_mean"], rtol=1e-5)


@pytest.mark.parametrize("velocity", ["gated", pytest.param("decoded", marks=pytest.mark.slow)])
def test_the_actors_loss_runs_with_other_velocities(velocity):
    algorithm = learner(velocity=velocity, stepper="euler", flow_steps=2)
    learned = jax.jit(algorithm.init_learned)(jax.random.key(0))
    step = jax.jit(lambda data: algorithm._actor_step(learned, data, 5.0 + STORED, jax.random.key(1)))
    after, metrics = step(batch())
    assert differ(after.actor, learned.actor) and float(metrics["actor/skipped"].total) == 0.0


class Straight(VelocityField):
    """The exact velocity of the straight path from N(0, 1) to N(0.5, 0.6^2), plus an error c sin(2 x)."""

    error: float = 0.0

    def condition(self, features):
        return features

    def __call__(self, condition, x, tau):
        slope = (tau * 0.36 - (1 - tau)) / ((1 - tau) ** 2 + 0.36 * tau**2)
        return 0.5 + slope * (x - 0.5 * tau) + self.error * jnp.sin(2.0 * x)


@pytest.mark.parametrize("error", [0.05, 0.2, 0.5])
def test_flow_matching_bounds_the_wasserstein_distance(error):
    """W2^2 <= exp(2 L) E |v - v*|^2, in one dimension where quantiles give W2 exactly.

    The mean squared error of velocities is what the flow-matching loss exceeds its least value by, and L is the
    Lipschitz constant of the learned field, because the loss is taken at the points of the *other* law's paths.
    """
    best, learned = (
        VelocityFlow(field=Straight(c), flat_size=1, flow_steps=64, stepper="midpoint") for c in (0.0, error)
    )
    quantile = (np.arange(4000) + 0.5) / 4000
    noise = jnp.asarray(jax.scipy.stats.norm.ppf(quantile))[:, None]
    ends = [
        np.sort(np.asarray(jax.jit(jax.vmap(flow.draw, (None, 0)))(jnp.zeros(1), noise).latent[:, 0]))
        for flow in (best, learned)
    ]
    np.testing.assert_allclose([ends[0].mean(), ends[0].std()], [0.5, 0.6], atol=0.01)
    distance = np.mean(np.square(ends[1] - ends[0]))

    keys = jax.random.split(jax.random.key(0), (20_000, 3))
    targets = 0.5 + 0.6 * jax.jit(jax.vmap(lambda key: jax.random.normal(key, (1,))))(keys[:, 0])

    @jax.jit
    def loss(flow):
        each = jax.vmap(lambda y, a, b: flow_matching_loss(flow, jnp.zeros(1), y, a, b))
        return each(targets, keys[:, 1], keys[:, 2]).mean()

    excess = float(loss(learned) - loss(best))  # the same samples: most of the variance cancels
    x, tau = jnp.linspace(-4.0, 4.0, 201), jnp.linspace(0.0, 1.0, 101)
    slope = jax.jit(jax.vmap(jax.vmap(jax.grad(lambda x, t: Straight(error)(None, x, t)), (0, None)), (None, 0)))(
        x, tau
    )
    bound = np.exp(2 * float(jnp.abs(slope).max())) * excess
    assert 1e-3 * bound < distance <= bound
    assert excess > 0.5 * error**2 * 0.4  # E sin^2 is near 1/2
