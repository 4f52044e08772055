"""Recurrent PPO and NFPO: what is remembered and forgotten, ratios, and the unrolled losses against NumPy."""

import dataclasses
import functools

import equinox as eqx
import gymnasium
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from penstock._errors import ConfigurationError
from penstock.algorithms import ppo
from penstock.algorithms.learner import Clock, Updated
from penstock.algorithms.sequences import sequence_of
from penstock.networks import Recurrence
from penstock.networks.recurrence import cleared
from penstock.training.drivers.functional import begin, iterate, seed_keys
from penstock.training.drivers.hosted import HostedDriver
from penstock.worlds import FunctionalWorld, Vmapped, make_world
from penstock.worlds.hosted.declared import declare_vector
from penstock.worlds.hosted.environments import EnvironmentSource, own_source
from penstock.worlds.hosted.hosted_world import HostedWorld
from tests.algorithms.test_ppo import DENSE
from tests.export.exported_agents import shaken
from tests.worlds.hosted_environments import Counting
from tests.worlds.test_history import Counter

TINY = {"window": 6, "epochs": 1, "minibatches": 1, "actor_hidden": (4,), "critic_hidden": (3,)}
KINDS = ("gru", "lstm")


def learner_of(world, kind="gru", size=3, **settings):
    return ppo.Learner(ppo.Config.preset(TINY, recurrent=kind, recurrent_size=size, **settings), world, 4)


def gathered(learner, windows=2):
    """State behind some windows in which nothing is learned, and the data of the last.

    Layers that begin at zero are shaken: what is remembered would not matter.
    """
    learner.update = lambda learned, data, key, clock: Updated(learned, {"data": data})
    iteration = jax.jit(lambda state: iterate(learner, state)[:2])
    state = begin(learner, jax.random.key(2))
    state = eqx.tree_at(lambda state: state.learned.actor.policy, state, replace_fn=lambda p: jax.tree.map(shaken, p))
    for _ in range(windows):
        state, metrics = iteration(state)
    del learner.update
    return state, metrics["data"]


# ------------------------------------------------------------------------------------------------- by hand


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def step_by_hand(recurrence, memory, x, weights=None):
    """Memory after one observation, in NumPy, float64."""
    cell, size = recurrence.cell, recurrence.size
    names = ("weight_ih", "weight_hh", "bias") + (("bias_n",) if hasattr(cell, "bias_n") else ())
    w = {name: np.asarray(getattr(cell, name), float) for name in names} if weights is None else weights
    if "bias_n" in w:
        given, kept = w["weight_ih"] @ x + w["bias"], w["weight_hh"] @ memory
        reset, stays = (sigmoid(given[part] + kept[part]) for part in (np.s_[:size], np.s_[size : 2 * size]))
        new = np.tanh(given[2 * size :] + reset * (kept[2 * size :] + w["bias_n"]))
        return (1.0 - stays) * new + stays * memory
    out, state = memory[:size], memory[size:]
    enter, forget, value, leave = np.split(w["weight_ih"] @ x + w["weight_hh"] @ out + w["bias"], 4)
    state = sigmoid(forget) * state + sigmoid(enter) * np.tanh(value)
    return np.concatenate([sigmoid(leave) * np.tanh(state), state])


def memories_by_hand(recurrence, vectors, forgets):
    """``(N, M)`` after all of ``(T, N, n)`` vectors; ``forgets (T, N)``: where memory is zeros behind the step."""
    memory = np.zeros((vectors.shape[1], recurrence.memory_size))
    for t, now in enumerate(np.asarray(vectors, float)):
        memory = np.stack([step_by_hand(recurrence, old, x) for old, x in zip(memory, now, strict=True)])
        memory[forgets[t]] = 0.0
    return memory


@pytest.mark.parametrize("kind", KINDS)
def test_a_cell_is_that_of_the_textbooks(kind):
    recurrence = Recurrence(jax.random.key(0), 2, 3, kind)
    generator = np.random.default_rng(0)
    memory, x = generator.standard_normal(recurrence.memory_size), generator.standard_normal((4, 2))
    begins = np.array([False, False, True, False])
    memories, out = recurrence.unroll(*(jnp.asarray(part, jnp.float32) for part in (memory, x)), jnp.asarray(begins))
    for t in range(4):
        memory = step_by_hand(recurrence, 0.0 * memory if begins[t] else memory, x[t])
        np.testing.assert_allclose(memories[t], memory, atol=1e-6)
        np.testing.assert_allclose(out[t], memory[:3], atol=1e-6)


# ------------------------------------------------------------------------------------------------- forgetting


@pytest.mark.parametrize("kind", KINDS)
def test_exactly_those_forget_whose_episode_ended(kind):
    """In compiled worlds: environments end after 2 to 4 steps, and windows of 6 begin in the middle of episodes."""
    world = FunctionalWorld("counter", Vmapped(Counter()), 7)  # which no action changes
    learner = learner_of(world, kind=kind)
    played, vectors, done = begin(learner, jax.random.key(2)).world, [], []
    step = jax.jit(world.step)
    for _ in range(12):
        vectors.append(played.observation.vector)
        played, transition = step(played, jnp.zeros((7, 1)))
        done.append(np.asarray(transition.done))
    assert 0 < done[-1].sum() < 7 and 0 < done[5].sum() < 7
    state, data = gathered(learner)
    vectors = np.stack(vectors) / np.float32(np.sqrt(1.0 + 1e-5))
    # Of what critics see, the privileged part is the first number; and it is not normalised.
    privileged = np.concatenate([vectors, vectors[..., :1] * np.sqrt(1.0 + 1e-5)], axis=2)
    for name, seen in (("actor", vectors), ("critic", privileged)):
        cell = getattr(state.learned, name).recurrence
        for memory, steps in ((data.memory, 6), (state.memory, 12)):
            found = getattr(memory, name)
            np.testing.assert_allclose(found, memories_by_hand(cell, seen[:steps], done[:steps]), atol=1e-5)
            np.testing.assert_array_equal(~np.asarray(found).any(axis=1), done[steps - 1])


class Ends(Counting):
    """Ends after 2 to 4 steps, as its offset says."""

    def reset(self, *, seed=None, options=None):
        observation, info = super().reset(seed=seed)
        self.ends = 2 + int(self.offset) % 3
        return observation / 100.0, info

    def step(self, action):
        observation, *rest = super().step(action)
        return observation / 100.0, *rest


def idle_world(num_envs):
    """Environments that spend a step on resetting themselves."""

    def make(count, seed=0):
        return gymnasium.vector.SyncVectorEnv([functools.partial(Ends, limit=9)] * count)

    source = EnvironmentSource("mine", make, 10, make)
    return HostedWorld(source, num_envs, declared=declare_vector(source, make(num_envs)))


@pytest.mark.parametrize("idle", [False, True], ids=["reset at once", "reset in a step of its own"])
def test_exactly_those_forget_in_worlds_of_the_host(idle):
    """And updates know where. What is asked of an environment that only resets itself is not remembered."""
    world = idle_world(5) if idle else HostedWorld(own_source("mine", functools.partial(Ends, limit=9)), 5)
    learner = learner_of(world, normalize_observations=False, actor_learning_rate=1e-12)
    driver = HostedDriver(learner, world.with_num_envs(1))
    states = driver.init(seed_keys(0, 2))
    assert states.memory.actor.shape == (2, 5, 3) and not states.memory.actor.any()
    names = {leaf.names for leaf in jax.tree.leaves(states.axes(world).memory)}
    assert names == {("seed", "environment", None)}
    seen = []
    for one in driver.worlds:
        step, vectors, done = one.step, [], []

        def watched(state, action, step=step, vectors=vectors, done=done):
            vectors.append(state.observation.vector)
            state, transition = step(state, action)
            done.append(transition.done | (False if transition.valid is None else ~transition.valid))
            return state, transition

        one.step = watched
        seen.append((vectors, done))
    cells = [states.seed(index).learned.actor.recurrence for index in range(2)]
    learn, windows = driver._learn, []
    driver._learn = lambda leaves, measured, data, *rest: windows.append(data) or learn(leaves, measured, data, *rest)
    states, metrics = driver.train(states, jnp.asarray(2))
    assert np.isfinite(metrics["critic/loss"]).all()
    for index, (vectors, done) in enumerate(seen):
        assert len(done) == 12 and 0 < done[-1].sum() < 5
        first, second = windows[2 * index :][:2]
        assert not first.memory.actor.any() and not first.memory.critic.any()
        begun = memories_by_hand(cells[index], np.stack(vectors[:6]), done[:6])
        np.testing.assert_allclose(second.memory.actor, begun, atol=1e-5)
        for data, forgets in ((first, done[:6]), (second, done[6:])):
            begins = np.asarray(sequence_of(data).begins)
            assert not begins[:, 0].any(), "what the window began with was cleared already"
            np.testing.assert_array_equal(begins[:, 1:], np.stack(forgets[:-1], axis=1))
        expected = memories_by_hand(cells[index], np.stack(vectors), done)
        np.testing.assert_allclose(states.memory.actor[index], expected, atol=1e-5)
        np.testing.assert_array_equal(~states.memory.critic[index].any(axis=1), done[-1])
    resumed = driver.resume(states)
    assert not resumed.memory.actor.any() and not resumed.memory.critic.any(), "every environment begins an episode"
    driver.close()


# ------------------------------------------------------------------------------------------------- ratios


def features_while_acting(agent, data):
    """``(H, N, features)`` that the policy saw, step after step."""

    def step(memory, now):
        observation, done = now
        memory, features = agent.recall(memory, observation)
        return cleared(memory, done), features

    return jax.lax.scan(step, data.memory.actor, (data.observation, data.truncated | data.terminated))[1]


@pytest.mark.parametrize(("policy", "kind"), [*((policy, "gru") for policy in DENSE), ("gaussian", "lstm")])
def test_ratios_are_one_before_the_first_gradient_step(policy, kind):
    """Unrolled windows have the densities with which was acted, whole or in minibatches; with one fault they have not.

    The windows begin and end in the middle of episodes.
    """
    world = make_world("classic/multi-goal", 4, episode_length=4)
    learner = learner_of(world, kind=kind, policy=policy)
    state, data = gathered(learner)
    assert np.asarray(data.truncated)[:-1].any() and np.asarray(data.memory.actor).all()
    agent = learner.agent(state.learned)
    acted = jax.vmap(jax.vmap(agent.actor.policy.log_prob))(features_while_acting(agent, data), data.record)
    of = jax.jit(lambda data: learner.samples(state.learned, data))
    samples = of(data)
    np.testing.assert_allclose(samples.log_prob, acted.T, atol=2e-5)
    some = jax.tree.map(lambda leaf: leaf[np.array([3, 1])], samples)
    again = learner._log_prob(agent.actor, some.observation, some.record, some.sequence)
    np.testing.assert_allclose(again, some.log_prob, atol=2e-5)
    for fault in (
        {"memory": jax.tree.map(jnp.zeros_like, data.memory)},
        {"terminated": ~data.valid, "truncated": ~data.valid},
    ):
        assert np.abs(of(dataclasses.replace(data, **fault)).log_prob - acted.T).max() > 1e-4


def test_entropy_and_spread_are_those_of_who_remembers():
    world = make_world("classic/multi-goal", 4, episode_length=4)
    learner = learner_of(world, state_dependent_std=True, entropy_coefficient=0.1)
    state, data = gathered(learner)
    learned, key = state.learned, jax.random.key(3)
    agent = learner.agent(learned)
    features = jnp.swapaxes(features_while_acting(agent, data), 0, 1)
    noise = jax.vmap(jax.vmap(agent.actor.policy.noise))(jax.random.split(key, features.shape[:2]))
    expected = -jax.vmap(jax.vmap(agent.actor.policy.draw_with_log_prob))(features, noise)[1]
    samples = learner.samples(learned, data)
    np.testing.assert_allclose(learner._entropy(agent.actor, samples, key), expected, atol=2e-5)
    last = jax.tree.map(lambda leaf: leaf[0], data.observation)
    told = learner.measure_remembering(learned, data.memory, last, key)["policy/latent_std"]
    _, log_std = jax.vmap(agent.actor.policy.mean_and_log_std)(features[:, 0])
    # Of 32 draws in each of four states, with the same noise for whoever remembers nothing.
    forgetful = learner.measure_remembering(learned, None, last, key)["policy/latent_std"]
    _, other = jax.vmap(agent.actor.policy.mean_and_log_std)(agent.features(last))
    exact = [jnp.sqrt(jnp.square(jnp.exp(one)).mean(axis=0)).mean() for one in (log_std, other)]
    np.testing.assert_allclose(told / forgetful - 1.0, exact[0] / exact[1] - 1.0, rtol=0.5)
    assert abs(exact[0] / exact[1] - 1.0) > 5e-5


# ------------------------------------------------------------------------------------------------- the losses


def flat_of(tree):
    return np.concatenate(
        [np.ravel(np.asarray(leaf, float)) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_array))]
    )


@pytest.mark.parametrize("kind", KINDS)
def test_unrolled_losses_and_their_gradients_are_those_of_numpy(kind):
    """Losses in NumPy, step by step; gradients by central differences."""
    with jax.enable_x64(True):
        world = make_world("classic/double-integrator", 2, episode_length=4)
        learner = learner_of(world, kind=kind, size=2, window=5, actor_hidden=(2,), critic_hidden=(2,))
        state, data = gathered(learner)
        learned = state.learned
        assert np.asarray(data.truncated)[:-1].any() and np.asarray(data.memory.actor).any()
        learned, data = jax.tree.map(
            lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf, (learned, data)
        )
        samples = learner.samples(learned, data)
        apart = 0.1 * jnp.sin(jnp.arange(samples.log_prob.size, dtype=float)).reshape(samples.log_prob.shape)
        samples = dataclasses.replace(samples, log_prob=samples.log_prob - apart)  # ratios none of which is clipped
        key = jax.random.key(0)
        losses = {
            "actor": lambda actor: learner._actor_loss(actor, samples, key)[0],
            "critic": lambda critic: learner._critic_loss(critic, samples),
        }
        given = {
            name: (float(loss(part)), flat_of(eqx.filter_grad(loss)(part)))
            for name, loss in losses.items()
            for part in (getattr(learned, name),)
        }
        numbers = jax.tree.map(np.asarray, (samples, data))
    samples, data = numbers
    begins, normal = samples.sequence.begins, samples.observation.vector
    latent = samples.record[..., 0]

    def with_numbers(part, flat):
        leaves, structure = jax.tree.flatten(eqx.filter(part, eqx.is_array))
        cuts = np.cumsum([leaf.size for leaf in leaves])[:-1]
        parts = [one.reshape(leaf.shape) for one, leaf in zip(np.split(flat, cuts), leaves, strict=True)]
        return jax.tree.unflatten(structure, parts)

    def features(part, start):
        names = ("weight_ih", "weight_hh", "bias") + (("bias_n",) if kind == "gru" else ())
        weights = {name: getattr(part.recurrence.cell, name) for name in names}
        made = np.zeros((*begins.shape, 2))
        for env in range(begins.shape[0]):
            memory = start[env]
            for t in range(begins.shape[1]):
                memory = np.zeros_like(memory) if begins[env, t] else memory
                memory = step_by_hand(part.recurrence, memory, normal[env, t], weights)
                made[env, t] = memory[:2]
        return made

    def network(net, x):
        return np.tanh(x @ net.layers[0].linear.weight.T + net.layers[0].linear.bias) @ net.output.weight.T + (
            net.output.bias
        )

    def actor_loss(flat):
        actor = with_numbers(learned.actor, flat)
        mean = network(actor.policy.network, features(actor, samples.sequence.start.actor))[..., 0]
        log_std = actor.policy.global_log_std[0]
        density = -0.5 * ((latent - mean) / np.exp(log_std)) ** 2 - log_std - 0.5 * np.log(2 * np.pi)
        ratio = np.exp(density - np.log(1.0 - np.tanh(latent) ** 2) - samples.log_prob)
        clipped = np.clip(ratio, 0.8, 1.2)
        return -np.minimum(ratio * samples.advantage, clipped * samples.advantage).mean()

    def critic_loss(flat):
        critic = with_numbers(learned.critic, flat)
        net = jax.tree.map(lambda leaf: leaf[0], critic.networks)
        value = network(net, features(critic, samples.sequence.start.critic))[..., 0]
        return 0.5 * np.square(value - samples.target).mean()

    for name, loss in {"actor": actor_loss, "critic": critic_loss}.items():
        flat = flat_of(getattr(learned, name))
        value, gradient = given[name]
        np.testing.assert_allclose(value, loss(flat), rtol=1e-8, atol=1e-12)
        steps = 1e-6 * np.eye(len(flat))
        slopes = np.array([(loss(flat + step) - loss(flat - step)) / 2e-6 for step in steps])
        np.testing.assert_allclose(gradient, slopes, atol=1e-8)
        assert (np.abs(slopes) > 1e-6).mean() > 0.8, "nearly every weight matters"


def test_what_comes_after_a_time_limit_is_judged_with_the_memory_of_its_episode():
    world = make_world("classic/double-integrator", 2, episode_length=4)
    learner = learner_of(world, gae_lambda=0.0, discount=0.5)
    state, data = gathered(learner)
    learned = state.learned
    samples = learner.samples(learned, data)
    critic = learned.critic
    net = jax.tree.map(lambda leaf: np.asarray(leaf[0], float), eqx.filter(critic.networks, eqx.is_array))

    def value(memory):
        hidden = np.tanh(net.layers[0].linear.weight @ memory + net.layers[0].linear.bias)
        return (net.output.weight @ hidden + net.output.bias)[0]

    seen, final = (
        np.asarray(learned.normalizer(part).vector, float) for part in (data.observation, data.final_observation)
    )
    ends = np.asarray(data.truncated)
    assert ends[:-1].any()
    for env in range(2):
        memory = np.asarray(data.memory.critic[env], float)
        for t in range(learner.config.window):
            memory = step_by_hand(critic.recurrence, memory, seen[t, env])
            after = value(step_by_hand(critic.recurrence, memory, final[t, env]))
            np.testing.assert_allclose(samples.target[env, t], data.reward[t, env] + 0.5 * after, atol=1e-5)
            memory = 0.0 * memory if ends[t, env] else memory


def test_minibatches_are_whole_windows_of_environments():
    world = make_world("classic/double-integrator", 4, episode_length=4)
    learner = learner_of(world, minibatches=2)
    state, data = gathered(learner)
    learned = state.learned
    seen = []

    def watched(learned, batch, key):
        jax.debug.callback(lambda *parts: seen.append(jax.tree.map(np.asarray, parts)), batch.target, batch.sequence)
        return type(learner).gradient_step(learner, learned, batch, key)

    learner.gradient_step = watched
    ppo.Learner.update(learner, learned, data, jax.random.key(1), Clock.start())
    jax.effects_barrier()
    samples = learner.samples(learned, data)
    assert [target.shape for target, _ in seen] == [(2, 6), (2, 6)]
    rows = np.concatenate([target for target, _ in seen])
    order = [int(np.abs(np.asarray(samples.target) - row).sum(axis=1).argmin()) for row in rows]
    assert sorted(order) == [0, 1, 2, 3]
    starts = np.concatenate([sequence.start.actor for _, sequence in seen])
    np.testing.assert_array_equal(starts, np.asarray(data.memory.actor)[order])
    with pytest.raises(ConfigurationError, match="minibatches = 3: must divide num_envs = 4 with recurrent = 'gru'"):
        learner_of(world, minibatches=3)
