"""Tiny smooth tasks for tests of the algorithms, and learners that compile in seconds."""

import dataclasses
import functools
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from driven import Driven
from jax.flatten_util import ravel_pytree

from penstock.algorithms import apg, rfo, sapo, shac, shac2
from penstock.algorithms.registry import ALGORITHMS
from penstock.worlds import FunctionalWorld, Observation, ObservationSpec, Outcome, SingleTask, Vmapped

MODULES = {"apg": apg, "shac": shac, "shac2": shac2, "sapo": sapo, "rfo": rfo}
TINY = {
    "window": 4,
    "actor_hidden": (4,),
    "critic_hidden": (4,),
    "critic_passes": 2,
    "critic_minibatches": 2,
    "flow_steps": 2,
}


class Pendulum(SingleTask):
    """A damped pendulum, smooth in state and action; time limit only. Two actions: torque, and a second, weak one."""

    action_size: int = eqx.field(static=True, default=2)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(3))
    episode_length: int = eqx.field(static=True, default=6)
    control_timestep: float = eqx.field(static=True, default=0.2)
    terminates: bool = eqx.field(static=True, default=False)

    def initial(self, key):
        return jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)

    def advance(self, state, action):
        angle, speed = state
        torque = jnp.array([2.0, 0.5]) @ action
        speed = 0.95 * speed + 0.2 * (torque - 3.0 * jnp.sin(angle))
        angle = angle + 0.2 * speed
        reward = jnp.cos(angle) - 0.1 * speed**2 - 0.05 * jnp.sum(action**2)
        terminated = (speed > 0.6) if self.terminates else jnp.zeros((), bool)
        return jnp.stack([angle, speed]), Outcome(reward, terminated, {"speed": speed})

    def observe(self, state):
        return Observation(jnp.stack([jnp.sin(state[0]), jnp.cos(state[0]), state[1]]))


class Cloud(Pendulum):
    """The pendulum, seen as a point cloud that turns with it."""

    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(1, points=3))

    def observe(self, state):
        arm = jnp.stack([jnp.sin(state[0]), jnp.cos(state[0]), 0.0 * state[0]])
        return Observation(state[1:], jnp.arange(1.0, 4.0)[:, None] * arm)


def world(task=None, num_envs=4):
    return FunctionalWorld("tiny/pendulum", Vmapped(task or Pendulum()), num_envs)


def learner(name, on=None, planned_updates=10, **settings):
    config = ALGORITHMS[name].config.preset(TINY, **settings)
    return Driven(ALGORITHMS[name].learner(config, on or world(), planned_updates))


class Program(NamedTuple):
    """A learner, its compiled iteration, its compiled rollout with gradient, and a busy state to begin with."""

    learner: Any
    step: Any
    return_gradient: Any
    start: Any


@functools.cache
def compiled(name, **settings):
    """The learner on the tiny world; each part is compiled when first called, once per process and settings."""
    algorithm = learner(name, **settings)
    return Program(algorithm, jax.jit(algorithm.step), jax.jit(algorithm.return_gradient), begin(algorithm))


def begin(algorithm):
    """A state whose weights are all moved at random, so that means, values and velocities differ from zero."""
    state, generator = algorithm.init(jax.random.key(0)), np.random.default_rng(9)

    def shake(leaf):
        return jnp.asarray(np.asarray(leaf) + np.asarray(0.5 * generator.normal(size=leaf.shape), leaf.dtype))

    actor, critic = jax.tree.map(shake, (state.learned.actor, state.learned.critic))
    target = None if state.learned.target_critic is None else jax.tree.map(shake, state.learned.target_critic)
    return learning(state, actor=actor, critic=critic, target_critic=target)


def learning(state, **changes):
    """The state with parts of what is learned replaced."""
    return dataclasses.replace(state, learned=dataclasses.replace(state.learned, **changes))


@functools.cache
def empty_window(name, **settings):
    """A window of zeros, of the shapes that this learner records."""
    program = compiled(name, **settings)
    _, window, _, _ = jax.eval_shape(program.learner.return_gradient, program.start)
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), window)


def as_float64(tree):
    """Single precision leaves in double precision; all other leaves as they are."""

    def convert(leaf):
        return leaf.astype(jnp.float64) if leaf.dtype == jnp.float32 else leaf

    return jax.tree.map(convert, tree)


def vector(tree):
    """All numbers of a tree of arrays in one NumPy vector."""
    return np.asarray(ravel_pytree(tree)[0])


def same(one, other):
    """Asserts that two trees hold the very same numbers."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        np.testing.assert_array_equal(a, b)


def differ(one, other):
    """Whether any number in two trees of equal structure differs."""
    return any(np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(*map(jax.tree.leaves, (one, other)), strict=True))
