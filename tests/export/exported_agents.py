"""Agents with random weights, ready to be exported, and what they decide."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from penstock.export.decision import Decision
from penstock.networks import Normalizer, Recurrence, Trunk, make_encoder
from penstock.observation import Observation, ObservationSpec
from penstock.policies import Actor, Agent
from penstock.policies.deterministic_action import DeterministicAction
from penstock.worlds import World

SIZE, ACTIONS = 5, 3


class Seen(World):
    """A world of which nothing but its sizes is asked."""

    with_num_envs = describe = axes = reset = step = None

    def __init__(self, spec):
        self.name, self.observation_spec, self.action_size = "mine", spec, ACTIONS


def decision(
    settings, *, rule="zero", chunk=1, mode="deterministic", spec=None, hidden=(16, 8), recurrent=None, **trunk
):
    """A decision of an agent whose weights are large enough to matter."""
    spec = spec or ObservationSpec(SIZE)
    trunk = Trunk(hidden, output_gain=1.0, **trunk)
    encoder = make_encoder(jax.random.key(1), spec, trunk)
    recurrence = recurrent and Recurrence(jax.random.key(2), encoder.size, 6, recurrent)
    features = recurrence.size if recurrence else encoder.size
    policy = settings.build(jax.random.key(0), features, ACTIONS * chunk, trunk)
    policy = jax.tree.map(shaken, policy)
    seen = 3.0 + 2.0 * np.random.default_rng(0).standard_normal((50, spec.vector)).astype(np.float32)
    normalizer = Normalizer.create(spec.vector).merge(Observation(jnp.asarray(seen)))
    agent = Agent(Actor(encoder, policy, recurrence), normalizer, DeterministicAction(rule), chunk)
    return Decision(agent, Seen(spec), mode)


def shaken(leaf):
    """A leaf with noise: layers that start at zero would hide faults."""
    if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
        return leaf
    return leaf + 0.1 * jax.random.normal(jax.random.key(leaf.size), leaf.shape)


def redrawn(made):
    """The same decision with weights that are equal on every machine, as those of a checkpoint are."""
    random = np.random.RandomState(0)

    def drawn(leaf):
        if not (hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.floating)):
            return leaf
        return jnp.asarray(0.1 + np.abs(random.standard_normal(leaf.shape)), leaf.dtype)

    return dataclasses.replace(made, agent=jax.tree.map(drawn, made.agent))


def some_inputs(decision, seed=0):
    """Inputs of one decision."""
    random = np.random.default_rng(seed)
    return {
        name: random.integers(0, 256, shape.shape, np.uint8)
        if shape.dtype == jnp.uint8
        else (3.0 + 2.0 * random.standard_normal(shape.shape)).astype(np.float32)
        for name, shape in decision.inputs.items()
    }
