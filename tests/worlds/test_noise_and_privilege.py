"""Tasks that randomise per episode and draw noise per step; observations that critics alone see."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock.algorithms.registry import ALGORITHMS
from penstock.training.drivers.functional import begin, iterate
from penstock.training.post_mortem import Witness
from penstock.worlds import FunctionalWorld, Observation, ObservationSpec, Outcome, SingleTask, Vmapped


class Cart(SingleTask):
    """A mass, drawn per episode and hidden from the policy, that an action pushes and noise shakes."""

    action_size: int = eqx.field(static=True, default=1)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(2, privileged=1))
    episode_length: int = eqx.field(static=True, default=5)
    control_timestep: float = eqx.field(static=True, default=0.1)

    def initial(self, key):
        return {"x": jnp.zeros(2), "mass": jax.random.uniform(key, (1,), minval=0.5, maxval=2.0)}

    def advance(self, state, action):
        place, speed = state["x"]
        x = jnp.stack([place + 0.1 * speed, speed + 0.1 * action[0] / state["mass"][0]])
        return {**state, "x": x}, Outcome(-jnp.square(place), jnp.zeros((), bool), {})

    def observe(self, state):
        return Observation(state["x"], privileged=state["mass"])


class Shaken(Cart):
    def advance_noisily(self, state, action, key):
        state, outcome = self.advance(state, action)
        return {**state, "x": state["x"] + 0.01 * jax.random.normal(key, (2,))}, outcome


def world(task, num_envs=4):
    return FunctionalWorld("cart", Vmapped(task), num_envs)


def play(place, steps=6):
    state, seen = place.reset(jax.random.key(0)), []
    step = jax.jit(place.step)
    for _ in range(steps):
        state, transition = step(state, jnp.full((place.num_envs, 1), 0.3))
        seen.append(transition)
    return state, seen


def test_every_episode_has_a_mass_of_its_own_and_keeps_it():
    _, seen = play(world(Cart()))
    masses = np.stack([t.final_observation.privileged[:, 0] for t in seen])
    np.testing.assert_array_equal(masses[:5], np.broadcast_to(masses[0], (5, 4)))
    assert (masses[5] != masses[4]).all() and np.unique(masses[[0, 5]]).size == 8


def test_noise_is_fresh_in_every_environment_and_step_and_follows_from_the_key():
    quiet, shaken, again = (play(world(task))[1] for task in (Cart(), Shaken(), Shaken()))
    places = np.stack([t.final_observation.vector for t in shaken[:5]])  # one episode
    pushes = places[1:, :, 0] - places[:-1, :, 0] - 0.1 * places[:-1, :, 1]  # what `advance` does not explain
    assert np.unique(pushes.round(7)).size == pushes.size == 16 and 0.003 < pushes.std() < 0.03
    for one, other in zip(shaken, again, strict=True):
        np.testing.assert_array_equal(one.observation.vector, other.observation.vector)
    for one, other in zip(quiet, shaken, strict=True):  # resets draw what they draw without noise
        np.testing.assert_array_equal(one.observation.privileged, other.observation.privileged)


def test_a_post_mortem_sees_the_same_noise():
    place = world(Shaken())
    state, action = place.reset(jax.random.key(3)), jnp.full((4, 1), 0.2)
    (one, _), (other, _) = place.step(state, action), Witness(place).step(state, action)
    np.testing.assert_array_equal(one.observation.vector, other.observation.vector)


OFF_POLICY = {
    "batch_size": 8,
    "warmup_steps": 8,
    "collect_steps": 4,
    "actor_hidden": (4,),
    "critic_hidden": (16, 16, 16),
}
SMALL = {
    "shac2": {"window": 4, "actor_hidden": (4,), "critic_hidden": (4,), "critic_passes": 1, "critic_minibatches": 1},
    **dict.fromkeys(("sac", "crossq", "flowrl"), OFF_POLICY),
}


@pytest.mark.parametrize("algorithm", SMALL)
def test_critics_see_what_policies_do_not(algorithm):
    entry = ALGORITHMS[algorithm]
    learner = entry.learner(entry.config.of(**SMALL[algorithm]), world(Cart()), 8)
    learned = jax.jit(lambda key: begin(learner, key).learned)(jax.random.key(0))
    seen = Observation(jnp.ones((3, 2)), privileged=jnp.ones((3, 1)))
    other = dataclasses.replace(seen, privileged=2.0 * seen.privileged)
    acts = jax.jit(lambda observation: learner.agent(learned).mode(observation).action)
    np.testing.assert_array_equal(acts(seen), acts(other))
    judged = (learned.normalizer,) if algorithm == "shac2" else (jnp.ones((3, 1)),)
    values = jax.jit(lambda observation: learned.critic.values(observation, *judged))
    assert np.abs(values(seen) - values(other)).max() > 0.0


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", SMALL)
def test_training_takes_privileged_observations_along(algorithm):
    entry = ALGORITHMS[algorithm]
    learner = entry.learner(entry.config.of(**SMALL[algorithm]), world(Shaken()), 8)
    step = jax.jit(lambda state: iterate(learner, state)[0])
    state = step(step(begin(learner, jax.random.key(1))))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(learner.agent(state.learned).actor))
    if state.memory is not None:
        assert np.abs(np.asarray(state.memory.ring.observation.privileged)[:4]).min() >= 0.5
