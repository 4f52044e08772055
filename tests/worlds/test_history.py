"""Histories: how they begin, go on and end, in functional and hosted worlds alike."""

import dataclasses
import functools

import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.observation import Observation, ObservationSpec
from penstock.worlds import FunctionalWorld, make_world
from penstock.worlds.hosted.environments import own_source
from penstock.worlds.hosted.hosted_world import HostedWorld
from penstock.worlds.task import Outcome, SingleTask, Task, Vmapped
from tests.worlds.hosted_environments import Counting

K = 3


def by_hand(present, final, done, idle=None):
    """Stacked vectors ``(T, N, K * n)``, to act on and finally, from those of every step.

    Args:
        present: ``(T + 1, N, n)`` to act on at every step.
        final: ``(T, N, n)`` before resets.
        done: ``(T, N)`` where an episode ended.
        idle: ``(T, N)`` where the environment only reset itself.
    """
    steps, num_envs, _ = final.shape
    on, last = np.zeros((steps + 1, num_envs, K * final.shape[2])), np.zeros((steps, num_envs, K * final.shape[2]))
    for env in range(num_envs):
        kept = [present[0, env]] * K
        on[0, env] = np.concatenate(kept)
        for t in range(steps):
            last[t, env] = np.concatenate([*kept[1:], final[t, env]])
            anew = done[t, env] or (idle is not None and idle[t, env])
            kept = [present[t + 1, env]] * K if anew else [*kept[1:], present[t + 1, env]]
            on[t + 1, env] = np.concatenate(kept)
    return on, last


def played(world, steps):
    """Vectors to act on, final vectors, and transitions."""
    step = jax.jit(world.step) if world.functional else world.step
    state = world.reset(jax.random.key(1))
    generator = np.random.default_rng(0)
    on, final, transitions = [state.observation.vector], [], []
    for _ in range(steps):
        action = generator.uniform(-1, 1, (world.num_envs, world.action_size)).astype(np.float32)
        state, transition = step(state, jnp.asarray(action) if world.functional else action)
        on.append(transition.observation.vector)
        final.append(transition.final_observation.vector)
        transitions.append(transition)
    return np.stack(on), np.stack(final), transitions


class Counter(SingleTask):
    """Observes (a number of the episode, age); ends by itself after as many steps as the number says."""

    action_size: int = 1
    observation_spec: ObservationSpec = ObservationSpec(2, privileged=1)
    episode_length: int = 4
    control_timestep: float = 0.1

    def initial(self, key):
        return jax.random.randint(key, (), 2, 7), jnp.zeros((), jnp.int32)

    def advance(self, state, action):
        number, age = state
        return (number, age + 1), Outcome(action[0], age + 1 >= number, {})

    def observe(self, state):
        vector = jnp.stack(state).astype(jnp.float32)
        return Observation(vector, privileged=vector[:1])


class Lanes(Task):
    """The same with the axis of environments at the end of every leaf."""

    env_axis = -1
    action_size: int = 1
    observation_spec: ObservationSpec = ObservationSpec(2, privileged=1)
    episode_length: int = 4
    control_timestep: float = 0.1

    def initial(self, key, num_envs):
        return jnp.stack(Vmapped(Counter()).initial(key, num_envs))

    def advance(self, state, action):
        (number, age), outcome = Vmapped(Counter()).advance(tuple(state), action)
        return jnp.stack([number, age]), outcome

    def observe(self, state):
        return Vmapped(Counter()).observe(tuple(state))


@pytest.mark.parametrize("task", [Vmapped(Counter()), Lanes()], ids=["axis first", "axis last"])
def test_functional_worlds_by_hand(task):
    plain = FunctionalWorld("counter", task, 5)
    world = plain.with_history(K)
    on, final, transitions = played(world, 12)
    present, ends, before = played(plain, 12)
    done = np.stack([np.asarray(one.done) for one in before])
    assert done.any(axis=0).all() and not done.all(axis=1).any(), "they end at different times"
    expected = by_hand(present, ends, done)
    np.testing.assert_array_equal(on, expected[0])
    np.testing.assert_array_equal(final, expected[1])
    for one, other in zip(transitions, before, strict=True):
        np.testing.assert_array_equal(one.observation.privileged, other.observation.privileged)
        for name in ("reward", "terminated", "truncated"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    assert world.observation_spec == ObservationSpec(2 * K, privileged=1, history=K)
    assert world.observation_spec.present == 2
    state = world.reset(jax.random.key(0))
    assert [names.names for names in jax.tree.leaves(world.axes(state).body)].count((None, "environment")) == (
        2 if task.env_axis else 0
    )


def test_hosted_worlds_by_hand():
    source = own_source("mine", functools.partial(Counting, limit=3))
    on, final, _ = played(HostedWorld(source, 2).with_history(K), 8)
    present, ends, before = played(HostedWorld(source, 2), 8)
    expected = by_hand(present, ends, np.stack([one.done for one in before]))
    np.testing.assert_array_equal(on, expected[0])
    np.testing.assert_array_equal(final, expected[1])


def test_environments_that_spend_a_step_on_resetting_themselves():
    from penstock.worlds.hosted.declared import declare_vector
    from penstock.worlds.hosted.environments import EnvironmentSource

    def make(count, seed=0):
        return gymnasium.vector.SyncVectorEnv([lambda i=i: Counting(limit=3 + i) for i in range(count)])

    source = EnvironmentSource("mine", make, 10, make)
    declared = declare_vector(source, make(2))
    plain = HostedWorld(source, 2, declared=declared)
    on, _, _ = played(plain.with_history(K), 9)
    present, ends, before = played(plain, 9)
    idle = np.stack([~one.valid for one in before])
    assert idle.any()
    expected, _ = by_hand(present, ends, np.stack([one.done for one in before]), idle)
    first = np.flatnonzero(idle.any(axis=1))[0] + 1
    np.testing.assert_array_equal(on[first:][idle[first - 1 :]], expected[first:][idle[first - 1 :]])
    steady = ~np.stack([one.done for one in before])
    np.testing.assert_array_equal(on[1:][steady], expected[1:][steady])


def test_other_worlds_of_one_kind_keep_their_history():
    world = HostedWorld(own_source("mine", Counting), 2).with_history(2)
    others = world.with_num_envs(3), world.with_info(("age",)), world.filmed(), world.for_evaluation()
    assert all(other.observation_spec == world.observation_spec for other in others)
    functional = make_world("classic/pendulum", 2).with_history(2)
    assert functional.with_num_envs(5).observation_spec.vector == functional.observation_spec.vector
    assert functional.for_evaluation().observation_spec.history == 2
    assert functional.task.scene(functional.reset(jax.random.key(0)).body, 0) is not None


def test_gradients_flow_through_what_was_seen_before():
    world = make_world("classic/double-integrator", 1).with_history(2)
    plain = make_world("classic/double-integrator", 1)

    def later(action, world, entries):
        state = world.reset(jax.random.key(0))
        state, _ = world.step(state, action)
        state, _ = world.step(state, jnp.zeros((1, 1)))
        return state.observation.vector[0, entries].sum()

    now = jax.grad(later)(jnp.ones((1, 1)) * 0.1, plain, np.arange(2))
    np.testing.assert_allclose(jax.grad(later)(jnp.ones((1, 1)) * 0.1, world, np.arange(2, 4)), now)
    assert float(jax.grad(later)(jnp.ones((1, 1)) * 0.1, world, np.arange(2))[0, 0]) != 0.0


@pytest.mark.parametrize(
    ("length", "spec", "sentence"),
    [
        (0, ObservationSpec(2), "history = 0: must be at least 1"),
        (2, ObservationSpec(0, pixels=(4, 4, 3)), "observes pixels alone"),
        (2, ObservationSpec(4, history=2), "has a history of 2 already"),
    ],
)
def test_what_cannot_be_stacked_is_refused(length, spec, sentence):
    task = dataclasses.replace(Counter(), observation_spec=spec)
    with pytest.raises(ConfigurationError, match=sentence):
        FunctionalWorld("counter", Vmapped(task), 1).with_history(length)
