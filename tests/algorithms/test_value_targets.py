"""Ends of episodes and value targets, through world, replay memory and learner: every target by hand (F23).

Each learner's bootstrap network is made a constant 7, so that with reward 2 and discount 0.9 the target is 8.3 where
the next state counts and 2 where it does not.
"""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import Driven

from penstock.algorithms.registry import ALGORITHMS
from penstock.data import Experience, Replay
from penstock.worlds import FunctionalWorld, Observation, ObservationSpec, Outcome, SingleTask, Vmapped

REWARD, DISCOUNT, NEXT = 2.0, 0.9, 7.0
CASES = {
    "neither": (False, 5, REWARD + DISCOUNT * NEXT),
    "terminated": (True, 5, REWARD),
    "truncated on the first step": (False, 1, REWARD + DISCOUNT * NEXT),
    "both at once": (True, 1, REWARD),
}
"""Whether the first step terminates, the time limit, and the target."""

CONSTANT_NEXT = {"learn_temperature": False, "initial_temperature": 0.0}  # no entropy in the target
SETTINGS = {
    "sac": CONSTANT_NEXT,
    "crossq": CONSTANT_NEXT,
    "sac-flow": CONSTANT_NEXT,
    "td3": {},
    "flowrl": {"critic_hidden": (4, 4, 4)},
}


class OneStep(SingleTask):
    """Reward 2; the first step terminates or does not."""

    action_size: int = eqx.field(static=True, default=1)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(1))
    control_timestep: float = eqx.field(static=True, default=1.0)
    episode_length: int = eqx.field(static=True, default=5)
    terminates: bool = eqx.field(static=True, default=False)

    def initial(self, key):
        return jnp.zeros(())

    def advance(self, state, action):
        return state + 1.0, Outcome(jnp.asarray(REWARD), jnp.asarray(self.terminates), {})

    def observe(self, state):
        return Observation(state[None])


@functools.cache
def first_step(terminates, episode_length):
    """What the replay memory makes of the first step of an episode: a batch of one."""
    world = FunctionalWorld("tiny/ends", Vmapped(OneStep(terminates=terminates, episode_length=episode_length)), 1)
    state = world.reset(jax.random.key(0))
    action = jnp.zeros((1, 1))
    _, transition = world.step(state, action)
    assert bool(transition.terminated[0]) is terminates
    assert bool(transition.truncated[0]) is (episode_length == 1)
    ends = transition.reward, transition.terminated, transition.truncated
    experience = Experience(state.observation, action, *ends, transition.final_observation)
    batch = Replay.create(experience, 1).add(experience).gather(jnp.zeros(2), DISCOUNT)
    np.testing.assert_array_equal(batch.next_observation.vector, [[1.0]])  # of before the reset
    return batch


def constant(critic, value):
    """The critic with every value replaced by a constant."""
    output = critic.output if hasattr(critic, "output") else critic.networks.output
    where = lambda c: (c.output if hasattr(c, "output") else c.networks.output).weight  # noqa: E731
    bias = lambda c: (c.output if hasattr(c, "output") else c.networks.output).bias  # noqa: E731
    critic = eqx.tree_at(where, critic, jnp.zeros_like(output.weight))
    return eqx.tree_at(bias, critic, jnp.full_like(output.bias, value))


@functools.cache
def program(name):
    """A gradient step whose bootstrap is 7, and what is learned before it."""
    entry = ALGORITHMS[name]
    tiny = {"batch_size": 1, "warmup_steps": 1, "actor_hidden": (4,), "critic_hidden": (4,), "discount": DISCOUNT}
    config = entry.config.of(**{**tiny, **SETTINGS[name]})
    algorithm = Driven(entry.learner(config, FunctionalWorld("tiny/ends", Vmapped(OneStep()), 1), 10))
    learned = jax.jit(algorithm.init_learned)(jax.random.key(0))
    if getattr(learned, "target", None) is None:
        learned = dataclasses.replace(learned, critic=constant(learned.critic, NEXT))
    else:
        learned = dataclasses.replace(learned, target=constant(learned.target, NEXT))
    if name == "flowrl":
        value, critic = constant(learned.behaviour_value, NEXT), constant(learned.behaviour_critic, 0.0)
        learned = dataclasses.replace(learned, behaviour_value=value, behaviour_critic=critic)

    @jax.jit
    def step(batch):  # what is not returned is not compiled
        _, metrics = algorithm.gradient_step(learned, batch, jax.random.key(1), jnp.asarray(1))
        return {name: metrics.get(name) for name in ("critic/target_mean", "critic/behaviour_loss")}

    return step


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n == "sac-flow")) for n in SETTINGS])
def test_target_by_hand(name, case):
    terminates, episode_length, target = CASES[case]
    metrics = program(name)(first_step(terminates, episode_length))
    np.testing.assert_allclose(metrics["critic/target_mean"], target, rtol=1e-6)
    if name == "flowrl":  # Q_b: both heads are 0, so the loss is twice the squared target
        np.testing.assert_allclose(metrics["critic/behaviour_loss"], 2 * target**2, rtol=1e-5)
