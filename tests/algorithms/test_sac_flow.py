"""What SAC Flow's settings do to the program, and which contradict each other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_worlds import world

from penstock._errors import ConfigurationError
from penstock.algorithms import sac_flow
from penstock.policies import MarginalFlow
from penstock.worlds import Observation

SMALL = {"actor_hidden": (8,), "critic_hidden": (8,), "batch_size": 8, "warmup_steps": 8}


def flow_of(**settings):
    learner = sac_flow.Learner(sac_flow.Config.of(**{**SMALL, **settings}), world(), 10_000)
    return learner, jax.jit(learner.init)(jax.random.key(0)).actor.policy


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"other_paths": 3}, r"other_paths: does nothing with policy = 'noisy-flow'; it belongs to marginal-flow"),
        ({"policy": "marginal-flow", "other_paths": 0}, r"other_paths = 0: must be at least 1"),
        ({"policy": "marginal-flow", "flow_steps": 0}, r"flow_steps = 0: must be at least 1"),
        ({"policy": "marginal-flow", "target_step_std": 0.1}, r"target_step_std: does nothing with .*to noisy-flow"),
        ({"target_rate": 0.1}, r"target_rate: does nothing with critic = 'crossq'; it belongs to target"),
        ({"initial_log_std": 0.5}, r"initial_log_std: does nothing with policy = 'noisy-flow'"),
        ({"critic": "crosq"}, r"critic = 'crosq': unknown. .*crossq"),
    ],
)
def test_contradictions_are_refused(settings, sentence):
    with pytest.raises(ConfigurationError, match=sentence):
        sac_flow.Config.of(**settings)


def equations(jaxpr):
    """Number of operations in a program, those of inner programs included."""
    inner = [v for e in jaxpr.eqns for v in e.params.values()]
    bodies = [getattr(v, "jaxpr", v) for v in inner]
    return len(jaxpr.eqns) + sum(equations(b) for b in bodies if hasattr(b, "eqns"))


def test_t19_flow_steps_are_a_loop():
    """The program does not grow with K."""

    def size(steps):
        _, flow = flow_of(flow_steps=steps)
        return equations(jax.make_jaxpr(flow.draw_with_log_prob)(jnp.ones(3), jnp.ones(flow.noise_shape)).jaxpr)

    assert size(8) == size(16)


@pytest.mark.parametrize("entropy", ["path", "action"])
def test_the_regulated_entropy_is_the_chosen_one(entropy):
    """log p of the losses comes from the policy's own formula for it, and H is that of the same kind."""
    policy = {"path": "noisy-flow", "action": "marginal-flow"}[entropy]
    algorithm = sac_flow.Learner(sac_flow.Config.of(**SMALL, policy=policy), world(), 10)
    actor = jax.jit(algorithm.init)(jax.random.key(0)).actor
    observation, key = Observation(jax.random.normal(jax.random.key(1), (8, 3))), jax.random.key(2)
    policy = actor.policy

    def draw(state, key):
        if entropy == "path":
            return policy.draw_with_log_prob(state, jax.random.normal(key, (5, 2)))
        marginal = MarginalFlow(policy.flow, 8)
        return marginal.draw_with_log_prob(state, jax.random.normal(key, (9, 5, 2)))

    agent = algorithm.agent_in_batches(actor)
    sample, log_prob = jax.jit(lambda: agent.sample_with_log_prob(observation, key))()
    drawn, expected = jax.jit(jax.vmap(draw))(observation.vector, jax.random.split(key, 8))
    np.testing.assert_allclose(sample.action, drawn.action, rtol=1e-5)
    np.testing.assert_allclose(log_prob, expected, rtol=1e-4, atol=1e-4)
    d, c = 2, 0.5 * math.log(2.0 * math.pi * math.e)
    by_hand = {"action": -d, "path": d * (5 * c + 4 * math.log(0.1697))}
    assert algorithm.entropy_target == pytest.approx(by_hand[entropy])
