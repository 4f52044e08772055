"""RFO's regularizers inside an iteration: which data they see, chunks, and visual observations."""

import dataclasses
import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_worlds import Cloud, begin, compiled, differ, empty_window, learner, learning, same, vector, world

from penstock.algorithms.rfo import PlayedWindow, mean_flow_matching_loss
from penstock.policies import DeterministicAction
from penstock.worlds import Observation

ZERO = jnp.zeros((), jnp.int32)


def random_window(seed=0, **settings):
    """A recorded window with random observations and latents, decided anew at every step."""
    window, generator = empty_window("rfo", **settings), np.random.default_rng(seed)

    def random(leaf):
        return jnp.asarray(generator.normal(size=leaf.shape), leaf.dtype)

    observation = jax.tree.map(random, window.observation)
    return dataclasses.replace(
        window, observation=observation, latent=random(window.latent), decision=jnp.ones((4, 4), bool)
    )


def memory_of(window, valid=True):
    """What is remembered of a window."""
    return PlayedWindow(window.observation, window.latent, jnp.full(window.decision.shape, valid))


@functools.cache
def regularizers():
    """Compiled: losses and gradients by previous window, this window and number of the iteration."""
    program = compiled("rfo")

    @jax.jit
    def run(memory, window, update=ZERO):
        metrics = {}
        state = learning(program.start, memory=memory)
        state = dataclasses.replace(state, clock=dataclasses.replace(state.clock, update=update))
        gradients = program.learner.regularizer_gradients(state, window, metrics)
        return metrics["actor/past_loss"], metrics["actor/uniform_loss"], gradients

    return run


def test_past_term_sees_this_window_and_the_one_before_and_the_uniform_term_only_this():
    losses, nothing, window, before = (
        regularizers(),
        compiled("rfo").start.learned.memory,
        random_window(),
        random_window(1),
    )
    assert not nothing.valid.any()
    alone = losses(nothing, window)
    same(losses(memory_of(before, valid=False), window), alone)  # before the first window there is no past
    with_past = losses(memory_of(before), window)
    assert float(with_past[0]) != float(alone[0])
    same(with_past[1], alone[1])
    same(with_past[2]["uniform"], alone[2]["uniform"])

    # The mean over both windows: halves of what each gives, with the same noise.
    invalid = dataclasses.replace(window, decision=jnp.zeros((4, 4), bool))
    past_only = losses(memory_of(before), invalid)
    np.testing.assert_allclose(with_past[0], (alone[0] + past_only[0]) / 2, rtol=1e-5)
    # The uniform targets replace the latents of the window: these do not matter to it.
    moved = losses(nothing, dataclasses.replace(window, latent=window.latent + 1.0))
    assert float(moved[1]) == float(alone[1]) and float(moved[0]) != float(alone[0])


def test_noise_times_and_uniform_targets_are_fresh_in_every_iteration():
    losses, nothing, window = regularizers(), compiled("rfo").start.learned.memory, random_window()
    first, again, second = (losses(nothing, window, jnp.asarray(i))[:2] for i in (0, 0, 1))
    assert first == again
    assert first[0] != second[0] and first[1] != second[1]


def test_coefficient_and_reduction_scale_the_gradient():
    """Three times the coefficient and the mean over d = 2 entries: one and a half times the gradient."""
    window, state = random_window(), compiled("rfo").start
    _, _, reference = regularizers()(state.learned.memory, window)
    scaled = learner("rfo", uniform_coefficient=0.0, past_coefficient=0.6, flow_matching_reduction="mean")
    gradients = jax.jit(lambda window: scaled.regularizer_gradients(state, window, {}))(window)
    assert set(gradients) == {"past"} and set(reference) == {"past", "uniform"}
    np.testing.assert_allclose(vector(gradients["past"]), 1.5 * vector(reference["past"]), rtol=1e-4, atol=1e-5)


def test_memory_is_the_window_just_played():
    program = compiled("rfo")
    before = program.start
    after, _ = program.step(before)
    assert after.learned.memory.valid.all()
    # Raw observations of the states that were left, and the latents whose actions lead from each to the next.
    np.testing.assert_array_equal(after.learned.memory.observation.vector[0], before.world.observation.vector)
    step, place = jax.jit(program.learner.world.step), before.world
    for t in range(4):
        np.testing.assert_allclose(after.learned.memory.observation.vector[t], place.observation.vector, atol=1e-5)
        place, _ = step(place, jnp.tanh(after.learned.memory.latent[t]))
    later, _ = program.step(after)
    assert differ(later.learned.memory, after.learned.memory)


def test_chunks_run_with_resets_and_flow_matching_sees_decisions_only():
    program = compiled("rfo", chunk_length=2)
    state = program.start
    state = dataclasses.replace(state, world=dataclasses.replace(state.world, age=jnp.array([0, 1, 5, 4], jnp.int32)))
    after, metrics = program.step(state)
    # Episodes last 6 steps: environment 2 begins anew at step 1, environment 3 at step 2, when a plan is due anyway.
    expected = np.array([[1, 1, 1, 1], [0, 0, 1, 0], [1, 1, 1, 1], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(after.learned.memory.valid, expected)
    held = np.asarray(after.learned.memory.latent)
    assert held.shape == state.learned.memory.latent.shape == (4, 4, 4)  # C d = 2 * 2
    for t in range(1, 4):
        for env in range(4):
            assert (held[t, env] == held[t - 1, env]).all() == (not expected[t, env])
    assert all(np.isfinite(value) for value in metrics.values())
    assert differ(after.learned.actor, state.learned.actor) and differ(after.learned.critic, state.learned.critic)


@pytest.mark.slow
def test_visual_observations():
    """Points are remembered with the window, normalised nowhere, and the flow matching losses train the encoder."""
    algorithm = learner("rfo", world(Cloud()))
    state = algorithm.init(jax.random.key(0))
    after, _ = jax.eval_shape(algorithm.step, state)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), after) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), state
    )
    assert state.learned.memory.observation.points.shape == (4, 4, 3, 3)
    assert state.learned.normalizer.mean.shape == (1,)
    points = jax.random.normal(jax.random.key(1), (4, 4, 3, 3))
    data = PlayedWindow(Observation(jnp.ones((4, 4, 1)), points), jnp.ones((4, 4, 2)), jnp.ones((4, 4), bool))
    actor = eqx.tree_at(lambda a: a.policy.field.network.output.weight, state.learned.actor, jnp.ones((4, 4)))
    keys = jax.random.split(jax.random.key(2))
    gradient = jax.jit(jax.grad(mean_flow_matching_loss), static_argnums=5)(
        actor, state.learned.normalizer, data, *keys, "sum"
    )
    for leaf in jax.tree.leaves(gradient.encoder):
        assert np.isfinite(leaf).all() and np.abs(leaf).max() > 0


@pytest.mark.parametrize(
    ("name", "velocity"),
    [
        pytest.param("shac2", "gated", marks=pytest.mark.slow),
        pytest.param("rfo", "decoded", marks=pytest.mark.slow),
        pytest.param("rfo", "gated", marks=pytest.mark.slow),
        pytest.param("shac2", "decoded", marks=pytest.mark.slow),
    ],
)
def test_gated_and_decoded_velocities_learn_through_the_world(name, velocity):
    program = compiled(name, velocity=velocity, **({"policy": "flow"} if name == "shac2" else {}))
    after, metrics = program.step(program.start)
    assert differ(after.learned.actor.policy.field, program.start.learned.actor.policy.field)
    assert float(metrics["actor/gradient_norm"]) > 0 and float(metrics["actor/skipped"]) == 0.0


def test_a_velocity_that_cannot_shape_its_noise_is_told_of():
    short = learner("rfo", velocity="mlp", chunk_length=4)  # 8 latent entries, a last layer of 4
    (notice,) = short.opening_notices()
    assert notice.startswith("velocity = 'mlp': can shape its noise in 4 of 8 latent directions")
    assert "--velocity affine" in notice
    assert learner("rfo", velocity="mlp").opening_notices() == []
    assert learner("rfo", chunk_length=4).opening_notices() == []
    assert learner("shac2").opening_notices() == []


def test_the_agent_acts_without_noise_by_its_policys_rule():
    for name, rule in (("rfo", DeterministicAction("modal", 8)), ("shac2", DeterministicAction("zero"))):
        algorithm = learner(name)
        assert algorithm.agent(begin(algorithm)).deterministic == rule


def test_the_spread_is_measured_where_the_environments_are():
    """Of a field without shift, two steps of gain -2 leave nothing of the noise, and of gain 0 all of it."""
    program = compiled("rfo")
    last = lambda state: state.learned.actor.policy.field.network.output  # noqa: E731
    where = lambda state: (last(state).weight, last(state).bias)  # noqa: E731
    bias = jnp.array([0.0, 0.0, -2.0, 0.0])
    state = eqx.tree_at(where, program.start, (jnp.zeros_like(last(program.start).weight), bias))
    found = jax.jit(program.learner.measure)(state)
    assert float(found["policy/latent_std_min"]) == 0.0
    np.testing.assert_allclose(found["policy/latent_std_max"], 1.0, rtol=0.2)
    np.testing.assert_allclose(found["policy/latent_std"], found["policy/latent_std_max"] / 2, rtol=1e-6)
    assert float(found["policy/noise_rank"]) == 2.0
