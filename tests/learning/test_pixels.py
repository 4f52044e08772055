"""Off-policy learners on a world that is seen through pictures."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from driven import Driven

from penstock._errors import ConfigurationError
from penstock.algorithms.registry import ALGORITHMS, family
from penstock.data import Batch
from penstock.networks import PixelEncoder
from penstock.worlds import FunctionalWorld, Observation, ObservationSpec, Vmapped
from penstock.worlds.check import check_world
from tests.learning.pixel_worlds import MovingDot, dot

OFF_POLICY = [pytest.param(n, marks=[] if n == "sac" else pytest.mark.slow) for n in family("off-policy")]
TINY = {"batch_size": 4, "warmup_steps": 4, "collect_steps": 2, "replay_capacity": 16, "actor_hidden": (8,)}


def world(num_envs=2, **settings):
    return FunctionalWorld("tiny/dot", Vmapped(MovingDot(**settings)), num_envs)


def learner(name, on, planned, **settings):
    critic = (8, 8, 8) if name == "flowrl" else (8,)
    config = ALGORITHMS[name].config.of(**{**TINY, "critic_hidden": critic, **settings})
    return Driven(ALGORITHMS[name].learner(config, on, planned))


def pictures(generator, size):
    place = generator.uniform(-0.8, 0.8, (2, size)).astype(np.float32)
    return place, Observation(jnp.zeros((size, 0)), pixels=jax.jit(jax.vmap(dot))(*place))


@pytest.mark.parametrize("name", OFF_POLICY)
def test_one_gradient_step_trains_every_layer_of_the_encoders(name):
    algorithm = learner(name, world(moves=True), 4, policy_delay=1)
    generator = np.random.default_rng(0)
    batch = Batch(
        pictures(generator, 4)[1],
        jnp.asarray(generator.uniform(-0.9, 0.9, (4, 1)), jnp.float32),
        jnp.asarray(generator.normal(size=4), jnp.float32),
        jnp.full((4,), 0.9),
        pictures(generator, 4)[1],
    )

    @jax.jit
    def start_and_step(key):
        learned = algorithm.init_learned(key)
        return learned, algorithm.gradient_step(learned, batch, key, jnp.asarray(0))

    before, (after, metrics) = start_and_step(jax.random.key(0))
    assert all(np.isfinite(float(value)) for value in metrics.values()), metrics
    assert metrics["critic/skipped"] == metrics["actor/skipped"] == 0.0
    for part in ("actor", "critic"):
        old, new = (getattr(learned, part).encoder for learned in (before, after))
        assert isinstance(new, PixelEncoder)
        for one, other in zip(jax.tree.leaves(old), jax.tree.leaves(new), strict=True):
            assert np.any(np.asarray(one) != np.asarray(other)), f"a layer of the {part}'s encoder has not moved"


@pytest.mark.slow
def test_a_whole_iteration_on_a_world_of_pictures():
    algorithm = learner("sac", world(moves=True), 4)
    step, state = jax.jit(algorithm.step), jax.jit(algorithm.init)(jax.random.key(0))
    for _ in range(3):
        state, metrics = step(state)
    assert metrics["train/gradient_steps"] == 2.0 and metrics["critic/skipped"] == metrics["actor/skipped"] == 0.0
    held = state.memory.ring.observation
    assert held.pixels.dtype == jnp.uint8 and held.vector.shape == (8, 2, 0)
    assert np.asarray(held.pixels[:6]).max(axis=(2, 3, 4)).min() > 200  # the dot is in every picture


@pytest.mark.parametrize("name", [*(pytest.param(n, marks=pytest.mark.slow) for n in ("shac", "sapo")), "rfo"])
def test_pathwise_learners_take_pictures_without_a_vector(name):
    """Shapes and types alone: no number is computed."""
    small = {"window": 4, "actor_hidden": (4,), "critic_hidden": (4,), "critic_minibatches": 2}
    algorithm = Driven(ALGORITHMS[name].learner(ALGORITHMS[name].config.of(**small), world(moves=True), 10))
    state = jax.eval_shape(algorithm.init, jax.random.key(0))
    after, _ = jax.eval_shape(algorithm.step, state)
    assert after.world.observation.pixels.dtype == jnp.uint8
    assert jax.tree.map(lambda leaf: leaf.shape, after) == jax.tree.map(lambda leaf: leaf.shape, state)


def test_a_world_of_pictures_alone_passes_the_checker():
    findings = check_world(world(num_envs=2, moves=True))
    assert not [f for f in findings if f.severity == "error"], findings
    assert any("0 observed numbers, 0 points, 32 x 32 x 1 pixels" in f.explanation for f in findings)


def test_a_picture_that_is_not_what_was_declared_is_found():
    for spec, sentence in (
        (ObservationSpec(0, pixels=(32, 32, 3)), "observation.pixels has shape"),
        (ObservationSpec(0), "observation_spec.vector = 0 must be"),
        (ObservationSpec(0, pixels=(32, 32, 0)), "must be None or (height, width, channels)"),
    ):
        found = check_world(world(observation_spec=spec))
        assert any(sentence in f.explanation for f in found if f.severity == "error"), (spec, found)


def test_pictures_that_are_too_small_are_refused():
    tiny = world(observation_spec=ObservationSpec(0, pixels=(16, 16, 1)))
    with pytest.raises(ConfigurationError, match=r"pixels = \(16, 16, 1\): height and width must lie between 32"):
        learner("sac", tiny, 4)


@pytest.mark.slow
@pytest.mark.optimized
@pytest.mark.parametrize("name", ["sac", "flowrl"])
def test_actions_answer_what_the_picture_shows(name):
    """a = x of the dot, whatever its y; a policy that does not see can do no better than a = 0."""
    own = {
        "sac": {"learn_temperature": False, "initial_temperature": 1e-3, "target_rate": 0.05},
        "flowrl": {"constraint_coefficient": 0.02},
    }
    settings = {
        "discount": 0.9,
        "batch_size": 32,
        "warmup_steps": 128,
        "collect_steps": 8,
        "replay_capacity": 4096,
        "actor_hidden": (32,),
        "critic_hidden": (32, 32, 32),
        "actor_learning_rate": 1e-3,
        "critic_learning_rate": 1e-3,
    }
    iterations = 60
    algorithm = learner(name, world(16), iterations, **{**settings, **own[name]})
    state = jax.jit(
        lambda key: jax.lax.fori_loop(0, iterations, lambda _, s: algorithm.step(s)[0], algorithm.init(key))
    )(jax.random.key(0))
    (x, _), seen = pictures(np.random.default_rng(0), 64)
    action = np.asarray(algorithm.agent(state).mode(seen).action[:, 0])
    error = np.sqrt(np.mean(np.square(action - x)))
    assert error < 0.15, f"{error:.3f}; without the picture: {x.std():.3f}"
