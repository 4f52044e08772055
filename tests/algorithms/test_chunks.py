"""Action chunks and the critic: V is asked, and trained, at states of every phase of a chunk.

A chunk may be cut by a time limit or by a termination at any phase; both are compared with brute force in NumPy.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_worlds import begin, learner

from penstock.algorithms.window import phase_of
from penstock.networks import Normalizer
from penstock.worlds import FunctionalWorld, Observation, ObservationSpec, Outcome, SingleTask, Vmapped

CHUNK, WINDOW = 4, 8


class Counted(SingleTask):
    """Adds up its actions; terminates at its ``end``-th step, and tells both in its observation."""

    action_size: int = eqx.field(static=True, default=1)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(2))
    episode_length: int = eqx.field(static=True, default=100)
    control_timestep: float = eqx.field(static=True, default=1.0)
    end: int = eqx.field(static=True, default=1000)

    def initial(self, key):
        return jnp.stack([jax.random.uniform(key), jnp.zeros(())])

    def advance(self, state, action):
        after = jnp.stack([0.9 * state[0] + action[0], state[1] + 1.0])
        return after, Outcome(jnp.sin(after[0]) + 0.1 * after[1], after[1] >= self.end, {})

    def observe(self, state):
        return Observation(jnp.stack([state[0], 0.01 * state[1]]))


def values_by_hand(critic, observation, phase):
    """``(E, N)`` values, layer by layer in NumPy, of vectors ``(N, n)`` that are normalised already."""
    inputs = np.concatenate([observation, np.eye(CHUNK)[np.broadcast_to(phase, len(observation))]], axis=1)
    out = []
    for member in range(critic.size):
        network = jax.tree.map(lambda leaf, m=member: np.asarray(leaf[m], np.float64), critic.networks)
        h = inputs
        for layer in network.layers:
            h = h @ layer.linear.weight.T + layer.linear.bias
            h = (h - h.mean(1, keepdims=True)) / np.sqrt(h.var(1, keepdims=True) + 1e-5)
            h = h * layer.norm.weight + layer.norm.bias
            h = h / (1.0 + np.exp(-h))
        out.append((h @ network.output.weight.T + network.output.bias)[:, 0])
    return np.stack(out)


@pytest.mark.parametrize("ends", ["truncated", "terminated"])
@pytest.mark.parametrize("name", ["rfo", pytest.param("sapo", marks=pytest.mark.slow)])
def test_ends_at_every_phase_against_brute_force(name, ends):
    """Environment k ends its first episode at step k of the window; k = 8 does not. Everything else by NumPy."""
    num_envs = WINDOW + 1
    end = 1000 if ends == "truncated" else 50
    task = Counted(end=end, episode_length=50 if ends == "truncated" else 1000)
    algorithm = learner(
        name,
        FunctionalWorld("tiny/counted", Vmapped(task), num_envs),
        window=WINDOW,
        chunk_length=CHUNK,
        critic_passes=1,
        critic_minibatches=1,
        discount=0.9,
        td_lambda=0.7,
        normalize_observations=False,
    )
    state = begin(algorithm)
    gone = 49 - jnp.arange(num_envs)  # so many steps of the episode lie behind; the ninth has one more left
    body = jnp.stack([jnp.linspace(-1.0, 1.0, num_envs), gone.astype(jnp.float32)], axis=1)
    age = gone if ends == "truncated" else jnp.zeros_like(gone)
    state = eqx.tree_at(lambda s: (s.world.body, s.world.age), state, (body, age))
    seen = algorithm.world.task.observe(body)
    state = eqx.tree_at(lambda s: s.world.observation, state, seen)

    # What is not returned is not compiled: neither the actor's gradient nor its step.
    window, loss_of_step = jax.jit(lambda s: (algorithm.return_gradient(s)[1], algorithm.step(s)[1]["critic/loss"]))(
        state
    )
    flags = np.asarray(getattr(window, ends))
    for env in range(WINDOW):
        assert flags[env, env] and flags[:, env].sum() == 1
    assert not flags[:, WINDOW].any()

    observation, final = np.asarray(window.observation.vector), np.asarray(window.final_observation.vector)
    reward = np.asarray(window.reward + window.bonus, np.float64)
    loss = np.zeros(2)
    for env in range(num_envs):
        after = 0.0
        for t in reversed(range(WINDOW)):
            next_phase = (t + 1) % CHUNK
            both = values_by_hand(state.learned.critic, final[t, env][None], next_phase)[:, 0]
            asked = 0.0 if ends == "terminated" and flags[t, env] else both.mean()
            if flags[t, env] or t == WINDOW - 1:
                np.testing.assert_allclose(window.next_value[t, env], asked, rtol=1e-4, atol=1e-5)
                future = 0.0 if ends == "terminated" and flags[t, env] else both.min()
            elif next_phase == 0:
                future = 0.3 * both.min() + 0.7 * after
            else:
                future = after  # the future is committed: no value in between
            after = reward[t, env] + 0.9 * future
            told = values_by_hand(state.learned.critic, observation[t, env][None], t % CHUNK)[:, 0]
            loss += np.square(told - after) / (WINDOW * num_envs)
    np.testing.assert_allclose(loss_of_step, loss.sum(), rtol=1e-4)


class LastAction(SingleTask):
    """Shows the last action and pays it; time limit of 10 steps, which is no multiple of the chunk."""

    action_size: int = eqx.field(static=True, default=1)
    observation_spec: ObservationSpec = eqx.field(static=True, default=ObservationSpec(1))
    episode_length: int = eqx.field(static=True, default=10)
    control_timestep: float = eqx.field(static=True, default=1.0)

    def initial(self, key):
        return jnp.zeros((1,))

    def advance(self, state, action):
        return action, Outcome(action[0], jnp.zeros((), bool), {})

    def observe(self, state):
        return Observation(state)


@pytest.mark.slow
def test_values_inside_a_chunk_are_those_of_what_follows():
    """A policy that always plans 0.9, -0.6, 0.3, -0.3: after its i-th action the rest of the cycle is worth a sum.

    States inside a chunk show actions that no state at a decision ever shows; time limits fall on all phases.
    """
    plan, discount = np.array([0.9, -0.6, 0.3, -0.3]), 0.9
    algorithm = learner(
        "shac2",
        FunctionalWorld("tiny/last", Vmapped(LastAction()), 8),
        planned_updates=400,
        window=WINDOW,
        chunk_length=CHUNK,
        discount=discount,
        actor_learning_rate=1e-9,
        final_learning_rate=1e-9,
        critic_hidden=(32,),
        critic_learning_rate=5e-3,
        critic_passes=4,
        critic_minibatches=1,
        initial_log_std=-5.0,
        normalize_observations=False,
    )
    state = jax.jit(algorithm.init)(jax.random.key(0))
    where = lambda s: s.learned.actor.policy.network.output.bias  # noqa: E731
    bias = where(state).at[:CHUNK].set(jnp.arctanh(jnp.asarray(plan, jnp.float32)))
    state = eqx.tree_at(where, state, bias)
    state = jax.jit(lambda s: jax.lax.fori_loop(0, 400, lambda _, now: algorithm.step(now)[0], s))(state)
    cycle = [sum(discount**k * plan[(i + k) % CHUNK] for k in range(200)) for i in range(CHUNK)]
    for done in range(1, CHUNK + 1):
        last = Observation(jnp.asarray([[plan[done - 1]]], jnp.float32))
        told = state.learned.critic.values(last, Normalizer.create(1, False), done % CHUNK).min()
        np.testing.assert_allclose(told, cycle[done % CHUNK], atol=0.05)


def test_phases_of_a_window():
    np.testing.assert_array_equal(phase_of(jnp.arange(9), 4), [0, 1, 2, 3, 0, 1, 2, 3, 0])
    np.testing.assert_array_equal(phase_of(jnp.arange(3), 1), 0)


def test_without_chunks_the_critic_has_no_further_input():
    one, four = (begin(learner("rfo", chunk_length=length)).learned.critic for length in (1, 4))
    assert four.networks.layers[0].linear.weight.shape[-1] == one.networks.layers[0].linear.weight.shape[-1] + 4
    assert (one.phases, four.phases) == (1, 4)
